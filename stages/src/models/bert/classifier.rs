//! The classifier: from what a base pools to logits of the two classes.

use candle_core::{Result, Tensor};

use crate::nn::{Activation, Kernels, LayerNorm, Linear, Params};

#[derive(Debug, Clone)]
pub struct Classifier {
    dense: Linear,
    norm: LayerNorm,
    classes: Linear,
    kernels: Kernels,
}

impl Classifier {
    /// Whether the parameters have one.
    pub fn is_in(params: &Params) -> bool {
        params.iter().any(|(name, _)| name.starts_with("model.classifier."))
    }

    pub fn load(params: &Params, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            dense: Linear::load(params, "model.classifier.0.dense", width, width)?,
            norm: LayerNorm::load(params, "model.classifier.0.LayerNorm", width, eps)?,
            classes: Linear::load(params, "model.classifier.1", width, 2)?,
            kernels: params.kernels(),
        })
    }

    /// [B, W] → [B, 2].
    pub fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        let transformed = self.kernels.activate(&self.dense.forward(pooled)?, Activation::Gelu)?;
        self.classes.forward(&self.norm.forward(&transformed)?)
    }
}
