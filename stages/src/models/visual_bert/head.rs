//! From the first row's hidden state to class logits: the base's pooler, then the classifier.

use candle_core::{Result, Tensor};

use super::{Config, embeddings};
use crate::nn::{DropoutAt, LayerNorm, Linear, Params, gelu};

#[derive(Debug, Clone)]
pub struct Head {
    pooler: Linear,
    dense: Linear,
    norm: LayerNorm,
    classes: Linear,
    site: u32,
}

impl Head {
    pub fn load(config: &Config, params: &Params) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            pooler: Linear::load(params, "model.bert.pooler.dense", hidden, hidden)?,
            dense: Linear::load(params, "model.classifier.0.dense", hidden, hidden)?,
            norm: LayerNorm::load(params, "model.classifier.0.LayerNorm", hidden, config.layer_norm_eps)?,
            classes: Linear::load(params, "model.classifier.1", hidden, 2)?,
            site: embeddings::SITE + 1 + 3 * config.num_hidden_layers as u32,
        })
    }

    /// [B, H] → [B, 2].
    pub fn forward(&self, first: &Tensor, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let mut pooled = self.pooler.forward(first)?.tanh()?;
        if let Some(dropout) = dropout {
            pooled = dropout.site(self.site).apply(&pooled)?;
        }
        self.classes.forward(&self.norm.forward(&gelu(&self.dense.forward(&pooled)?)?)?)
    }
}
