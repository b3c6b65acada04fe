"""Loads what `repro export` wrote with `torch.load` and with Hugging Face transformers, and compares their logits.

    repro export hmd-pe-train --to mmf --out run.pth
    repro export hmd-pe-train --to huggingface --out run
    python stages/tests/reference/exports.py run.pth run     (pip install torch transformers safetensors)

The first are computed by `visual_bert.py`, the reference of the model, from MMF's names; the second by transformers'
own VisualBERT. With `--strided FILE` it writes the fixture of tensors that are not row-major instead.
"""

import sys

import torch

if sys.argv[1] == "--strided":
    whole = torch.arange(12.0).reshape(3, 4)
    views = {"whole": whole, "transposed": whole.t(), "columns": whole[:, ::2], "part": whole[1:, 1:3]}
    torch.save(views, sys.argv[2])
    sys.exit()

from transformers import AutoModelForSequenceClassification

from visual_bert import Model

state = torch.load(sys.argv[1], weights_only=True)["model"]
model, report = AutoModelForSequenceClassification.from_pretrained(
    sys.argv[2], trust_remote_code=True, output_loading_info=True)
left = {key: value for key, value in report.items() if value}
assert not left, left
c = model.config.to_dict()
adapters = bool(c["adapter_parts"])
assert c["adapter_parts"] in ([], ["output"]), "the reference knows adapters after the feed-forward part alone"
torch.manual_seed(1)
rows, length, regions = 3, 7, 5
ids = torch.randint(5, c["vocab_size"], (rows, length))
mask = torch.ones(rows, length + regions)
mask[1, 4:length] = 0
mask[2, -2:] = 0
visual = torch.randn(rows, regions, c["visual_embedding_dim"], dtype=torch.float32).abs()
wide = {name: value.double() for name, value in state.items()}
theirs = Model(c, adapters).logits(wide, (ids, visual.double(), mask.double()))
model.eval().float()
with torch.no_grad():
    ours = model(
        input_ids=ids, attention_mask=mask[:, :length].float(), visual_embeds=visual,
        visual_attention_mask=mask[:, length:].float()).logits
difference = (theirs - ours.double()).abs().max().item()
print(f"{len(state)} tensors, {'with' if adapters else 'without'} adapters: logits differ by {difference:.1e} at most")
assert difference < 1e-5
