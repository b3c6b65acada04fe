"""ViLBERT in PyTorch with the paper's adapters and head, as MMF computes it: the model that `peer.py` times when the work
names it. Hugging Face has none.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-12


class Attention(nn.Module):
    def __init__(self, asking, attended, width, heads):
        super().__init__()
        self.heads, self.scale = heads, math.sqrt(width // heads)
        self.query, self.key, self.value = nn.Linear(asking, width), nn.Linear(attended, width), nn.Linear(attended, width)

    def forward(self, x, y, bias):
        def split(z):
            return z.view(*z.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(y)), split(self.value(y))
        a = F.dropout(torch.softmax(q @ k.transpose(2, 3) / self.scale + bias, -1), 0.1, self.training)
        return (a @ v).transpose(1, 2).flatten(2)


class FeedForward(nn.Module):
    def __init__(self, width, inner, narrow=None):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(width, inner), nn.Linear(inner, width), nn.LayerNorm(width, EPS)
        self.down = self.up = None
        if narrow:
            self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)

    def forward(self, x):
        y = F.dropout(self.second(F.gelu(self.first(x))), 0.1, self.training)
        if self.down is not None:
            y = y + self.up(torch.relu(self.down(self.norm(y))))
        return self.norm(y + x)


class Half(nn.Module):
    """Attention and what ends it."""

    def __init__(self, asking, attended, width, heads):
        super().__init__()
        self.attention = Attention(asking, attended, width, heads)
        self.dense, self.norm = nn.Linear(width, asking), nn.LayerNorm(asking, EPS)

    def forward(self, x, y, bias):
        return self.norm(x + F.dropout(self.dense(self.attention(x, y, bias)), 0.1, self.training))


class Model(nn.Module):
    def __init__(self, c, mode):
        super().__init__()
        t, v, bi, heads = c["hidden_size"], c["v_hidden_size"], c["bi_hidden_size"], c["bi_num_attention_heads"]
        inner, v_inner = c["intermediate_size"], c["v_intermediate_size"]
        narrow = (t // 10, v // 10) if mode == "pe" else (None, None)
        self.places = list(zip(c["t_biattention_id"], c["v_biattention_id"]))
        base = nn.ModuleDict({
            "words": nn.Embedding(c["vocab_size"], t, padding_idx=0),
            "positions": nn.Embedding(c["max_position_embeddings"], t),
            "types": nn.Embedding(2, t), "t_norm": nn.LayerNorm(t, EPS),
            "features": nn.Linear(c["v_feature_size"], v), "locations": nn.Linear(5, v), "v_norm": nn.LayerNorm(v, EPS),
            "t": nn.ModuleList(
                nn.ModuleList([Half(t, t, t, c["num_attention_heads"]), FeedForward(t, inner, narrow[0])])
                for _ in range(c["num_hidden_layers"])),
            "v": nn.ModuleList(
                nn.ModuleList([Half(v, v, v, c["v_num_attention_heads"]), FeedForward(v, v_inner, narrow[1])])
                for _ in range(c["v_num_hidden_layers"])),
            "c": nn.ModuleList(
                nn.ModuleList([Half(t, v, bi, heads), FeedForward(t, inner), Half(v, t, bi, heads), FeedForward(v, v_inner)])
                for _ in self.places),
            "t_pooler": nn.Linear(t, bi), "v_pooler": nn.Linear(v, bi),
        })
        if mode in ("fc", "pe"):
            base.requires_grad_(False)
        for layer in [*base["t"], *base["v"]] if mode == "pe" else []:
            layer[1].down.requires_grad_(True)
            layer[1].up.requires_grad_(True)
        self.base = base
        self.head = nn.Sequential(nn.Linear(bi, bi), nn.GELU(), nn.LayerNorm(bi, EPS), nn.Linear(bi, 2))

    def forward(self, ids, mask, kinds, visual, visual_mask, locations):
        b = self.base
        t = b["words"](ids) + b["positions"](torch.arange(ids.shape[1], device=ids.device)) + b["types"](kinds)
        t = F.dropout(b["t_norm"](t), 0.1, self.training)
        v = F.dropout(b["v_norm"](b["features"](visual) + b["locations"](locations)), 0.1, self.training)
        t_bias, v_bias = ((1.0 - m[:, None, None, :].float()) * -10000.0 for m in (mask, visual_mask))

        def run(layers, x, bias):
            for attention, feed_forward in layers:
                x = feed_forward(attention(x, x, bias))
            return x

        i = j = 0
        for (to_i, to_j), (t_half, t_end, v_half, v_end) in zip(self.places, b["c"]):
            t, v = run(b["t"][i:to_i], t, t_bias), run(b["v"][j:to_j], v, v_bias)
            i, j = to_i, to_j
            t, v = t_end(t_half(t, v, v_bias)), v_end(v_half(v, t, t_bias))
        t, v = run(b["t"][i:], t, t_bias), run(b["v"][j:], v, v_bias)
        pooled = torch.relu(b["t_pooler"](t[:, 0])) * torch.relu(b["v_pooler"](v[:, 0]))
        return self.head(F.dropout(pooled, 0.1, self.training))
