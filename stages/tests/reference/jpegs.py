"""Writes JPEG files of every kind, and what PIL makes of them.

    python stages/tests/reference/jpegs.py fixtures stages/tests/fixtures/pictures/jpeg
    python stages/tests/reference/jpegs.py table FOLDER
    REPRO_JPEGS=FOLDER cargo test --release -p stages --lib differences_to_pil -- --nocapture

The first writes the fixtures: small files and `checksums.json` (width, height, CRC-32 of PIL's RGB bytes). The second writes a larger set with
the RGB bytes themselves, from which the third prints the table of docs/fidelity.md. Needs Pillow, numpy, a C compiler and
libjpeg's header. The pictures show nothing: waves, noise and rectangles.
"""

import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

GRAY, RGB, YCCK = 1, 2, 5
# By mode: channels, libjpeg's number of the colours (0: the usual), factors of the components.
MODES = {
    "444": (3, 0, "1x1,1x1,1x1"),
    "422": (3, 0, "2x1,1x1,1x1"),
    "420": (3, 0, "2x2,1x1,1x1"),
    "440": (3, 0, "1x2,1x1,1x1"),
    "411": (3, 0, "4x1,1x1,1x1"),
    "441": (3, 0, "1x4,1x1,1x1"),
    "410": (3, 0, "4x2,1x1,1x1"),
    "3x1": (3, 0, "3x1,1x1,1x1"),
    "1x3": (3, 0, "1x3,1x1,1x1"),
    "mixed": (3, 0, "2x2,1x2,2x1"),
    "unequal": (3, 0, "4x1,1x1,2x1"),
    "fine_chroma": (3, 0, "1x1,2x2,1x1"),
    "gray": (1, GRAY, "2x2"),
    "rgb": (3, RGB, "1x1,1x1,1x1"),
    "cmyk": (4, 0, "1x1,1x1,1x1,1x1"),
    "ycck": (4, YCCK, "2x2,1x1,1x1,2x2"),
}
SIZES = [(33, 31), (16, 16), (61, 45), (1, 1), (7, 3), (130, 9), (3, 70), (2, 2), (64, 48)]
# Quality (below 25 with steps of 16 bits), scans, restart interval.
KINDS = [(75, 0, 0), (90, 1, 0), (30, 0, 3), (97, 2, 0), (10, 1, 2), (85, 3, 1), (60, 0, 7), (1, 1, 0)]

random = np.random.default_rng(23)


def picture(width, height, channels, kind):
    y, x = np.mgrid[0:height, 0:width]
    if kind == 0:
        waves = np.stack([x * (0.05 + 0.1 * i) + y * (0.3 - 0.07 * i) for i in range(channels)], -1)
        values = 127 + 100 * np.sin(waves) + random.normal(0, 4, waves.shape)
    elif kind == 1:
        values = np.full((height, width, channels), 90.0)
        for _ in range(9):
            left, right = sorted(random.integers(0, width + 1, 2))
            top, bottom = sorted(random.integers(0, height + 1, 2))
            values[top:bottom, left:right] = random.integers(0, 2, channels) * 255
    else:
        values = random.integers(0, 256, (height, width, channels))
    return np.clip(values, 0, 255).astype(np.uint8)


def main(what, folder):
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    with tempfile.TemporaryDirectory() as work:
        encoder, raw = f"{work}/jpeg_encode", f"{work}/raw"
        subprocess.run(["cc", "-O1", "-o", encoder, Path(__file__).with_name("jpeg_encode.c"), "-ljpeg"], check=True)
        for place, (mode, (channels, colors, factors)) in enumerate(MODES.items()):
            for number, (quality, scans, restart) in enumerate(KINDS):
                # The fixtures have three kinds of each mode, in turn, and small pictures.
                if what == "fixtures" and (number + place) % 8 not in (0, 3, 5):
                    continue
                sizes = SIZES[:2] if what == "fixtures" else SIZES
                width, height = sizes[(place + number) % len(sizes)]
                name = f"{mode}-{width}x{height}-quality{quality}-scans{scans}-restart{restart}"
                picture(width, height, channels, number % (2 if what == "fixtures" else 3)).tofile(raw)
                words = [width, height, channels, colors, quality, scans, restart, factors, folder / f"{name}.jpg"]
                subprocess.run([encoder, raw, *map(str, words)], check=True)
                decoded = Image.open(folder / f"{name}.jpg").convert("RGB")
                checksums[name] = [*decoded.size, zlib.crc32(decoded.tobytes())]
                if what == "table":
                    (folder / f"{name}.rgb").write_bytes(decoded.tobytes())
    if what == "fixtures":
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(checksums.items())]
        (folder / "checksums.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(checksums)} files")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
