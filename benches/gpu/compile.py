#!/usr/bin/env python3
"""Compiles the CUDA kernels for each architecture that training supports, as the program does at its start: by NVRTC,
with common.cuh in front of each file. No GPU and no driver is needed.

    python benches/gpu/compile.py
    python benches/gpu/compile.py --kernels DIR --venv DIR

Prints a table: registers a thread, bytes of stack and of spills a thread, bytes of shared memory a block; then the file that
takes longest to compile, which the program waits for at its start. Exits with 1 if a file does not compile or a kernel spills.
The first run installs NVRTC's wheels (about 450 MB) into a virtual environment; later runs use it as it is.
"""

import argparse
import ctypes
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# NVRTC 13 no longer compiles for sm_70.
COMPILERS = {
    ("nvidia-cuda-nvrtc-cu12==12.9.86", "libnvrtc.so.12"): ["sm_70"],
    ("nvidia-cuda-nvrtc==13.0.88", "libnvrtc.so.13"): ["sm_80", "sm_90"],
}
RESOURCES = re.compile(
    r"Function properties for (?P<kernel>\w+)\n"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers(?P<more>.*)")
MOST_LINES = 30
COLUMNS = ["file", "kernel", "architecture", "registers", "stack", "spills", "shared memory"]


class Nvrtc:
    """NVRTC as a library of its own; https://docs.nvidia.com/cuda/nvrtc describes the calls."""

    def __init__(self, path):
        # NVRTC opens this one by name alone; once loaded it is found.
        ctypes.CDLL(str(next(path.parent.glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(path))

    def call(self, name, *arguments):
        return getattr(self.library, name)(*arguments)

    def compile(self, name, source, architecture):
        """Whether it compiled, and the compiler's log with what ptxas reports of each kernel."""
        program = ctypes.c_void_p()
        created = self.call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        if created != 0:
            return False, f"nvrtcCreateProgram: error {created}"
        options = [f"--gpu-architecture={architecture}".encode(), b"--ptxas-options=-v"]
        array = (ctypes.c_char_p * len(options))(*options)
        compiled = self.call("nvrtcCompileProgram", program, len(options), array) == 0
        size = ctypes.c_size_t()
        self.call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.call("nvrtcGetProgramLog", program, log)
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return compiled, log.value.decode()


def install(venv):
    """The compilers by architecture, installed where they are missing."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    compilers = {}
    for (package, library), architectures in COMPILERS.items():
        found = list(venv.rglob(library))
        if not found:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", package], check=True)
            found = list(venv.rglob(library))
        if not found:
            sys.exit(f"{package} has no {library}")
        compilers |= dict.fromkeys(architectures, Nvrtc(found[0]))
    return compilers


def messages(log):
    """The log without what ptxas reports of each kernel, and without the warning that sm_70 is old."""
    expected = re.compile(r"ptxas info |ptxas +\. |.*are deprecated and may be removed|$")
    found = [line for line in log.splitlines() if not expected.match(line)]
    return found[:MOST_LINES] + [f"and {len(found) - MOST_LINES} more lines"] * (len(found) > MOST_LINES)


def rows(name, architecture, log):
    for found in RESOURCES.finditer(log):
        shared = re.search(r"(\d+) bytes smem", found["more"])
        spills = int(found["stores"]) + int(found["loads"])
        yield [name, found["kernel"], architecture, found["registers"], found["stack"], spills, shared[1] if shared else 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=Path, default=ROOT / "stages/src/nn/gpu/kernels", help="folder of the .cu files")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/cuda-tools", help="virtual environment to make or use")
    a = parser.parse_args()
    files = sorted(a.kernels.glob("*.cu"))
    if not files:
        parser.error(f"{a.kernels} has no .cu file")
    header = a.kernels / "common.cuh"
    common = header.read_text() if header.exists() else ""
    compilers = install(a.venv.absolute())
    table, failed, spilled, slowest = [], 0, 0, (0.0, "")
    for file in files:
        for architecture, nvrtc in compilers.items():
            source = f'#line 1 "{header.name}"\n{common}\n#line 1 "{file.name}"\n{file.read_text()}'
            begun = time.process_time()
            compiled, log = nvrtc.compile(file.name, source, architecture)
            slowest = max(slowest, (time.process_time() - begun, f"{file.name} for {architecture}"))
            for line in messages(log):
                print(f"{architecture}: {line}", file=sys.stderr)
            found = list(rows(file.name, architecture, log)) if compiled else []
            # A file without a kernel is a mistake, and so is a log that this script cannot read.
            if not found:
                failed += 1
                print(f"{file.name}: {'no kernel found' if compiled else 'does not compile'} for {architecture}", file=sys.stderr)
            spilled += sum(row[5] > 0 for row in found)
            table += found
    print("| " + " | ".join(COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for row in sorted(table, key=lambda row: row[:3]):
        print("| " + " | ".join(map(str, row)) + " |")
    print(f"\n{len(files)} files, {len({tuple(row[:2]) for row in table})} kernels; "
          f"failed: {failed}, with spills: {spilled}; slowest: {slowest[1]}, {slowest[0]:.1f} s")
    sys.exit(1 if failed or spilled else 0)


if __name__ == "__main__":
    main()
