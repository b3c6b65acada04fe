#!/usr/bin/env python3
"""What the sandboxes of a command cost: the least seconds of five runs of three Python programs.

    benches/sandbox/run.py target/release/repro
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("repro", help="the program")
options.add_argument("--python", default=sys.executable, help="what runs the programs (default: the one that runs this)")
options = options.parse_args()
REPRO, PYTHON = os.path.abspath(options.repro), options.python
RUNS = 5
PROGRAMS = {
    "start": "import json, re, random, email, http.client, unittest",
    "files": "import os\nfor n in range(3):\n    for name in os.listdir('data'): open('data/' + name).read()",
    "compute": "x = 0\nfor i in range(12_000_000): x += i * i",
}
MODES = ("off", "report", "strict")


def step(name, mode):
    return (f'(name: "{name}-{mode}", stage: "command", inputs: {{"script": "./{name}.py", "data": "./data"}}, '
            f'params: (run: ["{PYTHON}", "{{input.script}}"], sandbox: "{mode}"))')


with tempfile.TemporaryDirectory() as folder:
    project = pathlib.Path(folder)
    (project / "data").mkdir()
    for number in range(3000):
        (project / "data" / str(number)).write_text("x" * 100)
    for name, text in PROGRAMS.items():
        (project / f"{name}.py").write_text(text)
    steps = ",\n".join(step(name, mode) for name in PROGRAMS for mode in MODES)
    (project / "pipeline.ron").write_text(f"(steps: [\n{steps}\n])")
    times = {}
    for _ in range(RUNS):
        for name in PROGRAMS:
            for mode in MODES:
                target = f"{name}-{mode}"
                subprocess.run([REPRO, "make", target, "--force", target], cwd=project, check=True, capture_output=True)
                said = subprocess.run([REPRO, "runs", target, "--json"], cwd=project, check=True, capture_output=True)
                times.setdefault(target, []).append(json.loads(said.stdout)[0]["seconds"])
    for name in PROGRAMS:
        print(name, *(f"{mode} {min(times[f'{name}-{mode}']):.2f} s" for mode in MODES))
