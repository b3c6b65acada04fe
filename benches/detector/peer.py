#!/usr/bin/env python3
"""PyTorch's side of run.py: the detector of stages/tests/reference/faster_rcnn.py on a picture, timed in parts. It takes
the file that run.py writes and answers with one JSON line."""
import json
import resource
import sys
import time
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parents[2] / "stages" / "tests" / "reference"))
import faster_rcnn  # noqa: E402

work = json.loads(Path(sys.argv[1]).read_text())
torch.set_num_threads(work["threads"])
# What the reference makes without naming a device is made there too.
torch.set_default_device(work["device"])
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = work["tf32"]
if work["device"] == "cuda":
    # The reference's own goes box by box on the CPU. The two differ in whether the last pixel counts, not in work.
    faster_rcnn.nms = torchvision.ops.nms
detector = faster_rcnn.Detector(work["config"])
if work["folded"]:
    detector = detector.folded()
if work["channels_last"]:
    detector = detector.to(memory_format=torch.channels_last)
picture = faster_rcnn.picture(work["width"], work["height"])
seconds = []
with torch.inference_mode():
    for _ in range(work["pictures"] + 1):
        start = time.perf_counter()
        canvas, _ = detector.prepare(picture)
        canvas = canvas.to(work["device"])
        if work["channels_last"]:
            canvas = canvas.to(memory_format=torch.channels_last)
        levels = detector.levels(canvas)
        boxes = detector.proposals(levels, canvas)
        detector.describe(levels, boxes)
        if work["device"] == "cuda":
            torch.cuda.synchronize()
        # Choosing regions is not timed: the reference does it class by class in Python, which would be no fair race.
        seconds.append(time.perf_counter() - start)
print(json.dumps(dict(seconds=seconds[1:], peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
