//! The classifier: from what a base pools to logits of the two classes.

use candle_core::{Result, Tensor};

use crate::nn::{Activation, Kernels, LayerNorm, Linear, ParamStore};

/// The name here of the classifier's tensor `name` of a checkpoint: MMF's spellings now and before, then that of exports for
/// Hugging Face; nothing for what is not of a classifier.
pub fn classifier_name(name: &str) -> Option<String> {
    let prefixes = ["model.classifier.", "bert.classifier.", "classifier."];
    let part = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    Some(format!("{PREFIX}{part}"))
}

/// What the names of its tensors begin with.
const PREFIX: &str = "model.classifier.";

#[derive(Debug, Clone)]
pub struct Classifier {
    dense: Linear,
    norm: LayerNorm,
    classes: Linear,
    kernels: Kernels,
}

impl Classifier {
    /// Whether the parameters have one.
    pub fn is_in(params: &ParamStore) -> bool {
        params.iter().any(|(name, _)| name.starts_with(PREFIX))
    }

    pub fn load(params: &ParamStore, width: usize, eps: f64) -> Result<Self> {
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
