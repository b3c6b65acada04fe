"""What the references of the models share: dropout, the optimiser, the training loop, made-up memes, and the fixtures' form.

A reference is a module with SIZES, MISTAKES, shapes(config), trained(mode, name, mistake), Model, memes(rng, config) and
batch(rows, mistake), which gives what BATCH names; `main` writes the numbers in `fixtures/` of it. Everything is in double precision.

With the argument `rounding` it writes `fixtures/*_rounding.json` alone: how far float32 is from float64 in the reference itself,
for the logits and for each gradient. The test multiplies these distances by a constant to get its tolerances.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

EPS = 1e-12
PAD, CLS, SEP = 0, 2, 3
DROPOUT, SEED, UPDATE = 0.3, 5, 3

# How the runs are trained. In the second one a wrong order in AdamW shows, which the defaults hide.
UPDATES, WARM_UP, BATCH, MAX_TEXT, MAX_REGIONS = 20, 4, 4, 8, 4
# Evaluations in float32, each of which sums in another order; and the test's constants, by which `rounding` checks the mistakes.
EVALUATIONS = 16
FACTOR, ULPS = 4, 4
SETTINGS = {
    "default": dict(lr=1e-3, eps=1e-8, weight_decay=0.01),
    "strong": dict(lr=5e-3, eps=1e-3, weight_decay=1.0),
}


# ---- dropout: a hash of (seed, update, path of the site, element) ----------------------------------------------------------

def mix(x):
    m = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & m
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & m
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & m
    return x ^ (x >> 31)


def site(path):
    """The 64-bit FNV-1a hash of a path."""
    found = 0xCBF29CE484222325
    for byte in path.encode():
        found = ((found ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    return found


def drop(x, path, on):
    if not on:
        return x
    key = mix(mix(mix(SEED) ^ UPDATE) ^ site(path))
    h = np.arange(x.numel(), dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15)) ^ np.uint32(key >> 32)) * np.uint32(0x846CA68B)
    h = h ^ (h >> np.uint32(16))
    keep = torch.from_numpy(h >= np.uint32(round(DROPOUT * 2**32))).reshape(x.shape)
    return x * keep / (1 - DROPOUT)


class Blocks:
    """The blocks of a forward pass over parameters by name, with at most one mistake.

    With `rng` every affine map and LayerNorm takes its rows, inputs and outputs in a random order. That changes nothing but the
    order of summation, forward and backward.
    """

    def __init__(self, config, adapters, mistake=None, rng=None):
        self.c, self.adapters, self.mistake, self.rng = config, adapters, mistake, rng

    def order(self, length):
        return torch.from_numpy(self.rng.permutation(length))

    def linear(self, p, name, x):
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        if self.rng is None:
            return F.linear(x, weight, bias)
        outputs, inputs = (self.order(length) for length in weight.shape)
        flat = x.reshape(-1, x.shape[-1])
        rows = self.order(len(flat))
        y = F.linear(flat[rows][:, inputs], weight[outputs][:, inputs], bias[outputs])
        return y[rows.argsort()][:, outputs.argsort()].reshape(*x.shape[:-1], -1)

    def norm(self, p, name, x):
        if self.rng is not None:
            order = self.order(x.shape[-1])
            weight, bias = p[f"{name}.weight"][order], p[f"{name}.bias"][order]
            return F.layer_norm(x[..., order], x.shape[-1:], weight, bias, EPS)[..., order.argsort()]
        if self.mistake == "LayerNorm with the unbiased variance":
            x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + EPS)
            return x * p[f"{name}.weight"] + p[f"{name}.bias"]
        eps = 1e-5 if self.mistake == "LayerNorm's epsilon 1e-5" else EPS
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def gelu(self, x):
        return F.gelu(x, approximate="tanh" if self.mistake == "GELU by tanh" else "none")


# ---- optimiser -------------------------------------------------------------------------------------------------

class AdamW:
    """Hugging Face's variant, over leaves by name."""

    def __init__(self, eps, weight_decay, mistake=None):
        self.eps, self.decay, self.mistake, self.t, self.m, self.v = eps, weight_decay, mistake, 0, {}, {}

    @torch.no_grad()
    def step(self, leaves, lr):
        self.t += 1
        clip = 1.0
        if self.mistake == "gradient clipped to norm 1":
            clip = min(1.0, 1.0 / math.sqrt(sum(float((p.grad**2).sum()) for p in leaves.values())))
        for name, p in leaves.items():
            if p.grad is None:
                if self.mistake == "what is not used decays":
                    p -= lr * self.decay * p
                continue
            g = p.grad * clip
            m = self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
            v = self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g * g
            first, second = 1 - 0.9**self.t, 1 - 0.999**self.t
            if self.mistake == "no bias correction":
                first = second = 1
            decays = "bias" not in name and "LayerNorm.weight" not in name
            if self.mistake == "no decay of any LayerNorm":
                decays = "bias" not in name and "LayerNorm" not in name
            shrink = lr * self.decay if decays or self.mistake == "decay on biases and LayerNorms" else 0.0
            if self.mistake == "decay of used rows alone" and p.dim() == 2 and "embeddings" in name:
                shrink = shrink * (g.abs().sum(1, keepdim=True) > 0)
            if self.mistake == "decay before the step":
                p -= shrink * p
            if self.mistake == "epsilon on the corrected root":
                p -= lr / first * m / (torch.sqrt(v / second) + self.eps)
            else:
                p -= lr * math.sqrt(second) / first * m / (torch.sqrt(v) + self.eps)
            if self.mistake != "decay before the step":
                p -= shrink * p


def rate(done, peak, mistake=None):
    if mistake == "first update not at rate 0":
        done += 1
    if done < WARM_UP:
        return peak * done / WARM_UP
    if mistake == "decay of the rate measured from update 0":
        return peak * (UPDATES - done) / UPDATES
    return peak * max(0, UPDATES - done) / (UPDATES - WARM_UP)


# ---- data ------------------------------------------------------------------------------------------------------

def memes(rng, words, width):
    """11 rows to train on (batches of 4, 4 and 3), 5 to validate on."""
    rows = []
    for at in range(16):
        # One text is longer than what is shown of a text, one is empty; one picture has more regions than shown.
        length = {1: MAX_TEXT + 1, 2: 0}.get(at, int(rng.integers(1, MAX_TEXT - 1)))
        ids = [CLS] + [int(word) for word in rng.integers(5, words - 2, length)] + [SEP]
        if at == 3:
            ids.insert(1, PAD)  # written out in a text, [PAD] is attended like any other piece
        regions = {0: MAX_REGIONS + 2}.get(at, int(rng.integers(1, MAX_REGIONS + 1)))
        features = np.maximum(rng.normal(0, 1, (regions, width)), 0).astype(np.float32)
        split = "train" if at < 11 else "val"
        rows.append(dict(ids=ids, label=at % 2, split=split, regions=features))
    return rows


def labels(rows):
    return torch.tensor([row["label"] for row in rows])


# ---- training --------------------------------------------------------------------------------------------------

def train(of, config, weights, rows, mode, settings, mistake=None):
    """Batch losses, the trained weights after the last update, the mean loss on the split `val`."""
    p = {n: w.clone() for n, w in weights.items() if mode == "pe" or "Adapt" not in n}
    leaves = {n: p[n].requires_grad_() for n in p if of.trained(mode, n, mistake)}
    model = of.Model(config, mode == "pe", mistake)
    adamw = AdamW(settings["eps"], settings["weight_decay"], mistake)
    shown = [row for row in rows if row["split"] == "train"]
    batches = [shown[at : at + BATCH] for at in range(0, len(shown), BATCH)]
    if mistake == "last short batch dropped":
        batches.pop()
    losses = []
    for done in range(UPDATES):
        batch = batches[done % len(batches)]
        for leaf in leaves.values():
            leaf.grad = None
        loss = F.cross_entropy(model.logits(p, of.batch(batch, mistake)), labels(batch))
        if mistake == "short batch's loss divided by the full batch":
            loss = loss * len(batch) / BATCH
        loss.backward()
        adamw.step(leaves, rate(done, settings["lr"], mistake))
        losses.append(loss.item())
    held = [row for row in rows if row["split"] == "val"]
    with torch.no_grad():
        val_loss = F.cross_entropy(model.logits(p, of.batch(held, mistake)), labels(held)).item()
    return losses, {n: leaf.detach() for n, leaf in leaves.items()}, val_loss


def start(of, rng, c):
    """Weights large enough that every part matters; embeddings small enough that LayerNorm's epsilon does."""
    weights = {}
    for name, shape in of.shapes(c).items():
        values = rng.normal(0, 0.05 if "embeddings" in name and "projection" not in name else 0.3, shape)
        values = values + (1.0 if "LayerNorm" in name and name.endswith("weight") else 0.0)
        weights[name] = torch.from_numpy(values.astype(np.float32)).double()
    return weights


def gradients(of, config, weights, rows, mode, dropout, mistake=None, rng=None):
    """The logits, and the gradient of each trained parameter that has one."""
    model = of.Model(config, mode == "pe", mistake, rng)
    p = {n: w.clone() for n, w in weights.items() if mode == "pe" or "Adapt" not in n}
    leaves = {n: p[n].requires_grad_() for n in p if of.trained(mode, n, mistake)}
    logits = model.logits(p, of.batch(rows, mistake), dropout)
    F.cross_entropy(logits, labels(rows)).backward()
    return logits.detach(), {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}


def cases():
    return [(mode, f"{mode} dropout" if dropout else mode, dropout)
            for mode in ("fc", "pe", "full") for dropout in (False, True)]


def write(of, called):
    """The fixtures of the reference `of`, a module."""
    fixtures = Path(__file__).parent.parent / "fixtures"
    about = dict(dropout=DROPOUT, seed=SEED, update=UPDATE, updates=UPDATES, warm_up=WARM_UP, batch=BATCH,
                 max_text=MAX_TEXT, max_regions=MAX_REGIONS, settings=SETTINGS, sizes=[], mistakes=[])
    for number, (size, config) in enumerate(of.SIZES.items()):
        rng = np.random.default_rng(number + 1)
        weights, rows = start(of, rng, config), of.memes(rng, config)
        tensors = {f"weight {name}": value for name, value in weights.items()}
        for at, row in enumerate(rows):
            tensors |= {f"{key} {at}": torch.from_numpy(row[key]) for key in ("regions", "boxes") if key in row}
        batch = of.batch(rows)
        tensors |= dict(zip(of.BATCH, batch))
        entry = dict(name=size, config=config, runs=[], rows=[
            {key: row[key] for key in ("ids", "label", "split", "picture") if key in row} for row in rows])
        for mode, case, dropout in cases():
            logits, grads = gradients(of, config, weights, rows, mode, dropout)
            tensors[f"{case} logits"] = logits
            tensors |= {f"{case} grad {n}": grad for n, grad in grads.items()}
        for mode in ("fc", "pe", "full"):
            for name, settings in SETTINGS.items():
                losses, after, val_loss = train(of, config, weights, rows, mode, settings)
                entry["runs"].append(dict(mode=mode, settings=name, losses=losses, val_loss=val_loss))
                tensors |= {f"{mode} {name} after {n}": value for n, value in after.items()}
        if size == "tiny":
            wrong = {}
            for mistake, (mode, name) in of.MISTAKES.items():
                losses, after, val_loss = train(of, config, weights, rows, mode, SETTINGS[name], mistake)
                about["mistakes"].append(
                    dict(name=mistake, mode=mode, settings=name, losses=losses, val_loss=val_loss))
                wrong |= {f"{mistake} after {n}": value for n, value in after.items()}
            save(wrong, fixtures / f"{called}_mistakes.safetensors")
        about["sizes"].append(entry)
        save(tensors, fixtures / f"{called}_{size}.safetensors")
    (fixtures / f"{called}.json").write_text(json.dumps(about, indent=None, separators=(",", ":")) + "\n")


def single(of, config, weights, rows, mode, dropout, rng):
    """As `gradients`, all of it in float32."""
    torch.set_default_dtype(torch.float32)
    try:
        weights = {name: weight.float() for name, weight in weights.items()}
        logits, grads = gradients(of, config, weights, rows, mode, dropout, rng=rng)
    finally:
        torch.set_default_dtype(torch.float64)
    assert all(value.dtype == torch.float32 for value in (logits, *grads.values()))
    return logits, grads


def distance(a, b):
    return float((a.double() - b.double()).norm())


def rounding(of, called):
    """How far the reference in float32 is from itself in float64: root mean squares over evaluations, per tensor."""
    fixtures = Path(__file__).parent.parent / "fixtures"
    sizes, ratios = {}, []
    for number, (size, config) in enumerate(of.SIZES.items()):
        rng = np.random.default_rng(number + 1)
        weights, rows = start(of, rng, config), of.memes(rng, config)
        kept = load_file(fixtures / f"{called}_{size}.safetensors")
        sizes[size] = {}
        for mode, case, dropout in cases():
            logits, grads = gradients(of, config, weights, rows, mode, dropout)
            exact = {"logits": logits} | {f"grad {n}": grad for n, grad in grads.items()}
            found = {name: [] for name in exact}
            for evaluation in range(EVALUATIONS):
                order = np.random.default_rng([number, evaluation])
                logits, grads = single(of, config, weights, rows, mode, dropout, order)
                for name, value in ({"logits": logits} | {f"grad {n}": grad for n, grad in grads.items()}).items():
                    found[name].append(distance(value, exact[name]))
            spread = {name: math.sqrt(sum(d * d for d in found[name]) / EVALUATIONS) for name in exact}
            for name, value in exact.items():
                # The fixtures are those of this reference: to rounding in float64, and the storing in float32.
                assert distance(kept[f"{case} {name}"], value) <= 1e-7 * float(value.norm()) + 1e-15, (size, case, name)
                ratios += [d / spread[name] for d in found[name] if spread[name]]
            sizes[size][case] = {name: float(f"{value:.2e}") for name, value in spread.items()}
            if size == "tiny" and not dropout:
                notice(of, config, weights, rows, mode, exact, spread)
    print(f"{called}: of {len(ratios)} distances in float32 {sum(r > 2 for r in ratios)} are above 2 root mean squares, "
          f"{sum(r > 3 for r in ratios)} above 3; the largest is {max(ratios):.2f}")
    lines = [f"{json.dumps(size)}:{{\n" + ",\n".join(
        f"{json.dumps(case)}:{json.dumps(spread, separators=(',', ':'))}" for case, spread in by_case.items()) + "\n}"
        for size, by_case in sizes.items()]
    (fixtures / f"{called}_rounding.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def notice(of, config, weights, rows, mode, exact, spread):
    """Prints by how many tolerances of the test each mistake in the forward pass of `mode` changes logits and gradients."""
    for mistake, (of_mode, _) in of.MISTAKES.items():
        if of_mode != mode:
            continue
        logits, grads = gradients(of, config, weights, rows, mode, False, mistake)
        found = {"logits": logits} | {f"grad {n}": grad for n, grad in grads.items()}
        if set(found) != set(exact):
            print(f"  {mode}, {mistake}: other tensors have gradients")
            continue
        off = {name: distance(found[name], value) for name, value in exact.items()}
        limit = {name: FACTOR * spread[name] + ULPS * 2**-24 * float(value.norm()) for name, value in exact.items()}
        over = max(((off[name] / limit[name], name) for name in off if off[name]), default=(0, "-"))
        print(f"  {mode}, {mistake}: " + (f"{over[0]:.1f} tolerances, {over[1]}" if over[0] else "not in the forward pass"))


def main(of, called):
    if sys.argv[1:] == ["rounding"]:
        rounding(of, called)
    else:
        write(of, called)


def save(tensors, path):
    narrow = {torch.float64: torch.float32, torch.int64: torch.uint32}
    save_file({n: t.to(narrow.get(t.dtype, t.dtype)).contiguous() for n, t in tensors.items()}, path)
