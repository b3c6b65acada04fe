//! From the first row's hidden state to class logits: the base's pooler, then the classifier.

use candle_core::{Result, Tensor};

use super::{Config, embeddings};
use crate::nn::{DropoutAt, Kernels, LayerNorm, Linear, Params};

#[derive(Debug, Clone)]
pub struct Head {
    pooler: Linear,
    dense: Linear,
    norm: LayerNorm,
    classes: Linear,
    kernels: Kernels,
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
            kernels: params.kernels(),
            site: embeddings::SITE + 1 + 3 * config.num_hidden_layers as u32,
        })
    }

    /// [B, H] → [B, 2].
    pub fn forward(&self, first: &Tensor, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let pooled = self.pooler.forward(first)?.tanh()?;
        let pooled = self.kernels.dropout(&pooled, dropout.map(|dropout| dropout.site(self.site)))?;
        let transformed = self.kernels.gelu(&self.dense.forward(&pooled)?)?;
        self.classes.forward(&self.norm.forward(&transformed)?)
    }
}
