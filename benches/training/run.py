#!/usr/bin/env python3
"""Our training step beside PyTorch's, in one run: the paper's models, batches of 16, 100 regions, dropout 0.1.

    cargo bench --workspace --bench step --no-run
    python benches/training/run.py --ours target/release/deps/step-HASH --work fc,pe,full,evaluate --texts padded
    python benches/training/run.py --ours … --texts real --peers eager,malloc,bf16
    python benches/training/run.py --ours … --device cuda --peers eager --steps 20     (ours built with --features cuda)
    python benches/training/run.py --ours … --device cuda --precision tf32 --peers tf32 --rows FILE

Each side runs in a process of its own, one after the other, `--rounds` times in turn; a process does `--steps` steps
after one that does not count (on a GPU: after three). Printed are medians, the ratio ours / PyTorch's, and the peaks of
resident memory; on a GPU, those of the whole GPU's memory in use, twenty times a second. On a CPU also how fast ours goes
through a step's matrix products, the time of all else included, beside the fastest of 8 products alone.

`padded`: all texts have 128 tokens, on both sides. `real`: lengths as Hateful Memes has them (mean 17, longest 88; drawn
from a log-normal distribution, the same for both); PyTorch pads them to 128, as MMF does, ours are padded to the longest
of their batch, as `train` does. Peers: `eager`; `malloc`, the same with a malloc that keeps its pages; `bf16`, that with
autocast; `tf32`, that with products in TF32; `compile`, that with torch.compile. `--precision` is that of our products.
`--rows` appends the rows of a Markdown table to FILE: the work, the side, ms a step, GB, and of ours both as ratios to
the first peer.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = dict(vocab_size=30522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
            max_position_embeddings=512, type_vocab_size=2)
CONFIGS = {
    "visualbert": TEXT | dict(visual_embedding_dim=2048),
    "vilbert": TEXT | dict(
        model_type="vilbert", v_feature_size=2048, v_hidden_size=1024, v_num_hidden_layers=6, v_num_attention_heads=8,
        v_intermediate_size=1024, bi_hidden_size=1024, bi_num_attention_heads=8, t_biattention_id=list(range(6, 12)),
        v_biattention_id=list(range(6))),
}
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
PEER = Path(__file__).parent / "peer.py"


def real_lengths(count, rng):
    """Token counts, [CLS] and [SEP] included."""
    return [max(3, min(88, round(math.exp(rng.gauss(math.log(15.3), 0.45))))) for _ in range(count)]


def texts(kind, steps, batch, seed):
    rng = random.Random(seed)
    return [[128] * batch if kind == "padded" else real_lengths(batch, rng) for _ in range(steps)]


def products(work):
    """The floating-point operations in VisualBERT's matrix products as ours computes them, step by step: the last layer
    for [CLS] alone, no gradient of what is frozen. What adapters and head add is left out, under 1%."""
    c, r = work["config"], work["regions"]
    h, inner, layers = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    found = []
    for lengths in work["texts"]:
        count = 0
        for length in (text + r for text in lengths):
            # Of one layer: what is done for each position that is attended to, and for each that is asked for.
            attended, asked = 2 * 2 * h * h, 2 * (2 * h * h + 2 * h * inner) + 2 * 2 * length * h
            first, last = length * (attended + asked), length * attended + asked
            projection = 2 * r * c["visual_embedding_dim"] * h
            forward = projection + (layers - 1) * first + last
            # Below the first layer's adapter nothing is trained in PE; two gradients a product in Full-FT, one of the regions.
            backward = {"fc": 0, "pe": (layers - 2) * first + last, "full": 2 * forward - projection}[work["mode"]]
            count += forward + backward
        found.append(count)
    return found


def by_length(texts, warm, batch):
    """The same texts, the longest first, in new batches; the first batches, which do not count, stay as they are."""
    lengths = sorted((length for lengths in texts[warm:] for length in lengths), reverse=True)
    return texts[:warm] + [lengths[at:at + batch] for at in range(0, len(lengths), batch)]


def gpu_memory():
    """MB in use on the first GPU, by all processes."""
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)


def append(file, work, precision, seconds, peaks):
    """A row for each side: the work, the side, its precision, ms, GB, and of ours the ratios to the first peer."""
    time = {side: statistics.median(took) for side, took in seconds.items()}
    peers = [side for side in time if side != "ours"]
    with file.open("a") as table:
        for side in time:
            ratios = "| | |"
            if side == "ours" and peers:
                ratios = f"| {time[side] / time[peers[0]]:.2f} | {peaks[side] / peaks[peers[0]]:.2f} |"
            name = f"ours, {precision}" if side == "ours" else f"PyTorch, {side}"
            table.write(f"| {work} | {name} | {1e3 * time[side]:.1f} | {peaks[side] / 1e3:.2f} {ratios}\n")


def run(command, work, more_env=()):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, tempfile.TemporaryFile("w+") as errors:
        json.dump(work, file)
        file.flush()
        environment = os.environ | dict(more_env)
        process = subprocess.Popen([*command, file.name], env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        peak = 0
        while work["device"] == "cuda" and process.poll() is None:
            peak = max(peak, gpu_memory())
            time.sleep(0.05)
        out, _ = process.communicate()
        errors.seek(0)
        if process.returncode != 0:
            sys.exit(f"{command}: {errors.read()[-2000:]}")
    answer = json.loads(out.splitlines()[-1])
    return answer | {"peak_mb": peak} if work["device"] == "cuda" else answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--model", default="visualbert", choices=CONFIGS)
    parser.add_argument("--work", default="fc,pe,full,evaluate")
    parser.add_argument("--texts", default="padded", choices=["padded", "real"])
    parser.add_argument("--peers", default="eager,malloc")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--evaluation-batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16"])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--product", action="store_true", help="only the matrix products, GFLOP/s")
    a = parser.parse_args()

    def speed(m, k, n):
        work = {"product": [m, k, n], "threads": a.threads, "device": "cpu"}
        return 2e-9 * m * k * n / min(run([a.ours], work)["seconds"])

    if a.product:
        for m, k, n in [(3648, 768, 768), (3648, 768, 3072), (3648, 3072, 768)]:
            print(f"{m} x {k} x {n}: {speed(m, k, n):.0f} GFLOP/s")
        return
    for name in a.work.split(","):
        work = dict(config=CONFIGS[a.model], mode="fc" if name == "evaluate" else name, evaluate=name == "evaluate",
                    threads=a.threads, regions=100, compile=False, precision=a.precision, device=a.device)
        warm = 1 if a.device == "cpu" else 3
        sides = ["ours", *(side for side in a.peers.split(",") if side)]
        seconds, peaks, speeds, peak = {side: [] for side in sides}, {}, [], 0
        for number in range(a.rounds):
            drawn = texts(a.texts, a.steps + warm, a.batch, number)
            sorts = a.texts == "real" and work["evaluate"]
            for side in sides:
                if side == "ours":
                    work["texts"] = by_length(drawn, warm, a.evaluation_batch) if sorts else drawn
                    work["pad"] = 128 if a.texts == "padded" else None
                    answer = run([a.ours], work)
                    if a.model == "visualbert" and a.device == "cpu":
                        peak = max(peak, speed(3648, 768, 3072))
                        done = zip(products(work)[warm:], answer["seconds"][warm:])
                        speeds += [1e-9 * count / took for count, took in done]
                else:
                    precision = side if side in ("tf32", "bf16") else "f32"
                    options = dict(texts=drawn, pad=128, compile=side == "compile", precision=precision)
                    env = {} if side == "eager" else KEEP_PAGES
                    answer = run([sys.executable, str(PEER)], work | options, env.items())
                took = answer["seconds"][warm:]
                seconds[side] += [sum(took) / a.steps] if sorts else took
                peaks[side] = max(peaks.get(side, 0), answer["peak_mb"])
        ours = statistics.median(seconds["ours"])
        digits = ".2f" if a.device == "cpu" else ".4f"
        share = f", {statistics.median(speeds):.0f} of {peak:.0f} GFLOP/s" if speeds else ""
        print(f"{a.texts} {name}: ours {ours:{digits}} s, {peaks['ours']:.0f} MB{share}", flush=True)
        if a.rows:
            append(a.rows, f"{name}, {a.texts}", a.precision, seconds, peaks)
        for side in sides[1:]:
            theirs = statistics.median(seconds[side])
            print(f"  {side} {theirs:{digits}} s, {peaks[side]:.0f} MB: ratio {ours / theirs:.2f}, "
                  f"memory {peaks['ours'] / peaks[side]:.2f}", flush=True)


if __name__ == "__main__":
    main()
