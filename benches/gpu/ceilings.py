#!/usr/bin/env python3
"""What the GPU can do at best, by PyTorch: copies, matrix products in three precisions, uploads, launches.

    python benches/gpu/ceilings.py --rows FILE
    python benches/gpu/ceilings.py --device cpu --shrink 16 --rows FILE     (to try the script)

Appends rows of a Markdown table (what, size, figure, unit) to FILE as they are measured. Products: a cube of 8192, then
those of BERT-base at 3,648 rows. An inner dimension of 2,304 or 9,216 is one of 768 or 3,072 with each factor split in
three; `cut` is that in parts of 3 x 384, as training computes it. `--shrink` divides all sizes.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

try:
    import torch
except ImportError:
    torch = None

ROWS, PART = 3648, 3 * 384


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shrink", type=int, default=1)
    a = parser.parse_args()
    if torch is None:
        sys.exit("no PyTorch: install it, or run this with a Python that has it")
    device, on_gpu = torch.device(a.device), a.device == "cuda"

    def size(count):
        return max(8, count // a.shrink)

    def wait():
        if on_gpu:
            torch.cuda.synchronize()

    def seconds(work, repeats=10, rounds=3):
        """Of one call: the median of `rounds`, each of `repeats` calls with one wait at the end."""
        work()
        wait()
        found = []
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            wait()
            found.append((time.perf_counter() - start) / repeats)
        return statistics.median(found)

    def row(what, dimensions, figure, unit):
        with a.rows.open("a") as table:
            table.write(f"| {what} | {dimensions} | {figure:.3g} | {unit} |\n")

    def product(what, m, k, n, parts=1):
        m, k, n = size(m), size(k), size(n)
        kind = torch.bfloat16 if what == "BF16" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = what == "TF32"
        left = torch.randn(parts, m, k, device=device, dtype=kind)
        right = torch.randn(parts, k, n, device=device, dtype=kind)
        took = seconds(lambda: torch.bmm(left, right), repeats=5)
        cut = f", cut into {parts}" if parts > 1 else ""
        row(f"{what} product", f"{m} x {parts * k} x {n}{cut}", 2e-12 * parts * m * k * n / took, "TFLOP/s")

    values = size(1 << 30)
    source, target = torch.zeros(values, device=device), torch.zeros(values, device=device)
    row("copy", f"{8e-9 * values:.3g} GB read and written", 8e-12 * values / seconds(lambda: target.copy_(source)), "TB/s")
    del source, target

    one = torch.zeros(1, device=device)
    row("launch of an empty kernel", "1 value", 1e6 * seconds(lambda: one.add_(1), repeats=1000), "us")

    # The regions of a batch: 16 x 100 x 2048.
    batch = torch.zeros(size(16 * 100 * 2048))
    for what, memory in [("pageable", batch)] + ([("pinned", batch.pin_memory())] if on_gpu else []):
        took = seconds(lambda: memory.to(device, non_blocking=True, copy=True))
        row(f"upload, {what}", f"{4e-6 * batch.numel():.3g} MB", 1e3 * took, "ms")

    for what in ["SGEMM", "TF32", "BF16"]:
        product(what, 8192, 8192, 8192)
    for n in [768, 2304, 3072]:
        for k in [768, 3072]:
            product("SGEMM", ROWS, k, n)
            product("TF32", ROWS, 3 * k, n)
            product("TF32", ROWS, PART, n, parts=k // 384)
            product("BF16", ROWS, k, n)


if __name__ == "__main__":
    main()
