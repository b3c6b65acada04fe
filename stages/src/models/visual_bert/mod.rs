//! VisualBERT: BERT over the tokens of a text followed by the regions of a picture, with a classification head.
//!
//! Names of parameters are the original checkpoint's, so loading needs no map. The training [`Mode`] is a function
//! from parameter name to trained or not; the model itself does not know it: what is frozen leaves no graph.

mod adapter;
mod config;
mod embeddings;
mod encoder;
mod head;
mod init;
mod mlm_head;
pub mod shapes;

use candle_core::{Error, Result, Tensor};

pub use config::{AdapterPlace, Config, Mode};
pub use init::{Start, complete, fresh, fresh_mlm_head};
pub use mlm_head::MlmHead;

use crate::nn::{DropoutAt, Params};
use embeddings::Embeddings;
use encoder::{Encoder, Rows};
use head::Head;

pub use crate::nn::cross_entropy;

/// What the model reads. Texts may be padded to any common length: padding changes nothing but rounding.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, u32 [B, T]; the first of each row is `[CLS]`.
    pub ids: Tensor,
    /// Region features, f32 [B, R, D].
    pub regions: Tensor,
    /// f32 [B, T + R]: 1 where a token or region is there, 0 where it is padding.
    pub mask: Tensor,
}

/// The model.
#[derive(Debug, Clone)]
pub struct VisualBert {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Option<Head>,
}

impl VisualBert {
    /// Takes its parameters from `params`. The head may be absent (as in pretraining), then there are no
    /// [`logits`](Self::logits).
    ///
    /// # Errors
    /// Dimensions that make no model; a parameter that is missing or has another shape, by name.
    pub fn new(config: &Config, params: &Params) -> Result<Self> {
        config.check()?;
        let head = params.iter().any(|(name, _)| name.starts_with("model.classifier."));
        Ok(Self {
            embeddings: Embeddings::load(config, params)?,
            encoder: Encoder::load(config, params)?,
            head: if head { Some(Head::load(config, params)?) } else { None },
        })
    }

    /// The last layer's output, [B, T + R, H]: tokens first, then regions.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    pub fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let x = self.embeddings.forward(batch, dropout)?;
        self.encoder.forward(&x, &batch.mask, Rows::All, dropout)
    }

    /// Logits of the classes "not hateful" and "hateful", [B, 2].
    ///
    /// # Errors
    /// A batch that does not fit the model, or weights without a head.
    pub fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let head =
            self.head.as_ref().ok_or_else(|| Error::msg("these weights have no classification head"))?;
        let x = self.embeddings.forward(batch, dropout)?;
        // The head reads the first row only, so the last layer computes no other.
        let first = self.encoder.forward(&x, &batch.mask, Rows::First, dropout)?.squeeze(1)?;
        head.forward(&first, dropout)
    }
}

#[cfg(test)]
mod tests;
