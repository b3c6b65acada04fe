#!/usr/bin/env python3
"""The detector beside the same network in PyTorch, in one run, random weights.

    cargo bench --workspace --bench detector --no-run
    python3 benches/detector/run.py --ours target/release/deps/detector-HASH
    python3 benches/detector/run.py --ours … --model mini --pictures 400
    python3 benches/detector/run.py --ours … --device cuda --width 1067 --peers folded,tf32 --rows FILE
    python3 benches/detector/run.py --ours … --device cuda --pictures 40 --in-flight 4 --peers "" --rows FILE

Each side runs in a process of its own, one after the other, `--rounds` times in turn; the first picture of a process does
not count. Printed are medians, the ratio ours / PyTorch's, and the peaks of resident memory. Ours is the whole way from
pixels to chosen regions; PyTorch's ends with the class scores of the proposals. Peers: `plain`, as the original runs it;
`folded`, with the normalisations in the convolutions, as ours; `last`, that in the memory format channels_last; `tf32`,
`folded` with convolutions and products in TF32, cuDNN's default for convolutions on a GPU. `--in-flight` gives our
side so many pictures at once, as the stage does on a GPU, and prints the time of all over their number. `--rows` appends the rows of
a Markdown table to FILE: the picture, the side, ms, and the ratio ours / PyTorch's.
The peer needs what stages/tests/reference/faster_rcnn.py needs.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "stages" / "tests" / "reference"))
import faster_rcnn  # noqa: E402

PEER = Path(__file__).parent / "peer.py"
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
MODELS = {"x152": (faster_rcnn.X152, 1333, 800, 100), "mini": (faster_rcnn.MINI, 112, 112, 8)}


def run(command, work):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(work, file)
        file.flush()
        done = subprocess.run([*command, file.name], env=os.environ | KEEP_PAGES, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--model", default="x152", choices=MODELS)
    parser.add_argument("--peers", default="plain,folded,last")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--width", type=int, help="of the picture; the model's largest where left out")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--in-flight", type=int, default=1, help="pictures at once on our side")
    a = parser.parse_args()
    config, width, height, regions = MODELS[a.model]
    width = a.width or width
    work = dict(config=config, width=width, height=height, regions=regions, pictures=a.pictures, threads=a.threads,
                device=a.device, together=a.model == "mini", in_flight=a.in_flight)
    sides = ["ours", *(side for side in a.peers.split(",") if side)]
    seconds, peaks = {side: [] for side in sides}, {}
    for _ in range(a.rounds):
        for side in sides:
            if side == "ours":
                answer = run([a.ours], work)
            else:
                options = dict(folded=side != "plain", channels_last=side == "last", tf32=side == "tf32")
                answer = run([sys.executable, str(PEER)], work | options)
            seconds[side] += answer["seconds"]
            peaks[side] = max(peaks.get(side, 0), answer["peak_mb"])
    ours = statistics.median(seconds["ours"])
    print(f"{a.model} {width} x {height}: ours {ours:.4f} s a picture, {1 / ours:.1f} a second, {peaks['ours']:.0f} MB")
    if a.rows:
        with a.rows.open("a") as table:
            for side in sides:
                took = statistics.median(seconds[side])
                ratio = "" if side == "ours" else f"{ours / took:.2f}"
                name = f"{side}, {a.in_flight} in flight" if side == "ours" and a.in_flight > 1 else side
                table.write(f"| {a.model} {width} x {height} | {name} | {1e3 * took:.1f} | {ratio} |\n")
    for side in sides[1:]:
        theirs = statistics.median(seconds[side])
        print(f"  {side} {theirs:.4f} s, {peaks[side]:.0f} MB: ratio {ours / theirs:.2f}, "
              f"memory {peaks['ours'] / peaks[side]:.2f}")


if __name__ == "__main__":
    main()
