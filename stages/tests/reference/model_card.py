"""Runs the example of a model card as a user would, and compares its probabilities with those of `repro predict`.

    repro export hmd-pe-train --to huggingface --out run
    python stages/tests/reference/model_card.py REPRO hmd-pe-train run PICTURE TEXT    (pip install torch transformers numpy)

REPRO is the program. It runs in the project's folder.
"""

import ast
import os
import pathlib
import re
import subprocess
import sys
import tempfile

program, run, folder, picture, text = sys.argv[1:]
card = pathlib.Path(folder, "README.md").read_text()
example = re.search(r"```python\n(.*?)```", card, re.S)[1]
names = re.search(r"^FOLDER, PICTURE, TEXT = .*$", example, re.M)[0]
example = example.replace(names, f"FOLDER, PICTURE, TEXT = {folder!r}, {picture!r}, {text!r}")
with tempfile.TemporaryDirectory() as bin:
    os.symlink(os.path.abspath(program), f"{bin}/repro")
    example = example.replace('"meme.npy"', repr(f"{bin}/meme.npy"))
    environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", example], env=environment, check=True, stdout=subprocess.PIPE, text=True)
# P(class 1), or the probability of each of more classes.
found = ast.literal_eval(done.stdout.splitlines()[-1])
found = list(found.values()) if isinstance(found, dict) else [found]
predict = [program, "predict", run, "--image", picture, "--text", text]
ours = [float(p) for p in subprocess.run(predict, check=True, stdout=subprocess.PIPE, text=True).stdout.split()]
print(f"the example: {found}, repro predict: {ours}")
assert len(found) == len(ours) and all(abs(a - b) < 1e-5 for a, b in zip(found, ours))
