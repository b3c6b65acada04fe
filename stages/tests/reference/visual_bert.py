"""An independent statement of the model, its dropout, its optimiser and its training loop, in PyTorch.

It writes the numbers in `fixtures/visual_bert*` that `tests/parity` holds the Rust code to. It shares no code with it:
the equations are those of the paper's model as the original (MMF) computes it, the gradients are PyTorch's, all in
double precision, so that what differs is the other side's rounding or a mistake. Texts and regions are padded to one
length throughout, as the original does. To run it again (torch 2.x on a CPU):

    pip install torch numpy safetensors
    python stages/tests/reference/visual_bert.py

It also trains with plausible mistakes, one at a time. The test must tell each of those runs from the true one.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# Names as in the model's config.json. No two dimensions of a size are alike.
SIZES = {
    "tiny": dict(vocab_size=18, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
                 max_position_embeddings=10, visual_embedding_dim=7, adapter_divisor=4),
    "wide": dict(vocab_size=30, hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=36,
                 max_position_embeddings=12, visual_embedding_dim=14, adapter_divisor=3),
    "deep": dict(vocab_size=25, hidden_size=15, num_hidden_layers=5, num_attention_heads=1, intermediate_size=22,
                 max_position_embeddings=11, visual_embedding_dim=9, adapter_divisor=2),
    "flat": dict(vocab_size=40, hidden_size=27, num_hidden_layers=1, num_attention_heads=9, intermediate_size=17,
                 max_position_embeddings=13, visual_embedding_dim=33, adapter_divisor=10),
}
EPS = 1e-12
PAD, CLS, SEP = 0, 2, 3
DROPOUT, SEED, UPDATE = 0.3, 5, 3

# How the runs are trained. In the second one a wrong order in AdamW shows, which the defaults hide.
UPDATES, WARM_UP, BATCH, MAX_TEXT, MAX_REGIONS = 20, 4, 4, 8, 4
SETTINGS = {
    "default": dict(lr=1e-3, eps=1e-8, weight_decay=0.01),
    "strong": dict(lr=5e-3, eps=1e-3, weight_decay=1.0),
}

# Mistakes: the mode and the settings they are made under.
MISTAKES = {
    "GELU by tanh": ("full", "default"),
    "LayerNorm's epsilon 1e-5": ("full", "default"),
    "LayerNorm with the unbiased variance": ("full", "default"),
    "decay on biases and LayerNorms": ("full", "strong"),
    "first update not at rate 0": ("fc", "default"),
    "decay of the rate measured from update 0": ("fc", "default"),
    "visual type 1": ("full", "default"),
    "visual positions counted": ("full", "default"),
    "pooler trained": ("fc", "default"),
    "adapters frozen": ("pe", "default"),
    "LayerNorms trained with the adapters": ("pe", "default"),
    "inner LayerNorm left out": ("pe", "default"),
    "adapter without its residual": ("pe", "default"),
    "GELU in the adapter": ("pe", "default"),
    "last short batch dropped": ("fc", "default"),
    "short batch's loss divided by the full batch": ("fc", "default"),
    "padded text attended": ("fc", "default"),
    "missing regions attended": ("fc", "default"),
    "scores not scaled": ("full", "default"),
    "row of padding trained": ("full", "strong"),
    "decay before the step": ("pe", "strong"),
    "decay of used rows alone": ("full", "strong"),
    "epsilon on the corrected root": ("fc", "strong"),
    "no bias correction": ("fc", "default"),
    "gradient clipped to norm 1": ("fc", "strong"),
    "text cut without its [SEP]": ("fc", "default"),
    "mean of all rows pooled": ("fc", "default"),
    "no GELU in the head": ("fc", "default"),
}


# ---- parameters ------------------------------------------------------------------------------------------------

def shapes(c):
    """Names and shapes, adapters included."""
    s, h = {}, c["hidden_size"]

    def linear(name, inputs, outputs):
        s[f"{name}.weight"], s[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name):
        s[f"{name}.weight"], s[f"{name}.bias"] = (h,), (h,)

    e = "model.bert.embeddings"
    s[f"{e}.word_embeddings.weight"] = (c["vocab_size"], h)
    for kind in ("", "_visual"):
        s[f"{e}.position_embeddings{kind}.weight"] = (c["max_position_embeddings"], h)
        s[f"{e}.token_type_embeddings{kind}.weight"] = (2, h)
    norm(f"{e}.LayerNorm")
    linear(f"{e}.projection", c["visual_embedding_dim"], h)
    for i in range(c["num_hidden_layers"]):
        n, inner, narrow = f"model.bert.encoder.layer.{i}", c["intermediate_size"], h // c["adapter_divisor"]
        for part in ("query", "key", "value"):
            linear(f"{n}.attention.self.{part}", h, h)
        linear(f"{n}.attention.output.dense", h, h)
        norm(f"{n}.attention.output.LayerNorm")
        linear(f"{n}.intermediate.dense", h, inner)
        linear(f"{n}.output.dense", inner, h)
        norm(f"{n}.output.LayerNorm")
        linear(f"{n}.output.AdaptComb1", h, narrow)
        linear(f"{n}.output.AdaptComb2", narrow, h)
    linear("model.bert.pooler.dense", h, h)
    linear("model.classifier.0.dense", h, h)
    norm("model.classifier.0.LayerNorm")
    linear("model.classifier.1", h, 2)
    return s


def trained(mode, name, mistake=None):
    head = name.startswith("model.classifier.") or (mistake == "pooler trained" and "pooler" in name)
    adapter = "Adapt" in name and mistake != "adapters frozen"
    if mistake == "LayerNorms trained with the adapters":
        adapter = adapter or "output.LayerNorm" in name
    return {"full": True, "fc": head, "pe": head or adapter}[mode]


# ---- dropout: a hash of (seed, update, site, element) ----------------------------------------------------------

def mix(x):
    m = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & m
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & m
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & m
    return x ^ (x >> 31)


def drop(x, site, on):
    if not on:
        return x
    key = mix(mix(mix(SEED) ^ UPDATE) ^ (site << 32))
    h = np.arange(x.numel(), dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15)) ^ np.uint32(key >> 32)) * np.uint32(0x846CA68B)
    h = h ^ (h >> np.uint32(16))
    keep = torch.from_numpy(h >= np.uint32(round(DROPOUT * 2**32))).reshape(x.shape)
    return x * keep / (1 - DROPOUT)


# ---- model -----------------------------------------------------------------------------------------------------

class Model:
    """The forward pass over parameters by name, with at most one mistake."""

    def __init__(self, config, adapters, mistake=None):
        self.c, self.adapters, self.mistake = config, adapters, mistake

    def linear(self, p, name, x):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(self, p, name, x):
        if self.mistake == "LayerNorm with the unbiased variance":
            x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + EPS)
            return x * p[f"{name}.weight"] + p[f"{name}.bias"]
        eps = 1e-5 if self.mistake == "LayerNorm's epsilon 1e-5" else EPS
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], eps)

    def gelu(self, x):
        return F.gelu(x, approximate="tanh" if self.mistake == "GELU by tanh" else "none")

    def logits(self, p, batch, dropout=False):
        ids, regions, mask = batch
        rows, length = ids.shape
        e, h, heads = "model.bert.embeddings", self.c["hidden_size"], self.c["num_attention_heads"]
        words = p[f"{e}.word_embeddings.weight"]
        pad = None if self.mistake == "row of padding trained" else PAD
        text = F.embedding(ids, words, padding_idx=pad)
        text = text + p[f"{e}.position_embeddings.weight"][:length] + p[f"{e}.token_type_embeddings.weight"][0]
        places = torch.zeros(regions.shape[1], dtype=torch.long)
        if self.mistake == "visual positions counted":
            places = torch.arange(regions.shape[1])
        kind = 1 if self.mistake == "visual type 1" else 0
        visual = self.linear(p, f"{e}.projection", regions) + p[f"{e}.position_embeddings_visual.weight"][places]
        visual = visual + p[f"{e}.token_type_embeddings_visual.weight"][kind]
        x = drop(self.norm(p, f"{e}.LayerNorm", torch.cat([text, visual], 1)), 0, dropout)
        mask = mask.clone()
        if self.mistake == "padded text attended":
            mask[:, :length] = 1
        if self.mistake == "missing regions attended":
            mask[:, length:] = 1
        bias = ((1 - mask) * -10000.0)[:, None, None, :]
        scale = 1 if self.mistake == "scores not scaled" else math.sqrt(h // heads)
        layers = self.c["num_hidden_layers"]
        for i in range(layers):
            n, site = f"model.bert.encoder.layer.{i}", 1 + 3 * i
            # Of the last layer only the first row is read, so only that row has masks of dropout.
            first = i + 1 == layers and self.mistake != "mean of all rows pooled"
            w = x[:, :1] if first else x

            def split(y):
                return y.reshape(rows, y.shape[1], heads, h // heads).transpose(1, 2)

            q = split(self.linear(p, f"{n}.attention.self.query", w))
            k = split(self.linear(p, f"{n}.attention.self.key", x))
            v = split(self.linear(p, f"{n}.attention.self.value", x))
            a = drop(torch.softmax(q @ k.transpose(2, 3) / scale + bias, -1), site, dropout)
            context = (a @ v).transpose(1, 2).reshape(w.shape)
            a = drop(self.linear(p, f"{n}.attention.output.dense", context), site + 1, dropout)
            a = self.norm(p, f"{n}.attention.output.LayerNorm", a + w)
            u = self.linear(p, f"{n}.output.dense", self.gelu(self.linear(p, f"{n}.intermediate.dense", a)))
            u = drop(u, site + 2, dropout)
            if self.adapters:
                z = u if self.mistake == "inner LayerNorm left out" else self.norm(p, f"{n}.output.LayerNorm", u)
                z = self.linear(p, f"{n}.output.AdaptComb1", z)
                z = F.gelu(z) if self.mistake == "GELU in the adapter" else torch.relu(z)
                d = self.linear(p, f"{n}.output.AdaptComb2", z)
                u = d if self.mistake == "adapter without its residual" else d + u
            x = self.norm(p, f"{n}.output.LayerNorm", u + a)
        first = x.mean(1) if self.mistake == "mean of all rows pooled" else x[:, 0]
        pooled = torch.tanh(self.linear(p, "model.bert.pooler.dense", first))
        pooled = drop(pooled, 1 + 3 * layers, dropout)
        t = self.linear(p, "model.classifier.0.dense", pooled)
        t = t if self.mistake == "no GELU in the head" else self.gelu(t)
        return self.linear(p, "model.classifier.1", self.norm(p, "model.classifier.0.LayerNorm", t))


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
            g = p.grad * clip
            m = self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
            v = self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g * g
            first, second = 1 - 0.9**self.t, 1 - 0.999**self.t
            if self.mistake == "no bias correction":
                first = second = 1
            decays = "bias" not in name and "LayerNorm.weight" not in name
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

def memes(rng, c):
    """11 rows to train on (batches of 4, 4 and 3), 5 to validate on."""
    rows = []
    for at in range(16):
        # One text is longer than what is shown of a text, one is empty; one picture has more regions than shown.
        words = {1: MAX_TEXT + 1, 2: 0}.get(at, int(rng.integers(1, MAX_TEXT - 1)))
        ids = [CLS] + [int(word) for word in rng.integers(5, c["vocab_size"] - 2, words)] + [SEP]
        if at == 3:
            ids.insert(1, PAD)  # written out in a text, [PAD] is attended like any other piece
        regions = {0: MAX_REGIONS + 2}.get(at, int(rng.integers(1, MAX_REGIONS + 1)))
        features = np.maximum(rng.normal(0, 1, (regions, c["visual_embedding_dim"])), 0).astype(np.float32)
        split = "train" if at < 11 else "val"
        rows.append(dict(ids=ids, label=at % 2, split=split, regions=features))
    return rows


def padded(rows, mistake=None):
    width = rows[0]["regions"].shape[1]
    ids = torch.zeros(len(rows), MAX_TEXT, dtype=torch.long)
    regions = torch.zeros(len(rows), MAX_REGIONS, width)
    mask = torch.zeros(len(rows), MAX_TEXT + MAX_REGIONS)
    for at, row in enumerate(rows):
        text = row["ids"]
        if len(text) > MAX_TEXT:
            text = text[:MAX_TEXT] if mistake == "text cut without its [SEP]" else text[: MAX_TEXT - 1] + [SEP]
        seen = row["regions"][:MAX_REGIONS]
        ids[at, : len(text)] = torch.tensor(text)
        regions[at, : len(seen)] = torch.from_numpy(seen)
        mask[at, : len(text)] = 1
        mask[at, MAX_TEXT : MAX_TEXT + len(seen)] = 1
    return ids, regions, mask


def labels(rows):
    return torch.tensor([row["label"] for row in rows])


# ---- training --------------------------------------------------------------------------------------------------

def train(config, weights, rows, mode, settings, mistake=None):
    """Batch losses, the trained weights after the last update, the mean loss on the split `val`."""
    p = {n: w.clone() for n, w in weights.items() if mode == "pe" or "Adapt" not in n}
    leaves = {n: p[n].requires_grad_() for n in p if trained(mode, n, mistake)}
    model = Model(config, mode == "pe", mistake)
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
        loss = F.cross_entropy(model.logits(p, padded(batch, mistake)), labels(batch))
        if mistake == "short batch's loss divided by the full batch":
            loss = loss * len(batch) / BATCH
        loss.backward()
        adamw.step(leaves, rate(done, settings["lr"], mistake))
        losses.append(loss.item())
    held = [row for row in rows if row["split"] == "val"]
    with torch.no_grad():
        val_loss = F.cross_entropy(model.logits(p, padded(held, mistake)), labels(held)).item()
    return losses, {n: leaf.detach() for n, leaf in leaves.items()}, val_loss


def start(rng, c):
    """Weights large enough that every part matters; embeddings small enough that LayerNorm's epsilon does."""
    weights = {}
    for name, shape in shapes(c).items():
        values = rng.normal(0, 0.05 if "embeddings" in name and "projection" not in name else 0.3, shape)
        values = values + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
        weights[name] = torch.from_numpy(values.astype(np.float32)).double()
    return weights


def main():
    fixtures = Path(__file__).parent.parent / "fixtures"
    about = dict(dropout=DROPOUT, seed=SEED, update=UPDATE, updates=UPDATES, warm_up=WARM_UP, batch=BATCH,
                 max_text=MAX_TEXT, max_regions=MAX_REGIONS, settings=SETTINGS, sizes=[], mistakes=[])
    for number, (size, config) in enumerate(SIZES.items()):
        rng = np.random.default_rng(number + 1)
        weights, rows = start(rng, config), memes(rng, config)
        tensors = {f"weight {name}": value for name, value in weights.items()}
        for at, row in enumerate(rows):
            tensors[f"regions {at}"] = torch.from_numpy(row["regions"])
        batch = padded(rows)
        tensors |= {"ids": batch[0], "regions": batch[1], "mask": batch[2]}
        entry = dict(name=size, config=config, runs=[], rows=[
            {key: row[key] for key in ("ids", "label", "split")} for row in rows])
        for mode in ("fc", "pe", "full"):
            model = Model(config, mode == "pe")
            for case, dropout in ((mode, False), (f"{mode} dropout", True)):
                p = {n: w.clone() for n, w in weights.items() if mode == "pe" or "Adapt" not in n}
                leaves = {n: p[n].requires_grad_() for n in p if trained(mode, n)}
                out = model.logits(p, batch, dropout)
                F.cross_entropy(out, labels(rows)).backward()
                tensors[f"{case} logits"] = out.detach()
                tensors |= {f"{case} grad {n}": leaf.grad for n, leaf in leaves.items()}
            for name, settings in SETTINGS.items():
                losses, after, val_loss = train(config, weights, rows, mode, settings)
                entry["runs"].append(dict(mode=mode, settings=name, losses=losses, val_loss=val_loss))
                tensors |= {f"{mode} {name} after {n}": value for n, value in after.items()}
        if size == "tiny":
            wrong = {}
            for mistake, (mode, name) in MISTAKES.items():
                losses, after, val_loss = train(config, weights, rows, mode, SETTINGS[name], mistake)
                about["mistakes"].append(
                    dict(name=mistake, mode=mode, settings=name, losses=losses, val_loss=val_loss))
                wrong |= {f"{mistake} after {n}": value for n, value in after.items()}
            save(wrong, fixtures / "visual_bert_mistakes.safetensors")
        about["sizes"].append(entry)
        save(tensors, fixtures / f"visual_bert_{size}.safetensors")
    (fixtures / "visual_bert.json").write_text(json.dumps(about, indent=None, separators=(",", ":")) + "\n")


def save(tensors, path):
    narrow = {torch.float64: torch.float32, torch.int64: torch.uint32}
    save_file({n: t.to(narrow.get(t.dtype, t.dtype)).contiguous() for n, t in tensors.items()}, path)


if __name__ == "__main__":
    main()
