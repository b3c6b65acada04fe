"""VisualBERT with the paper's adapters and classification head, for Hugging Face transformers.

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)
    logits = model(input_ids=…, attention_mask=…, visual_embeds=…, visual_attention_mask=…).logits
"""

import torch
from torch import nn
from transformers import VisualBertModel, VisualBertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class AdapterOutput(nn.Module):
    """The end of half a layer with an adapter, which reads what the LayerNorm makes of the half's output alone."""

    def __init__(self, plain, config):
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = plain.dense, plain.LayerNorm, plain.dropout
        self.AdaptComb1 = nn.Linear(config.hidden_size, config.adapter_width)
        self.AdaptComb2 = nn.Linear(config.adapter_width, config.hidden_size)

    def forward(self, hidden_states, input_tensor):
        x = self.dropout(self.dense(hidden_states))
        change = self.AdaptComb2(torch.relu(self.AdaptComb1(self.LayerNorm(x))))
        return self.LayerNorm(change + x + input_tensor)


class Transform(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x):
        return self.LayerNorm(nn.functional.gelu(self.dense(x)))


class MemeClassifier(VisualBertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.visual_bert = VisualBertModel(config)
        for layer in self.visual_bert.encoder.layer:
            if "output" in config.adapter_parts:
                layer.output = AdapterOutput(layer.output, config)
            if "attention.output" in config.adapter_parts:
                layer.attention.output = AdapterOutput(layer.attention.output, config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Sequential(Transform(config), nn.Linear(config.hidden_size, config.num_labels))
        self.post_init()

    def forward(self, input_ids, attention_mask, visual_embeds, visual_attention_mask):
        # Every region has visual type 0, as the original gives it; the library's default is 1.
        kinds = torch.zeros(visual_embeds.shape[:2], dtype=torch.long, device=visual_embeds.device)
        pooled = self.visual_bert(
            input_ids=input_ids, attention_mask=attention_mask, visual_embeds=visual_embeds,
            visual_attention_mask=visual_attention_mask, visual_token_type_ids=kinds).pooler_output
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))
