#!/usr/bin/env python3
"""What the program's build costs: processor seconds by crate, wall time, and the size of the program.

    benches/build/run.py                                     (README's first command, without its run)
    benches/build/run.py -- test --release --workspace --no-run
    benches/build/run.py --target FOLDER --keep --rows FILE  (keeps the build; appends the table to FILE)

Builds into an empty folder. Cargo calls this script in place of rustc (RUSTC_WRAPPER), and the script adds up the user and
system time of each rustc with the linker that it starts. The row "build scripts" is the rest: the programs that build.rs
files become, their C compilers, and cargo itself. Processor seconds depend on what else the machine does; a wall time
counts only on an idle machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOG = "REPRO_BUILD_LOG"


def spent():
    """Processor seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compile_one(command):
    """In place of rustc: compiles and appends one line about it to the log."""
    # Rustc shares out the processors with cargo through files that cargo has opened.
    code = subprocess.run(command, check=False, close_fds=False).returncode
    if "--crate-name" in command:
        place = command.index("--crate-name") + 1
        kinds = [command[i + 1] for i, word in enumerate(command[:-1]) if word == "--crate-type"]
        own = resource.getrusage(resource.RUSAGE_SELF)
        line = json.dumps({
            "crate": command[place],
            "kind": "test" if "--test" in command else ",".join(kinds),
            "seconds": spent(),
            "wrapper": own.ru_utime + own.ru_stime,
            "command": command,
            "folder": os.getcwd(),
            "environment": {name: value for name, value in os.environ.items() if name.startswith("CARGO_")},
        })
        # One write to a file opened for appending: lines of two compilers do not mix.
        with open(os.environ[LOG], "ab", buffering=0) as log:
            log.write(line.encode() + b"\n")
    return code


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="build here instead of in a temporary folder")
    parser.add_argument("--keep", action="store_true", help="start from what the folder holds, and leave the build there")
    parser.add_argument("--least", type=float, default=2.0, help="crates below these seconds share a row (default 2)")
    parser.add_argument("--log", type=Path, help="keep a JSON line for each call of rustc here")
    parser.add_argument("--rows", type=Path, help="append the table to this file")
    parser.add_argument("cargo", nargs="*", help="arguments for cargo (default: build --release)")
    options = parser.parse_args()
    command = options.cargo or ["build", "--release"]

    with tempfile.TemporaryDirectory(prefix="build-") as folder:
        target = (options.target or Path(folder) / "target").resolve()
        log = (options.log or Path(folder) / "log").resolve()
        if target.exists() and not options.keep:
            parser.error(f"{target} exists; --keep builds on what it holds")
        log.write_bytes(b"")
        environment = os.environ | {
            "RUSTC_WRAPPER": str(Path(__file__).resolve()), LOG: str(log), "CARGO_TARGET_DIR": str(target)}
        begun = time.monotonic()
        code = subprocess.run(["cargo", *command], cwd=ROOT, env=environment, check=False).returncode
        wall = time.monotonic() - begun
        if code != 0:
            return code
        calls = [json.loads(line) for line in log.read_text().splitlines()]
        program = target / "release" / "repro"
        text = table(calls, spent(), wall, options.least)
        if program.exists():
            text += f"\nThe program has {program.stat().st_size / 1e6:.1f} MB.\n"
    print(text, end="")
    if options.rows:
        with options.rows.open("a") as rows:
            rows.write(text)
    return 0


def table(calls, total, wall, least):
    """The seconds by crate as Markdown, the most expensive first."""
    seconds, times = defaultdict(float), defaultdict(int)
    for call in calls:
        name = f"{call['crate']} (test)" if call["kind"] == "test" else call["crate"]
        name = "build scripts, compiling them" if name == "build_script_build" else name
        seconds[name] += call["seconds"]
        times[name] += 1
    rest = total - sum(seconds.values()) - sum(call["wrapper"] for call in calls)
    seconds["build scripts"] = rest
    lines = ["| crate | rustc calls | CPU s |", "| --- | ---: | ---: |"]
    small = [name for name in seconds if seconds[name] < least]
    for name in sorted(seconds.keys() - set(small), key=lambda name: -seconds[name]):
        lines.append(f"| {name} | {times[name] or ''} | {seconds[name]:.1f} |")
    lines.append(f"| {len(small)} others | {sum(times[name] for name in small)} | {sum(seconds[name] for name in small):.1f} |")
    lines.append(f"| **all** | {len(calls)} | **{sum(seconds.values()):.0f}** |")
    return "\n".join(lines) + f"\n\n{sum(seconds.values()) / 60:.1f} CPU minutes in {wall / 60:.1f} minutes.\n"


if __name__ == "__main__":
    if LOG in os.environ:
        sys.exit(compile_one(sys.argv[1:]))
    sys.exit(main())
