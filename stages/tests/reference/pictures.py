"""Writes the fixtures of odd pictures, and what PIL makes of the CMYK one (its RGB bytes).

    python stages/tests/reference/pictures.py stages/tests/fixtures/pictures

Needs Pillow. The pictures show nothing: gradients of 16 by 12 pixels.
"""

import sys
from pathlib import Path

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
