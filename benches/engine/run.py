#!/usr/bin/env python3
"""Times engines on one graph and prints a Markdown table (medians of 5; wall time).

    run.py --repro target/release/repro [--steps 1000] [--tools repro,ninja,make] [--cases cold,noop,touch,cutoff]

cold: nothing was ever run; noop: nothing changed; touch: one source has a new time and the same bytes; cutoff: a
comment of one source changed, so one step runs and writes what it wrote before. No-ops are timed by hyperfine. Tools
that are not on PATH are left out. For dvc a cold run takes minutes: its lock is written without running it.
"""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import graph

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--repro", required=True)
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--tools", default="repro,repro-shell,ninja,make")
options.add_argument("--cases", default="cold,noop,touch,cutoff")
options.add_argument("--repeat", type=int, default=5)
options = options.parse_args()
cases = options.cases.split(",")
ours = str(pathlib.Path(options.repro).resolve())
COMMANDS = {
    "repro": [ours, "make", "-j", "2"],
    "repro-shell": [ours, "make", "-j", "2"],
    "ninja": ["ninja", "--quiet", "-j", "2"],
    "make": ["make", "-s", "-j", "2"],
    "dvc": ["dvc", "repro", "-q"],
    "snakemake": ["snakemake", "--cores", "2", "--quiet", "all"],
}
STATE = ["cache", "out", ".ninja_log", ".ninja_deps", ".snakemake"]
environment = dict(os.environ, DVC_NO_ANALYTICS="1")


def timed(tool, folder):
    begin = time.perf_counter()
    done = subprocess.run(COMMANDS[tool], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, f"{tool}: {done.stderr[-2000:]}"
    return seconds, done.stderr


def no_op(tool, folder):
    report = folder / "hyperfine.json"
    # Those that take seconds are run as often as a cold run.
    warmup, runs = ("1", str(options.repeat)) if tool in ("dvc", "snakemake") else ("5", "30")
    command = ["hyperfine", "-N", "--style", "none", "--warmup", warmup, "--runs", runs]
    subprocess.run(command + ["--export-json", report, " ".join(COMMANDS[tool])], cwd=folder, env=environment, check=True)
    return json.loads(report.read_text())["results"][0]["median"]


def seed_dvc(steps, folder):
    """What dvc would have after a cold run."""
    quiet = {"cwd": folder, "env": environment, "check": True, "capture_output": True}
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, **quiet)
    lock = {"schema": "2.0", "stages": {}}

    def entry(path):
        data = (folder / path).read_bytes()
        digest = hashlib.md5(data).hexdigest()
        if path.startswith("out/"):
            kept = folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
        return {"path": path, "hash": "md5", "md5": digest, "size": len(data)}

    for step in steps:
        subprocess.run(graph.line(step), shell=True, cwd=folder, check=True)
        deps = [entry(graph.out(read)) for read in step[1]]
        lock["stages"][step[0]] = {"cmd": graph.line(step), "deps": deps, "outs": [entry(graph.out(step[0]))]}
    (folder / "dvc.lock").write_text(json.dumps(lock))  # JSON is YAML
    timed("dvc", folder)


def measure(tool):
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        steps = graph.write(tool, options.steps, folder)
        source = folder / "src/0.txt"
        if tool == "dvc":
            seed_dvc(steps, folder)
        else:
            repeat = options.repeat if "cold" in cases else 1
            times = []
            for _ in range(repeat):
                for state in STATE:
                    shutil.rmtree(folder / state, ignore_errors=True)
                    (folder / state).unlink(missing_ok=True)
                (folder / "out").mkdir()
                times.append(timed(tool, folder)[0])
            if "cold" in cases:
                result["cold"] = statistics.median(times)
        if "noop" in cases:
            result["noop"] = no_op(tool, folder)
        if tool in ("dvc", "snakemake"):
            return result
        for case in ("touch", "cutoff"):
            times = []
            for number in range(options.repeat if case in cases else 0):
                if case == "touch":
                    os.utime(source)
                else:
                    source.write_text(f"# comment {number}\nvalue of src/0.txt\n")
                # Longer than a tick of the clock of files, as between an edit and the next command.
                time.sleep(0.05)
                seconds, output = timed(tool, folder)
                expected = "nothing to do" if case == "touch" else "1 step ran"
                assert not tool.startswith("repro") or expected in output, output
                times.append(seconds)
                # The next repetition begins where nothing is to be done.
                timed(tool, folder)
            if times:
                result[case] = statistics.median(times)
    return result


def shown(seconds):
    return "" if seconds is None else f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


print(f"| {options.steps} steps | " + " | ".join(cases) + " |")
print("| --- |" + " --- |" * len(cases))
for tool in options.tools.split(","):
    if tool.startswith("repro") or shutil.which(tool):
        result = measure(tool)
        print(f"| {tool} | " + " | ".join(shown(result.get(case)) for case in cases) + " |", flush=True)
