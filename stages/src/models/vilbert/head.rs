//! From the first row of either stream to class logits: two poolers, their product, then the classifier.

use candle_core::{Result, Tensor};

use super::super::bert::Classifier;
use super::encoder::Encoder;
use super::{Config, Streams};
use crate::nn::{Activation, DropoutAt, Kernels, Linear, ParamStore};

#[derive(Debug, Clone)]
pub struct Head {
    text: Linear,
    vision: Linear,
    classifier: Classifier,
    kernels: Kernels,
    site: u32,
}

impl Head {
    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let bi = config.bi_hidden_size;
        Ok(Self {
            text: Linear::load(params, "model.bert.t_pooler.dense", config.hidden_size, bi)?,
            vision: Linear::load(params, "model.bert.v_pooler.dense", config.v_hidden_size, bi)?,
            classifier: Classifier::load(params, bi, config.layer_norm_eps)?,
            kernels: params.kernels(),
            site: Encoder::end(config),
        })
    }

    /// Streams of one row each → [B, 2].
    pub fn forward(&self, first: &Streams, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let pool = |pooler: &Linear, first: &Tensor| {
            self.kernels.activate(&pooler.forward(&first.squeeze(1)?)?, Activation::Relu)
        };
        let (text, vision) = (pool(&self.text, &first.text)?, pool(&self.vision, &first.vision)?);
        let pooled = (text * vision)?;
        let pooled = self.kernels.dropout(&pooled, dropout.map(|dropout| dropout.site(self.site)))?;
        self.classifier.forward(&pooled)
    }
}
