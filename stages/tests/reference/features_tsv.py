"""Writes features of two pictures that nobody drew, as bottom-up attention's tsv has them, and the samples that want them:

    python stages/tests/reference/features_tsv.py stages/tests/fixtures/features
"""
import base64
import json
import pathlib
import struct
import sys

folder = pathlib.Path(sys.argv[1])
(folder / "samples").mkdir(parents=True, exist_ok=True)


def floats(*values):
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


boxes, values = floats(1, 2, 30, 40, 5, 6, 70, 80.5), floats(0, 1, 2, 10, 11, 12)
lines = [f"{name}\t640\t480\t2\t{boxes}\t{values}\n" for name in ("1", "2")]
(folder / "features.tsv").write_text("".join(lines))
(folder / "samples" / "dataset.json").write_text('{"dataset": "made up"}\n')
sample = lambda name: {"id": name, "image": f"{name}.png", "text": "", "label": 0, "split": "train"}
(folder / "samples" / "samples.jsonl").write_text("".join(json.dumps(sample(name)) + "\n" for name in ("2", "1")))
