//! From the first row's hidden state to class logits: the base's pooler, then the classifier.

use candle_core::{Result, Tensor};

use super::super::bert::Classifier;
use super::Config;
use super::encoder::Encoder;
use crate::nn::{Activation, DropoutAt, Kernels, Linear, ParamStore};

#[derive(Debug, Clone)]
pub struct Head {
    pooler: Linear,
    classifier: Classifier,
    kernels: Kernels,
    site: u32,
}

impl Head {
    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            pooler: Linear::load(params, "model.bert.pooler.dense", hidden, hidden)?,
            classifier: Classifier::load(params, hidden, config.layer_norm_eps)?,
            kernels: params.kernels(),
            site: Encoder::end(config),
        })
    }

    /// [B, H] → [B, 2].
    pub fn forward(&self, first: &Tensor, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let pooled = self.kernels.activate(&self.pooler.forward(first)?, Activation::Tanh)?;
        let pooled = self.kernels.dropout(&pooled, dropout.map(|dropout| dropout.site(self.site)))?;
        self.classifier.forward(&pooled)
    }
}
