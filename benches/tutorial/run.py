#!/usr/bin/env python3
"""DVC's tutorial pipeline in DVC and in repro, action by action: commands, seconds and CPU seconds, as a Markdown
table.

    run.py --repro target/release/repro [--repeat 5] [--json FILE]

Both run the same scripts on the same posts with the same params (`examples/tutorial`), one after the other, action by
action. `dvc` and `git` must be on PATH. An edit of a file counts as no command. Each action begins with what the one before
left; all of it is repeated in new folders, and medians are printed. The metrics of both must be the same.
"""
import argparse
import csv
import io
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--repro", required=True)
options.add_argument("--repeat", type=int, default=5)
options.add_argument("--json")
options = options.parse_args()
HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
OURS = str(pathlib.Path(options.repro).resolve())
ENVIRONMENT = dict(os.environ, DVC_NO_ANALYTICS="1", GIT_CONFIG_COUNT="2", GIT_CONFIG_KEY_0="user.email",
                   GIT_CONFIG_VALUE_0="bench@example.org", GIT_CONFIG_KEY_1="user.name", GIT_CONFIG_VALUE_1="bench")


def run(folder, command):
    begin, cpu = time.perf_counter(), cpu_seconds()
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return (seconds, cpu_seconds() - cpu), done.stdout


def cpu_seconds():
    """User and system time of all that was run, the steps included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Dvc:
    name = "DVC"

    def __init__(self, folder):
        self.folder = folder
        for part in ["code", "data"]:
            (folder / part).mkdir(parents=True)
        for script in (EXAMPLES / "tutorial").glob("*.py"):
            shutil.copy(script, folder / "code")
        shutil.copy(HERE / "params.yaml", folder)
        posts = subprocess.check_output([sys.executable, folder / "code/draw.py", "2000", "1"])
        (folder / "data/posts.xml").write_bytes(posts)
        run(folder, ["git", "init", "-q"])

    def set_up(self):
        def stage(name, params, inputs, outputs, command):
            parts = [["-p", params]] if params else []
            parts += [["-d", path] for path in inputs] + outputs
            return ["dvc", "stage", "add", "-q", "-n", name, *sum(parts, []), f"python3 code/{name}.py {command}"]

        return [
            ["dvc", "init", "-q"],
            ["dvc", "add", "-q", "data/posts.xml"],
            stage("prepare", "prepare.split,prepare.seed", ["code/prepare.py", "data/posts.xml"], [["-o", "prepared"]],
                  "data/posts.xml prepared --split ${prepare.split} --seed ${prepare.seed}"),
            stage("featurize", "featurize.max_features,featurize.ngrams", ["code/featurize.py", "prepared"], [["-o", "features"]],
                  "prepared features --max-features ${featurize.max_features} --ngrams ${featurize.ngrams}"),
            stage("train", "train.seed,train.trees,train.min_split", ["code/train.py", "features"], [["-o", "model.json"]],
                  "features model.json --seed ${train.seed} --trees ${train.trees} --min-split ${train.min_split}"),
            stage("evaluate", None, ["code/evaluate.py", "model.json", "features"],
                  [["-o", "results/roc.csv"], ["-M", "results/metrics.json"]], "model.json features results"),
            ["git", "add", "-A"],
            ["git", "commit", "-qm", "pipeline"],
        ]

    def make(self):
        return [["dvc", "repro", "-q"]]

    def edit(self, param, value):
        edit(self.folder / "params.yaml", f"{param}: ", f"{param}: {value}")

    def comment(self):
        comment(self.folder / "code/train.py")

    def metrics(self):
        return json.loads((self.folder / "results/metrics.json").read_text())

    def experiment(self):
        return [["dvc", "exp", "run", "-q", "-S", "train.trees=30"]]

    def sweep(self):
        return [["dvc", "exp", "run", "-q", "--queue", "-S", "train.trees=10,15", "-S", "train.seed=1,2,3"],
                ["dvc", "exp", "run", "-q", "--run-all"]]

    def table(self):
        return [["dvc", "exp", "show", "--csv", "--sort-by", "roc_auc", "--sort-order", "desc"]]

    def best(self):
        rows = csv.DictReader(io.StringIO(run(self.folder, self.table()[0])[1]))
        return max(float(row["roc_auc"]) for row in rows if row["Experiment"])

    def compare(self):
        names = run(self.folder, ["dvc", "exp", "list", "--name-only"])[1].split()
        return [["dvc", "exp", "diff", *names[:2]]]


class Repro:
    name = "repro"

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        shutil.copy(EXAMPLES / "tutorial.ron", folder / "pipeline.ron")
        shutil.copytree(EXAMPLES / "tutorial", folder / "tutorial")

    def set_up(self):
        return []

    def make(self):
        return [[OURS, "make", "-j", "1"]]

    def edit(self, param, value):
        edit(self.folder / "pipeline.ron", f'"{param}": ', f'"{param}": {value}')

    def comment(self):
        comment(self.folder / "tutorial/train.py")

    def metrics(self):
        return json.loads((self.folder / "reports/default/metrics.json").read_text())

    def experiment(self):
        return [[OURS, "make", "-j", "1", "--set", "train.trees=30", "evaluate"]]

    def sweep(self):
        return [[OURS, "make", "-j", "1", "--sweep", "train.trees=10,15", "--sweep", "train.seed=1..3", "evaluate"]]

    def table(self):
        return [[OURS, "runs", "evaluate*", "--best", "roc_auc"]]

    def best(self):
        runs = json.loads(run(self.folder, [*self.table()[0], "--json"])[1])
        return max(value for run in runs for name, value in run["metrics"].items() if name.endswith("roc_auc"))

    def compare(self):
        runs = json.loads(run(self.folder, [OURS, "runs", "evaluate*", "--json"])[1])
        return [[OURS, "diff", *(run["key"][:12] for run in runs[:2])]]


def edit(file, before, after):
    """Replaces what follows `before` up to the end of the line or the next comma or brace."""
    text = file.read_text()
    begin = text.index(before)
    end = min(at for at in (text.find(mark, begin + len(before)) for mark in ",}\n") if at >= 0)
    file.write_text(text[:begin] + after + text[end:])


def comment(file):
    file.write_text(file.read_text() + "# A comment.\n")


def measure(tool):
    """Commands, seconds and CPU seconds by action."""
    found = {}

    def act(name, commands):
        times = [run(tool.folder, command)[0] for command in commands]
        found[name] = (len(commands), sum(wall for wall, _ in times), sum(cpu for _, cpu in times))

    act("declare the pipeline", tool.set_up())
    act("first run", tool.make())
    first = tool.metrics()
    act("nothing changed", tool.make())
    tool.edit("trees", 30)
    act("a param of train changed", tool.make())
    assert tool.metrics() != first
    tool.edit("trees", 20)
    act("back to its first value", tool.make())
    assert tool.metrics() == first
    tool.comment()
    act("a comment in the code of train", tool.make())
    assert tool.metrics() == first
    act("an experiment, train.trees=30", tool.experiment())
    act("a grid of 6 experiments", tool.sweep())
    act("all of them as a table, the best first", tool.table())
    act("two of them compared", tool.compare())
    first["best_roc_auc"] = tool.best()
    return found, first


rows, metrics = {}, set()
for repeat in range(options.repeat):
    for kind in [Dvc, Repro]:
        with tempfile.TemporaryDirectory() as folder:
            found, first = measure(kind(pathlib.Path(folder) / "project"))
        metrics.add(json.dumps(first))
        for action, (commands, *times) in found.items():
            rows.setdefault(action, {}).setdefault(kind.name, (commands, []))[1].append(times)
assert len(metrics) == 1, metrics
print("| action | DVC: commands | seconds | CPU | repro: commands | seconds | CPU |\n| --- | --- | --- | --- | --- | --- | --- |")
for action, tools in rows.items():
    cells = []
    for name in ["DVC", "repro"]:
        commands, times = tools[name]
        cells += [str(commands), *(f"{statistics.median(column):.3f}" for column in zip(*times))]
    print(f"| {action} | {' | '.join(cells)} |")
if options.json:
    pathlib.Path(options.json).write_text(json.dumps(rows, indent=1))
