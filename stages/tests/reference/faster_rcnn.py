"""The detector of `models/faster_rcnn` in PyTorch, written from a description of maskrcnn-benchmark and of MMF's
extraction, not from the Rust code: the reference of its parity test, and the peer of `benches/detector`.

    python3 stages/tests/reference/faster_rcnn.py

checks itself (`check`) and writes ../fixtures/detector_parity.{json,safetensors}. Needs torch, torchvision (ROIAlign; its
NMS is a check), opencv-python-headless (the original's resize), numpy, safetensors. Weights and pictures come from a
formula that both sides know, so only what the reference computes from them is kept.
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
import torchvision
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
# Four scales, three shapes of pictures each.
SCALES = TINY | dict(min_size=68, max_size=116)
SCALED = {
    0.4: [(170, 200), (220, 170), (170, 286)], 1.0: [(68, 90), (100, 68), (68, 116)],
    1.45: [(80, 40), (36, 80), (44, 80)], 6.8: [(10, 12), (14, 10), (10, 17)]}
# name, config, width and height of the pictures, every how many-th value of a map is kept, regions
CASES = [
    ("tiny", TINY, [(64, 64), (97, 33), (31, 120), (1, 1)], 1, 12),
    ("medium", MEDIUM, [(200, 150), (90, 333), (410, 160)], 23, 36),
    ("scales", SCALES, sum(SCALED.values(), []), 97, 40),
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
            keep = nms(box, score, settings["nms"])[:settings["after_nms"]]
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

    @torch.inference_mode()
    def detect(self, rgb, most):
        canvas, scale = self.prepare(rgb)
        levels = self.levels(canvas)
        proposals = self.proposals(levels, canvas)
        features, probabilities = self.describe(levels, proposals)
        chosen = choose(proposals, scale, probabilities, self.config["class_nms"], most)
        return chosen | dict(canvas=canvas, scale=scale, levels=levels, proposals=proposals,
                             probabilities=probabilities, features=features[chosen["proposal"]])


def choose(proposals, scale, probabilities, threshold, most):
    """The regions of a picture, as MMF's extraction script chooses them from the proposals on the canvas."""
    # 1. All that follows is in pixels of the original picture.
    boxes = proposals / scale
    # 2. The best probability of a class in which the box survives. Column 0 is the background.
    max_conf = torch.zeros(len(boxes))
    for column in range(1, probabilities.shape[1]):
        scores = probabilities[:, column]
        for index in nms(boxes, scores, threshold):
            if scores[index] > max_conf[index] and scores[index] > 0:
                max_conf[index] = scores[index]
    # 3. The most confident ones; the original leaves open which of equal ones comes first.
    order = max_conf.sort(descending=True, stable=True).indices[:most]
    # 4. What is recorded of them.
    return dict(proposal=order, boxes=boxes[order], scores=max_conf[order], objects=probabilities[order, 1:].argmax(1))


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


def nms(boxes, scores, threshold):
    """Indices of the boxes, best first, that no better one that is kept overlaps by more than `threshold`."""
    order = scores.sort(descending=True, stable=True).indices
    overlaps = (iou(boxes, boxes) > threshold)[order][:, order].numpy()
    gone, kept = np.zeros(len(order), bool), []
    for place in range(len(order)):
        if not gone[place]:
            kept.append(place)
            gone |= overlaps[place]
    return order[kept]


def check():
    """Holds each step against numbers from the description or computed by hand, and NMS against torchvision's."""
    cells = [((-22, -10, 25, 13), (-14, -14, 17, 17), (-10, -22, 13, 25)),
             ((-40, -20, 47, 27), (-28, -28, 35, 35), (-20, -44, 27, 51)),
             ((-84, -40, 99, 55), (-56, -56, 71, 71), (-36, -80, 51, 95)),
             ((-164, -72, 195, 103), (-112, -112, 143, 143), (-76, -168, 107, 199)),
             ((-332, -152, 395, 215), (-224, -224, 287, 287), (-148, -328, 211, 391))]
    for level, expected in enumerate(cells):
        size, stride = X152["anchor_sizes"][level], 4 << level
        shift = torch.tensor([stride, stride, stride, stride])
        expected = torch.tensor(expected).float()
        assert grid(stride, size, X152["anchor_ratios"], 2, 3)[12:15].equal(expected + shift), level
    # 20 by 10 around (10, 5): half its width to the right, as wide, half as high; the far corner has the −1.
    moved = decode(torch.tensor([[0.0, 0.0, 19.0, 9.0]]), torch.tensor([[0.5, 0.0, 0.0, -math.log(2)]]))
    assert torch.allclose(moved, torch.tensor([[10.0, 2.5, 29.0, 6.5]])), moved
    assert iou(torch.tensor([[2.0, 2.0, 3.0, 3.0]]), torch.tensor([[3.0, 3.0, 7.0, 3.0]])).item() == 1 / 8
    draw = torch.Generator().manual_seed(1)
    low, size, scores = (torch.rand(400, columns, generator=draw) for columns in (2, 2, 1))
    boxes = torch.cat([low * 60, low * 60 + size * 40], 1)
    inside = boxes + torch.tensor([0.0, 0.0, 1.0, 1.0])
    for threshold in (0.5, 0.7):
        assert nms(boxes, scores[:, 0], threshold).equal(torchvision.ops.nms(inside, scores[:, 0], threshold))
    # Side w, shifted by d across: the overlap is (w − d) / (w + d). On a picture enlarged 5 times, boxes of 16 pixels of
    # the canvas, shifted by 6, are 4 pixels, shifted by 1.2: 0.54, not 0.45. Of 4 shifted by 1.25, 0.52, it makes 0.46
    # on a picture that is scaled by 0.4.
    probabilities = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    for side, shift, scale, survives in [(15, 6, 5, False), (15, 6, 1, True), (3, 1.25, 1, False), (3, 1.25, 0.4, True)]:
        pair = torch.tensor([[0.0, 0.0, side, side], [shift, 0.0, side + shift, side]])
        found = choose(pair, scale, probabilities, 0.5, 2)
        assert torch.allclose(found["scores"], torch.tensor([0.9, 0.8 if survives else 0.0]))
        assert torch.allclose(found["boxes"], pair / scale)


def main():
    from safetensors.torch import save_file
    torch.set_num_threads(2)
    check()
    kept, index = {}, []
    for name, config, sizes, every, regions in CASES:
        detector = Detector(config)
        scales = []
        index.append(dict(name=name, config=config, pictures=sizes, scales=scales, every=every, regions=regions))
        for number, (width, height) in enumerate(sizes):
            found = detector.detect(picture(width, height), regions)
            at = f"{name}.{number}"
            scales.append(found["scale"])
            kept[f"{at}.canvas"] = found["canvas"].flatten()[::every].clone()
            for level, values in enumerate(found["levels"]):
                kept[f"{at}.level{level}"] = values.flatten()[::every].clone()
            for part in ("proposals", "boxes", "scores", "features"):
                kept[f"{at}.{part}"] = found[part].clone().contiguous()
            kept[f"{at}.objects"] = found["objects"].to(torch.int64)
            on_canvas = choose(found["proposals"], 1.0, found["probabilities"], config["class_nms"], regions)["proposal"]
            right, wrong = found["proposal"].tolist(), on_canvas.tolist()
            rms = [round(float(level.square().mean().sqrt()), 3) for level in found["levels"]]
            print(at, tuple(found["canvas"].shape), "levels", rms, "proposals", len(found["proposals"]),
                  "features", round(float(found["features"].square().mean().sqrt()), 3),
                  "scores", found["scores"][:3].tolist(), float(found["scores"].min()), file=sys.stderr)
            print(f"  scale {found['scale']:.3f}; chosen on the canvas, {len(set(right) - set(wrong))} of {len(right)} boxes",
                  f"would be others, {sum(a != b for a, b in zip(right, wrong))} at another place", file=sys.stderr)
        assert name != "scales" or scales == [scale for scale, sizes in SCALED.items() for _ in sizes], scales
    (FIXTURES / "detector_parity.json").write_text(json.dumps(index, indent=1) + "\n")
    save_file(kept, str(FIXTURES / "detector_parity.safetensors"))


if __name__ == "__main__":
    main()
