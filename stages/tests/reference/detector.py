"""Writes ../fixtures/detector.pth: a detector of tiny dimensions as torch.save writes it, elements counting up from the
tensor's place in the list times 100. With PyTorch: python3 detector.py
"""
import collections
import pathlib

import torch

STEM, GROUP, WIDTH, PYRAMID, POOLED, HEAD, CLASSES = 2, 2, 3, 2, 2, 3, 3


def conv(name, norm, *shape):
    yield f"{name}.weight", shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", shape[:1]


def biased(name, *shape):
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def shapes():
    body, box = "backbone.body", "roi_heads.box"
    yield from conv(f"{body}.stem.conv1", f"{body}.stem.bn1", STEM, 3, 7, 7)
    block = f"{body}.layer1.0"
    yield from conv(f"{block}.downsample.0", f"{block}.downsample.1", WIDTH, STEM, 1, 1)
    yield from conv(f"{block}.conv1", f"{block}.bn1", GROUP, STEM, 1, 1)
    yield from conv(f"{block}.conv2", f"{block}.bn2", GROUP, GROUP, 3, 3)
    yield from conv(f"{block}.conv3", f"{block}.bn3", WIDTH, GROUP, 1, 1)
    yield from biased("backbone.fpn.fpn_inner1", PYRAMID, WIDTH, 1, 1)
    yield from biased("backbone.fpn.fpn_layer1", PYRAMID, PYRAMID, 3, 3)
    yield from biased("rpn.head.conv", PYRAMID, PYRAMID, 3, 3)
    yield from biased("rpn.head.cls_logits", 1, PYRAMID, 1, 1)
    yield from biased("rpn.head.bbox_pred", 4, PYRAMID, 1, 1)
    yield from biased(f"{box}.feature_extractor.fc6", HEAD, PYRAMID * POOLED * POOLED)
    yield from biased(f"{box}.feature_extractor.fc7", HEAD, HEAD)
    yield from biased(f"{box}.predictor.cls_score", CLASSES, HEAD)
    yield from biased(f"{box}.predictor.bbox_pred", 4 * CLASSES, HEAD)
    # Only training used it; the import leaves it out.
    yield f"{box}.predictor.cls_embed.weight", (3, 2)


tensors = collections.OrderedDict()
for place, (name, shape) in enumerate(shapes()):
    count = torch.Size(shape).numel()
    tensors[f"module.{name}"] = (torch.arange(count, dtype=torch.float32) + 100 * place).reshape(shape)
torch.save({"model": tensors}, pathlib.Path(__file__).parent.parent / "fixtures" / "detector.pth")
