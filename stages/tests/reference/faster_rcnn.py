"""The detector of `models/faster_rcnn` in PyTorch, written from the published description and not from the Rust code:
the reference of its parity test, and the peer of `benches/detector`.

    python3 stages/tests/reference/faster_rcnn.py

writes ../fixtures/detector_parity.{json,safetensors}. Needs torch, torchvision (ROIAlign and the loop of NMS in C++),
opencv-python-headless (the original's resize), numpy, safetensors. Weights and pictures come from a formula that both
sides know, so only what the reference makes of them is kept.
"""
import json
import math
import pathlib
import sys
import zlib

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"
BASE = dict(
    stride_in_1x1=False, anchor_ratios=[0.5, 1.0, 2.0], sampling_ratio=2, class_nms=0.5,
    means_bgr=[102.9801, 115.9465, 122.7717])
X152 = BASE | dict(
    stem_width=64, blocks=[3, 8, 36, 3], groups=32, width_per_group=8, stage_widths=[256, 512, 1024, 2048],
    pyramid_width=512, anchor_sizes=[32.0, 64.0, 128.0, 256.0, 512.0],
    proposals=dict(before_nms=6000, nms=0.7, after_nms=1000, over_levels=2000), pooled_size=7, head_width=2048,
    classes=1601, min_size=800, max_size=1333, size_divisor=32)
MINI = BASE | dict(
    stem_width=24, blocks=[1, 1, 1], groups=4, width_per_group=8, stage_widths=[48, 64, 96], pyramid_width=48,
    anchor_sizes=[30.0, 48.0, 72.0, 104.0], anchor_ratios=[1.0],
    proposals=dict(before_nms=200, nms=0.6, after_nms=48, over_levels=48), pooled_size=4, head_width=128, classes=25,
    min_size=112, max_size=224, size_divisor=16)
TINY = BASE | dict(
    stem_width=8, blocks=[1, 2], groups=2, width_per_group=4, stage_widths=[16, 24], pyramid_width=12,
    anchor_sizes=[16.0, 32.0, 48.0], stride_in_1x1=True,
    proposals=dict(before_nms=150, nms=0.7, after_nms=60, over_levels=80), pooled_size=3, head_width=20, classes=7,
    min_size=64, max_size=100, size_divisor=16)
MEDIUM = BASE | dict(
    stem_width=32, blocks=[2, 2, 3, 2], groups=8, width_per_group=4, stage_widths=[64, 128, 192, 256],
    pyramid_width=64, anchor_sizes=[32.0, 64.0, 128.0, 256.0, 512.0],
    proposals=dict(before_nms=1000, nms=0.7, after_nms=300, over_levels=400), pooled_size=7, head_width=128,
    classes=41, min_size=160, max_size=260, size_divisor=32)
# name, config, width and height of the pictures, every how many-th value of a map is kept, regions
CASES = [
    ("tiny", TINY, [(64, 64), (97, 33), (31, 120), (1, 1)], 1, 12),
    ("medium", MEDIUM, [(200, 150), (90, 333), (410, 160)], 23, 36),
]


def scramble(x):
    """32 bits, scrambled; `x` is an array of uint32."""
    x = x.astype(np.uint32)
    with np.errstate(over="ignore"):
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        return x ^ (x >> np.uint32(16))


def drawn(name, count):
    """Numbers in [-1, 1) that follow from a tensor's name and their places in it."""
    start = np.uint32(zlib.crc32(name.encode()))
    with np.errstate(over="ignore"):
        at = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + start
    return (scramble(at) >> np.uint32(8)).astype(np.float32) * np.float32(2.0 ** -23) - np.float32(1.0)


GAINS = [("stem.conv1", 1 / 64), ("fpn_inner", 0.5), ("fpn_layer", 0.7), ("cls_logits", 0.5), ("bbox_pred", 0.15),
         ("cls_score", 0.3)]


def weight(name, shape):
    """A tensor by its name: kernels for ReLU networks, normalisations whose statistics fit about what they see."""
    count = math.prod(shape)
    if name.endswith("running_mean"):
        offset, scale = 0.0, 0.2
    elif name.endswith("running_var"):
        offset, scale = 1.0, 0.5
    elif len(shape) == 1 and name.endswith("bn3.weight"):
        offset, scale = 0.25, 0.05
    elif len(shape) == 1 and name.endswith("weight"):
        offset, scale = 1.0, 0.25
    elif len(shape) == 1:
        offset, scale = 0.0, 0.1
    else:
        gain = next((gain for part, gain in GAINS if part in name), 1.0)
        offset, scale = 0.0, gain * math.sqrt(6.0 / (count // shape[0]))
    values = np.float32(offset) + np.float32(scale) * drawn(name, count)
    return torch.from_numpy(values.reshape(shape))


def picture(width, height):
    """Coloured squares of 16 pixels with noise; [height, width, 3], red first."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    square = scramble(((y // 16) * 4096 + x // 16) * 4 + c) & 0xFF
    noise = scramble((y * 4096 + x) * 4 + c + 77) & 0x3F
    return (square * 3 // 4 + noise).astype(np.uint8)


class FrozenNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(width))

    def forward(self, x):
        scale = self.weight / self.running_var.sqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def conv(inputs, outputs, kernel, stride=1, groups=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Block(nn.Module):
    def __init__(self, inputs, width, outputs, stride, config):
        super().__init__()
        first, second = (stride, 1) if config["stride_in_1x1"] else (1, stride)
        self.conv1, self.bn1 = conv(inputs, width, 1, first), FrozenNorm(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, config["groups"]), FrozenNorm(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), FrozenNorm(outputs)
        self.downsample = None

    def forward(self, x):
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1, self.stem.bn1 = conv(3, config["stem_width"], 7, 2), FrozenNorm(config["stem_width"])
        inputs = config["stem_width"]
        self.count = len(config["blocks"])
        for stage, (blocks, outputs) in enumerate(zip(config["blocks"], config["stage_widths"])):
            layer = nn.Sequential()
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                width = config["groups"] * config["width_per_group"] << stage
                block = Block(inputs, width, outputs, stride, config)
                if number == 0:
                    block.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), FrozenNorm(outputs))
                layer.append(block)
                inputs = outputs
            setattr(self, f"layer{stage + 1}", layer)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem.bn1(self.stem.conv1(x))), 3, 2, 1)
        found = []
        for stage in range(self.count):
            x = getattr(self, f"layer{stage + 1}")(x)
            found.append(x)
        return found


class Detector(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, head = config["pyramid_width"], config["head_width"]
        self.backbone = nn.Module()
        self.backbone.body = Body(config)
        self.backbone.fpn = nn.Module()
        for stage, inputs in enumerate(config["stage_widths"], 1):
            setattr(self.backbone.fpn, f"fpn_inner{stage}", conv(inputs, width, 1, bias=True))
            setattr(self.backbone.fpn, f"fpn_layer{stage}", conv(width, width, 3, bias=True))
        ratios = len(config["anchor_ratios"])
        self.rpn = nn.Module()
        self.rpn.head = nn.Module()
        self.rpn.head.conv = conv(width, width, 3, bias=True)
        self.rpn.head.cls_logits = conv(width, ratios, 1, bias=True)
        self.rpn.head.bbox_pred = conv(width, 4 * ratios, 1, bias=True)
        self.roi_heads = nn.Module()
        self.roi_heads.box = box = nn.Module()
        box.feature_extractor, box.predictor = nn.Module(), nn.Module()
        box.feature_extractor.fc6 = nn.Linear(width * config["pooled_size"] ** 2, head)
        box.feature_extractor.fc7 = nn.Linear(head, head)
        box.predictor.cls_score = nn.Linear(head, config["classes"])
        box.predictor.bbox_pred = nn.Linear(head, 4 * config["classes"])
        self.load_state_dict({name: weight(name, tuple(old.shape)) for name, old in self.state_dict().items()})
        self.eval()

    def folded(self):
        """The same with every normalisation in the convolution before it, as a deployed network has it."""
        def fold(convolution, norm):
            scale = norm.weight / norm.running_var.sqrt()
            new = nn.Conv2d(convolution.in_channels, convolution.out_channels, convolution.kernel_size,
                            convolution.stride, convolution.padding, groups=convolution.groups)
            new.weight.data = convolution.weight.data * scale[:, None, None, None]
            new.bias.data = norm.bias - norm.running_mean * scale
            return new
        for module in list(self.modules()):
            for number in ("1", "2", "3"):
                if isinstance(getattr(module, "bn" + number, None), FrozenNorm):
                    setattr(module, "conv" + number, fold(getattr(module, "conv" + number), getattr(module, "bn" + number)))
                    setattr(module, "bn" + number, nn.Identity())
            if isinstance(getattr(module, "downsample", None), nn.Sequential):
                module.downsample = fold(*module.downsample)
        return self

    def prepare(self, rgb):
        config = self.config
        image = rgb[:, :, ::-1].astype(np.float32) - np.array(config["means_bgr"])
        height, width = image.shape[:2]
        scale = config["min_size"] / min(height, width)
        if round(scale * max(height, width)) > config["max_size"]:
            scale = config["max_size"] / max(height, width)
        image = cv2.resize(image.astype(np.float32), None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        height, width = image.shape[:2]
        divisor = config["size_divisor"]
        canvas = np.zeros((3, -(-height // divisor) * divisor, -(-width // divisor) * divisor), np.float32)
        canvas[:, :height, :width] = image.transpose(2, 0, 1)
        return torch.from_numpy(canvas)[None], scale

    def levels(self, canvas):
        stages = self.backbone.body(canvas)
        fpn, above, found = self.backbone.fpn, None, []
        for number in range(len(stages), 0, -1):
            lateral = getattr(fpn, f"fpn_inner{number}")(stages[number - 1])
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2, mode="nearest")
            found.insert(0, getattr(fpn, f"fpn_layer{number}")(above))
        found.append(F.max_pool2d(found[-1], 1, 2, 0))
        return found

    def proposals(self, levels, canvas):
        config, settings = self.config, self.config["proposals"]
        boxes, scores = [], []
        for number, level in enumerate(levels):
            stride = 4 << number
            anchors = grid(stride, config["anchor_sizes"][number], config["anchor_ratios"], *level.shape[2:])
            hidden = F.relu(self.rpn.head.conv(level))
            score = self.rpn.head.cls_logits(hidden)[0].permute(1, 2, 0).reshape(-1).sigmoid()
            ratios = len(config["anchor_ratios"])
            deltas = self.rpn.head.bbox_pred(hidden)[0].reshape(ratios, 4, *level.shape[2:])
            deltas = deltas.permute(2, 3, 0, 1).reshape(-1, 4)
            score, order = score.sort(descending=True, stable=True)
            score, order = score[:settings["before_nms"]], order[:settings["before_nms"]]
            box = decode(anchors[order], deltas[order])
            limit = torch.tensor([canvas.shape[3] - 1.0, canvas.shape[2] - 1.0] * 2)
            box = torch.minimum(box.clamp(min=0), limit)
            keep = suppress(box, settings["nms"], settings["after_nms"])
            boxes.append(box[keep])
            scores.append(score[keep])
        order = torch.cat(scores).sort(descending=True, stable=True).indices[:settings["over_levels"]]
        return torch.cat(boxes)[order]

    def describe(self, levels, boxes):
        config = self.config
        stages = len(config["blocks"])
        size = boxes[:, 2:] - boxes[:, :2] + 1
        level = (4 + torch.log2(size.prod(1).sqrt() / 224 + 1e-6)).floor().clamp(2, stages + 1).long() - 2
        side = config["pooled_size"]
        pooled = torch.zeros(len(boxes), config["pyramid_width"], side, side)
        for number in range(stages):
            rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)[level == number]
            pooled[level == number] = roi_align(
                levels[number], rois, side, 1 / (4 << number), config["sampling_ratio"], aligned=False)
        extractor = self.roi_heads.box.feature_extractor
        features = F.relu(extractor.fc6(pooled.flatten(1)))
        logits = self.roi_heads.box.predictor.cls_score(F.relu(extractor.fc7(features)))
        return features, logits.softmax(1)

    def choose(self, boxes, probabilities, most):
        overlapping = iou(boxes, boxes) > self.config["class_nms"]
        confidence = torch.zeros(len(boxes))
        for column in range(1, probabilities.shape[1]):
            scores = probabilities[:, column]
            order = scores.sort(descending=True, stable=True).indices
            keep = order[greedy(overlapping[order][:, order].numpy(), len(order))]
            confidence[keep] = torch.maximum(confidence[keep], scores[keep])
        return confidence.sort(descending=True, stable=True).indices[:most], confidence

    @torch.inference_mode()
    def detect(self, rgb, most):
        canvas, scale = self.prepare(rgb)
        levels = self.levels(canvas)
        proposals = self.proposals(levels, canvas)
        features, probabilities = self.describe(levels, proposals)
        chosen, confidence = self.choose(proposals, probabilities, most)
        return dict(canvas=canvas, levels=levels, proposals=proposals, boxes=proposals[chosen] / scale,
                    scores=confidence[chosen], objects=probabilities[chosen, 1:].argmax(1), features=features[chosen])


def grid(stride, size, ratios, height, width):
    """Anchors by row, column, ratio: a square of the stride's side reshaped with rounding, then scaled."""
    cells = []
    for ratio in ratios:
        w = np.round(math.sqrt(stride * stride / ratio))
        h = np.round(w * ratio)
        w, h = w * size / stride, h * size / stride
        centre = (stride - 1) / 2
        cells.append([centre - (w - 1) / 2, centre - (h - 1) / 2, centre + (w - 1) / 2, centre + (h - 1) / 2])
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    shifts = torch.stack([x, y, x, y], 2).reshape(-1, 1, 4).float()
    return (shifts + torch.tensor(cells, dtype=torch.float32)[None]).reshape(-1, 4)


def decode(anchors, deltas):
    size = anchors[:, 2:] - anchors[:, :2] + 1
    centre = anchors[:, :2] + 0.5 * size + deltas[:, :2] * size
    size = deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp() * size
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size - 1], 1)


def iou(a, b):
    low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low + 1).clamp(min=0).prod(2)
    area = lambda boxes: (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
    return shared / (area(a)[:, None] + area(b)[None] - shared)


def greedy(overlapping, most):
    """Of boxes, best first, those that no kept better one overlaps."""
    gone, keep = np.zeros(len(overlapping), bool), []
    for number in range(len(overlapping)):
        if not gone[number]:
            keep.append(number)
            gone |= overlapping[number]
            if len(keep) == most:
                break
    return keep


def suppress(boxes, threshold, most):
    return greedy((iou(boxes, boxes) > threshold).numpy(), most)


def main():
    from safetensors.torch import save_file
    torch.set_num_threads(2)
    kept, index = {}, []
    for name, config, sizes, every, regions in CASES:
        detector = Detector(config)
        index.append(dict(name=name, config=config, pictures=sizes, every=every, regions=regions))
        for number, (width, height) in enumerate(sizes):
            found = detector.detect(picture(width, height), regions)
            at = f"{name}.{number}"
            kept[f"{at}.canvas"] = found["canvas"].flatten()[::every].clone()
            for level, values in enumerate(found["levels"]):
                kept[f"{at}.level{level}"] = values.flatten()[::every].clone()
            for part in ("proposals", "boxes", "scores", "features"):
                kept[f"{at}.{part}"] = found[part].clone().contiguous()
            kept[f"{at}.objects"] = found["objects"].to(torch.int64)
            rms = [round(float(level.square().mean().sqrt()), 3) for level in found["levels"]]
            print(at, tuple(found["canvas"].shape), "levels", rms, "proposals", len(found["proposals"]),
                  "features", round(float(found["features"].square().mean().sqrt()), 3),
                  "scores", found["scores"][:3].tolist(), float(found["scores"].min()), file=sys.stderr)
    (FIXTURES / "detector_parity.json").write_text(json.dumps(index, indent=1) + "\n")
    save_file(kept, str(FIXTURES / "detector_parity.safetensors"))


if __name__ == "__main__":
    main()
