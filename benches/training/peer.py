"""The PyTorch side of `run.py`: VisualBERT of Hugging Face with the paper's adapters and head, or the ViLBERT of `vilbert.py`,
trained or evaluated.

    python benches/training/peer.py WORK.json

WORK.json is what `run.py` writes; the answer is one JSON line. Texts are padded to `pad`, as MMF does, and nothing is
skipped: MMF computes every row of every layer.
"""

import json
import resource
import sys
import time

import torch
from torch import nn

work = json.load(open(sys.argv[1]))
torch.set_num_threads(work["threads"])
device = torch.device(work["device"])
torch.manual_seed(0)
mode, regions, pad = work["mode"], work["regions"], work["pad"]
c = work["config"]
hidden = c["hidden_size"]
is_vilbert = c.get("model_type") == "vilbert"


class AdapterOutput(nn.Module):
    """The second half of a layer with the paper's adapter: the LayerNorm is used twice."""

    def __init__(self, old):
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = old.dense, old.LayerNorm, old.dropout
        self.down, self.up = nn.Linear(hidden, hidden // 10), nn.Linear(hidden // 10, hidden)

    def forward(self, x, attended):
        x = self.dropout(self.dense(x))
        change = self.up(torch.relu(self.down(self.LayerNorm(x))))
        return self.LayerNorm(change + x + attended)


class VisualBert(nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import VisualBertConfig, VisualBertModel

        config = VisualBertConfig(
            vocab_size=c["vocab_size"], hidden_size=hidden, num_hidden_layers=c["num_hidden_layers"],
            num_attention_heads=c["num_attention_heads"], intermediate_size=c["intermediate_size"],
            visual_embedding_dim=c["visual_embedding_dim"], hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        self.base = VisualBertModel(config)
        if mode in ("fc", "pe"):
            self.base.requires_grad_(False)
        if mode == "pe":
            for layer in self.base.encoder.layer:
                layer.output = AdapterOutput(layer.output)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=1e-12), nn.Linear(hidden, 2))

    def forward(self, ids, mask, kinds, visual, visual_mask):
        out = self.base(
            input_ids=ids, attention_mask=mask, token_type_ids=kinds, visual_embeds=visual,
            visual_attention_mask=visual_mask, visual_token_type_ids=torch.zeros_like(visual_mask))
        return self.head(self.dropout(out.pooler_output))


if is_vilbert:
    from vilbert import Model

model = (Model(c, mode) if is_vilbert else VisualBert()).to(device)
run = torch.compile(model) if work["compile"] else model
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=work["precision"] == "bf16")
torch.backends.cuda.matmul.allow_tf32 = work["precision"] == "tf32"


def batch(lengths):
    rows = len(lengths)
    mask = torch.zeros(rows, pad, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    ids = torch.randint(5, c["vocab_size"], (rows, pad)) * mask
    width = c["v_feature_size" if is_vilbert else "visual_embedding_dim"]
    inputs = ids, mask, torch.zeros_like(ids), torch.randn(rows, regions, width).abs(), torch.ones(rows, regions).long()
    inputs = (*inputs, torch.rand(rows, regions, 5)) if is_vilbert else inputs
    return tuple(tensor.to(device) for tensor in inputs)


def wait():
    if device.type == "cuda":
        torch.cuda.synchronize()


def step(inputs):
    labels = torch.arange(inputs[0].shape[0], device=device) % 2
    if work["evaluate"]:
        model.eval()
        with torch.no_grad(), autocast:
            run(*inputs)
        return
    model.train()
    with autocast:
        loss = nn.functional.cross_entropy(run(*inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


seconds = []
for lengths in work["texts"]:
    inputs = batch(lengths)
    wait()
    start = time.perf_counter()
    step(inputs)
    wait()
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
