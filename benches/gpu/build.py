#!/usr/bin/env python3
"""Builds what on_gpu.sh runs, for a machine with an NVIDIA GPU that need not have Rust, a compiler or a network. Needs no GPU.

    python benches/gpu/build.py
    python benches/gpu/build.py --out target/gpu --capability 90

Where there is no nvcc, that of CUDA 13.0 is installed from Python wheels (about 500 MB) into a virtual environment, and the
programs are linked against stand-ins for CUDA's libraries; the real ones are found where the programs run. A first build takes
about 20 minutes on 2 cores, mostly candle's own kernels. Prints what it built.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ["nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-nvrtc==13.0.88",
          "nvidia-cuda-crt==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-cccl==13.0.85"]
# What cudarc links against, with the names that the libraries have at run time.
LIBRARIES = {"cuda": "libcuda.so.1", "nvrtc": "libnvrtc.so.13", "curand": "libcurand.so.10", "cublas": "libcublas.so.13",
             "cublasLt": "libcublasLt.so.13"}
BUILDS = [
    ["build", "--bin", "repro"],
    ["bench", "--no-run", "--workspace", "--bench", "step", "--bench", "detector"],
    ["test", "--no-run", "--package", "stages", "--lib", "--test", "parity", "--test", "device"],
]


def run(command, **options):
    print("+", " ".join(map(str, command)), file=sys.stderr)
    return subprocess.run(command, check=True, **options)


def functions(library):
    """The names of a library's functions, from cudarc's declarations of them."""
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--features", "cuda"], cwd=ROOT, check=True,
                              capture_output=True, text=True).stdout
    packages = json.loads(metadata)["packages"]
    source = Path(next(package["manifest_path"] for package in packages if package["name"] == "cudarc")).parent / "src"
    folder = {"cuda": "driver", "cublasLt": "cublaslt"}.get(library, library)
    return sorted(set(re.findall(r"pub unsafe fn ((?:cu|nvrtc)\w+)\(", (source / folder / "sys/mod.rs").read_text())))


def toolkit(venv):
    """CUDA's compiler from wheels, with stand-ins to link against."""
    python = venv / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", venv])
    found = list(venv.rglob("cu13/bin/nvcc"))
    if not found:
        run([python, "-m", "pip", "install", "--quiet", "--no-deps", *WHEELS])
        found = list(venv.rglob("cu13/bin/nvcc"))
    home = found[0].parents[1]
    links = home / "lib64"
    links.mkdir(exist_ok=True)
    for library, name in LIBRARIES.items():
        code = "".join(f"void {function}(void) {{}}\n" for function in functions(library))
        run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-xc", "-", "-o", links / f"lib{library}.so"],
            input=code, text=True)
    runtime = links / "libcudart.so"
    runtime.unlink(missing_ok=True)
    runtime.symlink_to(next(home.glob("lib/libcudart.so.*")))
    return home


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "target/gpu", help="folder for the programs")
    parser.add_argument("--venv", type=Path, default=ROOT / "target/cuda-tools", help="virtual environment to make or use")
    parser.add_argument("--capability", default="80", help="the oldest compute capability to build candle's kernels for")
    a = parser.parse_args()
    environment = os.environ | {"CUDA_COMPUTE_CAP": a.capability}
    if not shutil.which("nvcc"):
        home = toolkit(a.venv.absolute())
        environment |= {"CUDA_HOME": str(home), "NVCC": str(home / "bin/nvcc"), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    a.out.mkdir(parents=True, exist_ok=True)
    for arguments in BUILDS:
        profile = [] if arguments[0] == "bench" else ["--release"]
        command = ["cargo", *arguments, *profile, "--features", "cuda", "--message-format", "json-render-diagnostics"]
        messages = run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True).stdout
        for message in map(json.loads, messages.splitlines()):
            if message.get("executable") and message["reason"] == "compiler-artifact":
                target = a.out / message["target"]["name"]
                # Debug information is most of a program's size.
                run(["strip", "-o", target, message["executable"]])
                print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    date = datetime.date.today()
    (a.out / "built.txt").write_text(f"revision: {revision.strip()}\ndate: {date}\nroot: {ROOT}\n")


if __name__ == "__main__":
    main()
