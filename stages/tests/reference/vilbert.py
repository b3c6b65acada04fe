"""An independent statement of ViLBERT, in PyTorch: `visual_bert.py` says what it is for.

It writes the numbers in `fixtures/vilbert*`. The equations are those of the original (MMF), with the paper's adapters in every
text layer and every layer of regions. To run it again:

    pip install torch numpy safetensors
    python stages/tests/reference/vilbert.py
    python stages/tests/reference/vilbert.py rounding   # vilbert_rounding.json alone
"""

import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

from training import MAX_REGIONS, MAX_TEXT, PAD, SEP, Blocks, drop, main
from training import memes as made_up

# Names as in the model's config.json. No two widths of a size are alike.
SIZES = {
    "tiny": dict(vocab_size=18, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=14,
                 max_position_embeddings=10, v_feature_size=7, v_hidden_size=12, v_num_hidden_layers=2,
                 v_num_attention_heads=4, v_intermediate_size=10, bi_hidden_size=15, bi_num_attention_heads=3,
                 t_biattention_id=[1, 2], v_biattention_id=[0, 1], adapter_divisor=3),
    "deep": dict(vocab_size=25, hidden_size=15, num_hidden_layers=5, num_attention_heads=3, intermediate_size=22,
                 max_position_embeddings=11, v_feature_size=9, v_hidden_size=10, v_num_hidden_layers=3,
                 v_num_attention_heads=2, v_intermediate_size=13, bi_hidden_size=12, bi_num_attention_heads=1,
                 t_biattention_id=[1, 4], v_biattention_id=[1, 2], adapter_divisor=2),
    "flat": dict(vocab_size=30, hidden_size=20, num_hidden_layers=1, num_attention_heads=5, intermediate_size=9,
                 max_position_embeddings=13, v_feature_size=17, v_hidden_size=16, v_num_hidden_layers=1,
                 v_num_attention_heads=4, v_intermediate_size=21, bi_hidden_size=18, bi_num_attention_heads=6,
                 t_biattention_id=[0], v_biattention_id=[0], adapter_divisor=10),
}
BATCH = ("ids", "regions", "locations", "mask")

# Mistakes: the mode and the settings they are made under.
MISTAKES = {
    "GELU by tanh": ("full", "default"),
    "LayerNorm's epsilon 1e-5": ("full", "default"),
    "row of padding trained": ("full", "strong"),
    "what is not used decays": ("full", "strong"),
    "no decay of any LayerNorm": ("full", "strong"),
    "a layer of regions before the first co-attention": ("full", "default"),
    "co-attention one stream after the other": ("full", "default"),
    "scores of co-attention scaled by the text's heads": ("full", "default"),
    "regions' mask left out in co-attention": ("full", "default"),
    "text's mask left out in co-attention": ("full", "default"),
    "missing regions attended by regions": ("full", "default"),
    "padded text attended by text": ("full", "default"),
    "the other projection after co-attention": ("full", "default"),
    "no locations": ("full", "default"),
    "locations without the area": ("full", "default"),
    "width and height exchanged": ("full", "default"),
    "regions not normalised": ("full", "default"),
    "poolers by tanh": ("full", "default"),
    "pooled vectors added": ("full", "default"),
    "last region pooled": ("full", "default"),
    "poolers trained": ("fc", "default"),
    "regions' adapters frozen": ("pe", "default"),
    "adapters of regions in co-attention": ("pe", "default"),
    "inner LayerNorm left out": ("pe", "default"),
    "adapter without its residual": ("pe", "default"),
    "GELU in the adapter": ("pe", "default"),
}


# ---- parameters ------------------------------------------------------------------------------------------------

def shapes(c):
    """Names and shapes, adapters included."""
    s = {}

    def linear(name, inputs, outputs):
        s[f"{name}.weight"], s[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name, width):
        s[f"{name}.weight"], s[f"{name}.bias"] = (width,), (width,)

    h, v, bi, b = c["hidden_size"], c["v_hidden_size"], c["bi_hidden_size"], "model.bert"
    s[f"{b}.embeddings.word_embeddings.weight"] = (c["vocab_size"], h)
    s[f"{b}.embeddings.position_embeddings.weight"] = (c["max_position_embeddings"], h)
    s[f"{b}.embeddings.token_type_embeddings.weight"] = (2, h)
    norm(f"{b}.embeddings.LayerNorm", h)
    linear(f"{b}.v_embeddings.image_embeddings", c["v_feature_size"], v)
    linear(f"{b}.v_embeddings.image_location_embeddings", 5, v)
    norm(f"{b}.v_embeddings.LayerNorm", v)
    stacks = [("layer", c["num_hidden_layers"], h, c["intermediate_size"], "AdaptText"),
              ("v_layer", c["v_num_hidden_layers"], v, c["v_intermediate_size"], "AdaptImg")]
    for stack, count, width, inner, adapter in stacks:
        for i in range(count):
            n, narrow = f"{b}.encoder.{stack}.{i}", width // c["adapter_divisor"]
            for part in ("query", "key", "value"):
                linear(f"{n}.attention.self.{part}", width, width)
            linear(f"{n}.attention.output.dense", width, width)
            norm(f"{n}.attention.output.LayerNorm", width)
            linear(f"{n}.intermediate.dense", width, inner)
            linear(f"{n}.output.dense", inner, width)
            norm(f"{n}.output.LayerNorm", width)
            linear(f"{n}.output.{adapter}1", width, narrow)
            linear(f"{n}.output.{adapter}2", narrow, width)
    for i in range(len(c["t_biattention_id"])):
        n = f"{b}.encoder.c_layer.{i}"
        for number, stream, width, inner in ((1, "v", v, c["v_intermediate_size"]), (2, "t", h, c["intermediate_size"])):
            for part in ("query", "key", "value"):
                linear(f"{n}.biattention.{part}{number}", width, bi)
            linear(f"{n}.biOutput.dense{number}", bi, width)
            linear(f"{n}.biOutput.q_dense{number}", bi, width)
            norm(f"{n}.biOutput.LayerNorm{number}", width)
            linear(f"{n}.{stream}_intermediate.dense", width, inner)
            linear(f"{n}.{stream}_output.dense", inner, width)
            norm(f"{n}.{stream}_output.LayerNorm", width)
    linear(f"{b}.t_pooler.dense", h, bi)
    linear(f"{b}.v_pooler.dense", v, bi)
    linear("model.classifier.0.dense", bi, bi)
    norm("model.classifier.0.LayerNorm", bi)
    linear("model.classifier.1", bi, 2)
    return s


def trained(mode, name, mistake=None):
    head = name.startswith("model.classifier.") or (mistake == "poolers trained" and "pooler" in name)
    adapter = "Adapt" in name and not (mistake == "regions' adapters frozen" and "AdaptImg" in name)
    return {"full": True, "fc": head, "pe": head or adapter}[mode]


# ---- model -----------------------------------------------------------------------------------------------------

class Model(Blocks):
    """The forward pass, with at most one mistake."""

    def attend(self, p, names, asking, attended, bias, heads, place, dropout, width=None):
        """What `asking` finds in `attended`; `width` is what scores are scaled by the root of."""
        rows = asking.shape[0]

        def split(y):
            return y.reshape(rows, y.shape[1], heads, -1).transpose(1, 2)

        q, k, v = (split(self.linear(p, n, x)) for n, x in zip(names, (asking, attended, attended)))
        scores = q @ k.transpose(2, 3) / math.sqrt(width or q.shape[-1]) + bias[:, None, None, :]
        found = drop(torch.softmax(scores, -1), place, dropout) @ v
        return found.transpose(1, 2).reshape(rows, asking.shape[1], -1)

    def adapted(self, p, n, adapter, u):
        """`u` with what the adapter makes of it."""
        z = u if self.mistake == "inner LayerNorm left out" else self.norm(p, f"{n}.LayerNorm", u)
        z = self.linear(p, f"{adapter}1", z)
        z = F.gelu(z) if self.mistake == "GELU in the adapter" else torch.relu(z)
        d = self.linear(p, f"{adapter}2", z)
        return d if self.mistake == "adapter without its residual" else d + u

    def layer(self, p, stack, i, x, bias, dropout, first):
        n, image = f"model.bert.encoder.{stack}.{i}", stack == "v_layer"
        heads = self.c["v_num_attention_heads" if image else "num_attention_heads"]
        w = x[:, :1] if first else x
        names = [f"{n}.attention.self.{part}" for part in ("query", "key", "value")]
        a = self.attend(p, names, w, x, bias, heads, f"{n}.attention.self.dropout", dropout)
        a = self.linear(p, f"{n}.attention.output.dense", a)
        a = self.norm(p, f"{n}.attention.output.LayerNorm", w + drop(a, f"{n}.attention.output.dropout", dropout))
        u = self.linear(p, f"{n}.output.dense", self.gelu(self.linear(p, f"{n}.intermediate.dense", a)))
        u = drop(u, f"{n}.output.dropout", dropout)
        moved = image and self.mistake == "adapters of regions in co-attention"
        if self.adapters and not moved:
            u = self.adapted(p, f"{n}.output", f"{n}.output.{'AdaptImg' if image else 'AdaptText'}", u)
        return self.norm(p, f"{n}.output.LayerNorm", u + a)

    def co_attention(self, p, i, t, v, t_bias, v_bias, dropout):
        n, c = f"model.bert.encoder.c_layer.{i}", self.c
        heads, bi = c["bi_num_attention_heads"], f"{n}.biattention."
        width = c["hidden_size"] // c["num_attention_heads"] if self.mistake and "text's heads" in self.mistake else None
        seen = torch.zeros_like(v_bias) if self.mistake == "regions' mask left out in co-attention" else v_bias
        read = torch.zeros_like(t_bias) if self.mistake == "text's mask left out in co-attention" else t_bias
        dense = "q_dense" if self.mistake == "the other projection after co-attention" else "dense"

        def end(x, context, number, stream):
            a = self.linear(p, f"{n}.biOutput.{dense}{number}", context)
            a = drop(a, f"{n}.biOutput.dropout{number}", dropout)
            a = self.norm(p, f"{n}.biOutput.LayerNorm{number}", x + a)
            u = self.gelu(self.linear(p, f"{n}.{stream}_intermediate.dense", a))
            u = drop(self.linear(p, f"{n}.{stream}_output.dense", u), f"{n}.{stream}_output.dropout", dropout)
            if self.adapters and stream == "v" and self.mistake == "adapters of regions in co-attention":
                u = self.adapted(p, f"{n}.v_output", f"model.bert.encoder.v_layer.{i}.output.AdaptImg", u)
            return self.norm(p, f"{n}.{stream}_output.LayerNorm", u + a)

        names = [bi + "query2", bi + "key1", bi + "value1"]
        from_image = self.attend(p, names, t, v, seen, heads, bi + "dropout1", dropout, width)
        new_t = end(t, from_image, 2, "t")
        t = new_t if self.mistake == "co-attention one stream after the other" else t
        names = [bi + "query1", bi + "key2", bi + "value2"]
        from_text = self.attend(p, names, v, t, read, heads, bi + "dropout2", dropout, width)
        return new_t, end(v, from_text, 1, "v")

    def logits(self, p, batch, dropout=False):
        ids, regions, locations, mask = batch
        c, b, length = self.c, "model.bert", ids.shape[1]
        pad = None if self.mistake == "row of padding trained" else PAD
        t = F.embedding(ids, p[f"{b}.embeddings.word_embeddings.weight"], padding_idx=pad)
        t = t + p[f"{b}.embeddings.position_embeddings.weight"][:length]
        t = t + p[f"{b}.embeddings.token_type_embeddings.weight"][0]
        t = drop(self.norm(p, f"{b}.embeddings.LayerNorm", t), f"{b}.embeddings.dropout", dropout)
        if self.mistake == "no locations":
            locations = torch.zeros_like(locations)
        v = self.linear(p, f"{b}.v_embeddings.image_embeddings", regions)
        v = v + self.linear(p, f"{b}.v_embeddings.image_location_embeddings", locations)
        v = v if self.mistake == "regions not normalised" else self.norm(p, f"{b}.v_embeddings.LayerNorm", v)
        v = drop(v, f"{b}.v_embeddings.dropout", dropout)
        t_bias, v_bias = (1 - mask[:, :length]) * -10000.0, (1 - mask[:, length:]) * -10000.0
        t_own = torch.zeros_like(t_bias) if self.mistake == "padded text attended by text" else t_bias
        v_own = torch.zeros_like(v_bias) if self.mistake == "missing regions attended by regions" else v_bias
        texts, images, pairs = c["num_hidden_layers"], c["v_num_hidden_layers"], len(c["t_biattention_id"])
        i = j = 0
        for k in range(pairs + 1):
            # Of the last layer of either stream only the first row is read, so only that row has masks of dropout.
            upto_t, upto_v = (c["t_biattention_id"][k], c["v_biattention_id"][k]) if k < pairs else (texts, images)
            if k == 0 and self.mistake == "a layer of regions before the first co-attention":
                upto_v += 1
            while i < upto_t:
                t = self.layer(p, "layer", i, t, t_own, dropout, i + 1 == texts)
                i += 1
            while j < upto_v:
                whole = self.mistake == "last region pooled"
                v = self.layer(p, "v_layer", j, v, v_own, dropout, j + 1 == images and not whole)
                j += 1
            if k < pairs:
                t, v = self.co_attention(p, k, t, v, t_bias, v_bias, dropout)
        pool = torch.tanh if self.mistake == "poolers by tanh" else torch.relu
        pooled_t = pool(self.linear(p, f"{b}.t_pooler.dense", t[:, 0]))
        pooled_v = pool(self.linear(p, f"{b}.v_pooler.dense", v[:, -1] if self.mistake == "last region pooled" else v[:, 0]))
        pooled = pooled_t + pooled_v if self.mistake == "pooled vectors added" else pooled_t * pooled_v
        pooled = drop(pooled, "model.dropout", dropout)
        x = self.gelu(self.linear(p, "model.classifier.0.dense", pooled))
        return self.linear(p, "model.classifier.1", self.norm(p, "model.classifier.0.LayerNorm", x))


# ---- data ------------------------------------------------------------------------------------------------------

def memes(rng, c):
    """Memes with a box for each region, and the size of each picture."""
    rows = made_up(rng, c["vocab_size"], c["v_feature_size"])
    for row in rows:
        w, h = row["picture"] = [int(side) for side in rng.integers(40, 700, 2)]
        corners = np.sort(rng.uniform(0, 1, (len(row["regions"]), 2, 2)), axis=1) * (w, h)
        row["boxes"] = corners.reshape(-1, 4).astype(np.float32)
    return rows


def batch(rows, mistake=None):
    width = rows[0]["regions"].shape[1]
    ids = torch.zeros(len(rows), MAX_TEXT, dtype=torch.long)
    regions, locations = torch.zeros(len(rows), MAX_REGIONS, width), torch.zeros(len(rows), MAX_REGIONS, 5)
    mask = torch.zeros(len(rows), MAX_TEXT + MAX_REGIONS)
    for at, row in enumerate(rows):
        text = row["ids"]
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - 1] + [SEP]
        seen, (w, h) = row["regions"][:MAX_REGIONS], row["picture"]
        if mistake == "width and height exchanged":
            w, h = h, w
        x1, y1, x2, y2 = torch.from_numpy(row["boxes"][:MAX_REGIONS]).double().T
        area = (y2 - y1) * (x2 - x1) / (w * h)
        if mistake == "locations without the area":
            area = area * 0
        ids[at, : len(text)] = torch.tensor(text)
        regions[at, : len(seen)] = torch.from_numpy(seen)
        locations[at, : len(seen)] = torch.stack([x1 / w, y1 / h, x2 / w, y2 / h, area], 1)
        mask[at, : len(text)] = 1
        mask[at, MAX_TEXT : MAX_TEXT + len(seen)] = 1
    return ids, regions, locations, mask


if __name__ == "__main__":
    main(sys.modules[__name__], "vilbert")
