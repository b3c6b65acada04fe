#!/usr/bin/env python3
"""Writes one layered graph of tiny steps for several engines.

    graph.py TOOL STEPS FOLDER

A tenth of the steps stand in the first layer; each drops the comment lines of a source of its own, so that an edited
comment changes an input and no output. A step of a later layer takes the first lines of two steps of the layer above
and marks them with its name.
"""
import argparse
import json
import pathlib
import sys


def graph(count):
    """Steps as (name, sources or steps read)."""
    width = max(2, count // 10)
    steps = []
    for number in range(count):
        layer, place = divmod(number, width)
        if layer == 0:
            steps.append((f"s{number}", [f"src/{place}.txt"]))
        else:
            above = (layer - 1) * width
            steps.append((f"s{number}", sorted({f"s{above + place}", f"s{above + (place + 1) % width}"})))
    return steps


def is_source(name):
    return name.startswith("src/")


def out(name):
    return name if is_source(name) else f"out/{name}"


def script(step):
    """What sed does. Each step marks its lines: steps that do the same on the same are one execution to repro."""
    return "/^#/d" if is_source(step[1][0]) else f"1!d;s/^/{step[0]} /"


def line(step):
    """The shell line of a step for engines that work in the project's folder."""
    name, reads = step
    files = " ".join(out(read) for read in reads)
    return f"sed -s '{script(step)}' {files} > {out(name)}"


def repro(steps, shell):
    text = ['(default_profile: "bench", profiles: [(name: "bench", about: "a layered graph")], steps: [']
    for name, reads in steps:
        refs = ", ".join(json.dumps(f"./{read}" if is_source(read) else f"{read}/t") for read in reads)
        sed = script((name, reads))
        if shell:
            run = f"""shell: "sed -s '{sed}' {{input.a}} > {{out}}/t\""""
        else:
            run = f'run: {json.dumps(["sed", "-s", sed, "{input.a}"])}, stdout: "t"'
        text.append(f'  (name: "{name}", stage: "command", inputs: {{"a": [{refs}]}}, params: ({run})),')
    return "\n".join(text + ["])", ""])


def write(tool, count, folder):
    steps = graph(count)
    read = {name for _, reads in steps for name in reads}
    last = [name for name, _ in steps if name not in read]
    root = pathlib.Path(folder)
    (root / "src").mkdir(parents=True, exist_ok=True)
    (root / "out").mkdir(exist_ok=True)
    for name in sorted(filter(is_source, read)):
        (root / name).write_text(f"# a comment\nvalue of {name}\n")
    if tool.startswith("repro"):
        (root / "pipeline.ron").write_text(repro(steps, tool == "repro-shell"))
    elif tool == "make":
        rules = [f"{out(s[0])}: {' '.join(map(out, s[1]))}\n\t@{line(s)}\n" for s in steps]
        (root / "Makefile").write_text("all: " + " ".join(map(out, last)) + "\n\n" + "\n".join(rules))
    elif tool == "ninja":
        rules = [f"build {out(s[0])}: run {' '.join(map(out, s[1]))}\n  line = {line(s)}\n" for s in steps]
        end = "build all: phony " + " ".join(map(out, last)) + "\ndefault all\n"
        (root / "build.ninja").write_text("rule run\n  command = $line\n\n" + "\n".join(rules) + end)
    elif tool == "dvc":
        text = "stages:\n"
        for step in steps:
            deps = "".join(f"    - {out(read)}\n" for read in step[1])
            text += f"  {step[0]}:\n    cmd: {json.dumps(line(step))}\n    deps:\n{deps}    outs:\n    - {out(step[0])}\n"
        (root / "dvc.yaml").write_text(text)
    elif tool == "snakemake":
        text = f"rule all:\n    input: {[out(name) for name in last]!r}\n\n"
        for step in steps:
            inputs = [out(read) for read in step[1]]
            text += f"rule {step[0]}:\n    input: {inputs!r}\n    output: {out(step[0])!r}\n    shell: {line(step)!r}\n\n"
        (root / "Snakefile").write_text(text)
    else:
        sys.exit(f"unknown tool {tool}")
    return steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=["repro", "repro-shell", "ninja", "make", "dvc", "snakemake"])
    parser.add_argument("steps", type=int)
    parser.add_argument("folder")
    options = parser.parse_args()
    write(options.tool, options.steps, options.folder)
