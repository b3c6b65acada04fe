//! ViLBERT: an encoder for the tokens of a text and one for the regions of a picture, which attend to each other, with a
//! classification head over the product of what both pool.
//!
//! Names of parameters are the original checkpoint's. Some of its tensors are stored, counted and never used
//! (`q_dense1`, `q_dense2`): they are in the list of parameters, and no block reads them.

mod checkpoint_names;
mod co_attention;
mod config;
mod embeddings;
mod encoder;
mod head;
mod shapes;

use candle_core::{Error, Result, Tensor};

pub use config::Config;

use super::bert::{Classifier, key_bias};
use super::{Architecture, Batch, Model};
use crate::nn::{DropoutAt, ParamStore};
use embeddings::Embeddings;
use encoder::Encoder;
use head::Head;

/// The hidden states of both streams.
#[derive(Debug, Clone)]
struct Streams {
    /// [B, T, H].
    text: Tensor,
    /// [B, R, V].
    vision: Tensor,
}

/// What the masks of the streams [B, T] and [B, R] add to the scores of keys.
#[derive(Debug, Clone)]
struct Biases {
    text: Tensor,
    vision: Tensor,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Vilbert {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Option<Head>,
}

impl Vilbert {
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

    /// The embedded streams, and what their masks add to scores.
    fn embed(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<(Streams, Biases)> {
        let streams = self.embeddings.forward(batch, dropout)?;
        let (rows, tokens, _) = streams.text.dims3()?;
        let regions = streams.vision.dim(1)?;
        if streams.vision.dim(0)? != rows || batch.mask.dims() != [rows, tokens + regions] {
            let (vision, mask) = (streams.vision.dims(), batch.mask.dims());
            return Err(Error::msg(format!(
                "a batch of {rows} × {tokens} tokens has regions of shape {vision:?} and a mask of shape {mask:?}"
            )));
        }
        let bias = key_bias(&batch.mask)?;
        let biases = Biases {
            text: bias.narrow(1, 0, tokens)?.contiguous()?,
            vision: bias.narrow(1, tokens, regions)?.contiguous()?,
        };
        Ok((streams, biases))
    }
}

impl Model for Vilbert {
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let (streams, biases) = self.embed(batch, dropout)?;
        self.encoder.text(streams, &biases, dropout)
    }

    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let head =
            self.head.as_ref().ok_or_else(|| Error::msg("these weights have no classification head"))?;
        let (streams, biases) = self.embed(batch, dropout)?;
        // The head reads the first row of either stream only.
        head.forward(&self.encoder.first_rows(streams, &biases, dropout)?, dropout)
    }
}

#[cfg(test)]
mod tests;
