"""Writes the fixtures of odd pictures, and what PIL makes of the CMYK one (its RGB bytes).

    python stages/tests/reference/pictures.py stages/tests/fixtures/pictures

Needs Pillow, numpy and simplejpeg. The pictures show nothing: gradients of 16 by 12 pixels, and waves with noise in every
way to sample the colours of a JPEG file.
"""

import sys
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

out = Path(sys.argv[1])
rgb = Image.merge("RGB", [Image.linear_gradient("L").resize((16, 12)).rotate(90 * turn) for turn in range(3)])
palette = rgb.quantize(16)
palette.save(out / "palette.png")
palette.save(out / "transparent.png", transparency=3)
rgb.convert("RGBA").save(out / "alpha.png")
Image.new("I;16", (16, 12), 40000).save(out / "sixteen.png")
exif = Image.Exif()
exif[0x112] = 6
rgb.save(out / "turned.jpg", quality=90, exif=exif)
rgb.save(out / "turned.png", exif=exif)
rgb.save(out / "progressive.jpg", quality=90, progressive=True)
rgb.convert("CMYK").save(out / "cmyk.jpg", quality=95)
(out / "cmyk.rgb").write_bytes(Image.open(out / "cmyk.jpg").convert("RGB").tobytes())
frames = [palette, palette.rotate(180)]
frames[0].save(out / "moving.gif", save_all=True, append_images=frames[1:])
palette.save(out / "still.gif")
rgb.save(out / "moving.png", save_all=True, append_images=[rgb.rotate(180)])

random = np.random.default_rng(7)


def waves():
    y, x = np.mgrid[0:45, 0:61]
    channels = np.stack([x * 0.3 + y * 0.1, x * 0.05 - y * 0.2, y * 0.4], -1)
    values = 127 + 90 * np.sin(channels) + random.normal(0, 8, channels.shape)
    return np.ascontiguousarray(np.clip(values, 0, 255).astype(np.uint8))


sampling = out / "sampling"
sampling.mkdir(exist_ok=True)
for mode in ["444", "422", "420", "440", "411"]:
    file = simplejpeg.encode_jpeg(waves(), quality=75, colorspace="RGB", colorsubsampling=mode)
    (sampling / f"{mode}.jpg").write_bytes(file)
Image.fromarray(waves()).save(sampling / "420_progressive.jpg", quality=75, subsampling=2, progressive=True)
