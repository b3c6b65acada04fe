//! VisualBERT: BERT over the tokens of a text followed by the regions of a picture, with a classification head.
//!
//! Names of parameters are the original checkpoint's, so loading needs no map. The training [`Mode`](super::Mode) is a
//! function from parameter name to trained or not; the model itself does not know it: what is frozen leaves no graph.

mod checkpoint_names;
mod config;
mod embeddings;
mod encoder;
mod head;

use candle_core::{Error, Result, Tensor};

pub use config::Config;

use super::bert::{Classifier, Rows};
use super::{Architecture, Batch, Model};
use crate::nn::{DropoutAt, ParamStore};
use embeddings::Embeddings;
use encoder::Encoder;
use head::Head;

/// The model.
#[derive(Debug, Clone)]
pub struct VisualBert {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Option<Head>,
}

impl VisualBert {
    /// Takes its parameters from `params`. The head may be absent (as in pretraining), then there are no
    /// [`logits`](Model::logits).
    ///
    /// # Errors
    /// Dimensions that make no model; a parameter that is missing or has another shape, by name.
    pub fn new(config: &Config, params: &ParamStore) -> Result<Self> {
        config.check()?;
        Ok(Self {
            embeddings: Embeddings::load(config, params)?,
            encoder: Encoder::load(config, params)?,
            head: if Classifier::is_in(params) { Some(Head::load(config, params)?) } else { None },
        })
    }
}

impl Model for VisualBert {
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let x = self.embeddings.forward(batch, dropout)?;
        self.encoder.forward(&x, &batch.mask, Rows::All, dropout)
    }

    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let head =
            self.head.as_ref().ok_or_else(|| Error::msg("these weights have no classification head"))?;
        let x = self.embeddings.forward(batch, dropout)?;
        // The head reads the first row only, so the last layer computes no other.
        let first = self.encoder.forward(&x, &batch.mask, Rows::First, dropout)?.squeeze(1)?;
        head.forward(&first, dropout)
    }
}

#[cfg(test)]
pub(super) mod tests;
