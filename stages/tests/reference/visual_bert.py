"""An independent statement of the model, its dropout, its optimiser and its training loop, in PyTorch.

It writes the numbers in `fixtures/visual_bert*` that `tests/parity` holds the Rust code to. It shares no code with it:
the equations are those of the paper's model as the original (MMF) computes it, the gradients are PyTorch's, all in
double precision, so that what differs is the other side's rounding or a mistake. Texts and regions are padded to one
length throughout, as the original does. To run it again (torch 2.x on a CPU):

    pip install torch numpy safetensors
    python stages/tests/reference/visual_bert.py
    python stages/tests/reference/visual_bert.py rounding   # visual_bert_rounding.json alone

It also trains with plausible mistakes, one at a time. The test must tell each of those runs from the true one.
"""

import math
import sys

import torch
import torch.nn.functional as F

from training import MAX_REGIONS, MAX_TEXT, PAD, SEP, Blocks, drop, main
from training import memes as made_up

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
BATCH = ("ids", "regions", "mask")

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


# ---- model -----------------------------------------------------------------------------------------------------

class Model(Blocks):
    """The forward pass, with at most one mistake."""

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
        x = drop(self.norm(p, f"{e}.LayerNorm", torch.cat([text, visual], 1)), f"{e}.dropout", dropout)
        mask = mask.clone()
        if self.mistake == "padded text attended":
            mask[:, :length] = 1
        if self.mistake == "missing regions attended":
            mask[:, length:] = 1
        bias = ((1 - mask) * -10000.0)[:, None, None, :]
        scale = 1 if self.mistake == "scores not scaled" else math.sqrt(h // heads)
        layers = self.c["num_hidden_layers"]
        for i in range(layers):
            n = f"model.bert.encoder.layer.{i}"
            # Of the last layer only the first row is read, so only that row has masks of dropout.
            first = i + 1 == layers and self.mistake != "mean of all rows pooled"
            w = x[:, :1] if first else x

            def split(y):
                return y.reshape(rows, y.shape[1], heads, h // heads).transpose(1, 2)

            q = split(self.linear(p, f"{n}.attention.self.query", w))
            k = split(self.linear(p, f"{n}.attention.self.key", x))
            v = split(self.linear(p, f"{n}.attention.self.value", x))
            a = drop(torch.softmax(q @ k.transpose(2, 3) / scale + bias, -1), f"{n}.attention.self.dropout", dropout)
            context = (a @ v).transpose(1, 2).reshape(w.shape)
            a = self.linear(p, f"{n}.attention.output.dense", context)
            a = drop(a, f"{n}.attention.output.dropout", dropout)
            a = self.norm(p, f"{n}.attention.output.LayerNorm", a + w)
            u = self.linear(p, f"{n}.output.dense", self.gelu(self.linear(p, f"{n}.intermediate.dense", a)))
            u = drop(u, f"{n}.output.dropout", dropout)
            if self.adapters:
                z = u if self.mistake == "inner LayerNorm left out" else self.norm(p, f"{n}.output.LayerNorm", u)
                z = self.linear(p, f"{n}.output.AdaptComb1", z)
                z = F.gelu(z) if self.mistake == "GELU in the adapter" else torch.relu(z)
                d = self.linear(p, f"{n}.output.AdaptComb2", z)
                u = d if self.mistake == "adapter without its residual" else d + u
            x = self.norm(p, f"{n}.output.LayerNorm", u + a)
        first = x.mean(1) if self.mistake == "mean of all rows pooled" else x[:, 0]
        pooled = torch.tanh(self.linear(p, "model.bert.pooler.dense", first))
        pooled = drop(pooled, "model.dropout", dropout)
        t = self.linear(p, "model.classifier.0.dense", pooled)
        t = t if self.mistake == "no GELU in the head" else self.gelu(t)
        return self.linear(p, "model.classifier.1", self.norm(p, "model.classifier.0.LayerNorm", t))


# ---- data ------------------------------------------------------------------------------------------------------

def memes(rng, c):
    return made_up(rng, c["vocab_size"], c["visual_embedding_dim"])


def batch(rows, mistake=None):
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


if __name__ == "__main__":
    main(sys.modules[__name__], "visual_bert")
