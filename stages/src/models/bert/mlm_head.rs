//! The head of masked-language-model pretraining. The classification model does not know it.

use candle_core::{Result, Tensor};

use super::super::{Architecture, Dimensions};
use crate::nn::{Activation, Kernels, LayerNorm, Linear, ParamStore};

/// Predicts words from hidden states: a transform, then a decoder whose weights are the word embeddings.
#[derive(Debug, Clone)]
pub struct MlmHead {
    transform: Linear,
    norm: LayerNorm,
    decoder: Linear,
    kernels: Kernels,
}

impl MlmHead {
    /// Takes its parameters, and the word embeddings, from `params`.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn new(model: &dyn Architecture, params: &ParamStore) -> Result<Self> {
        let Dimensions { words, hidden, layer_norm_eps, .. } = model.dimensions();
        let name = |part: &str| format!("model.cls.predictions.{part}");
        Ok(Self {
            transform: Linear::load(params, &name("transform.dense"), hidden, hidden)?,
            norm: LayerNorm::load(params, &name("transform.LayerNorm"), hidden, layer_norm_eps)?,
            decoder: Linear::load_tied(
                params,
                "model.bert.embeddings.word_embeddings.weight",
                &name("bias"),
                hidden,
                words,
            )?,
            kernels: params.kernels(),
        })
    }

    /// Rows of hidden states [N, H] → word logits [N, V].
    ///
    /// # Errors
    /// The rows have another width.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let transformed = self.kernels.activate(&self.transform.forward(rows)?, Activation::Gelu)?;
        self.decoder.forward(&self.norm.forward(&transformed)?)
    }
}
