//! Embeddings: tokens with their positions; regions by what they show and where they are. Each stream is normalised alone.

use candle_core::Result;

use super::super::Batch;
use super::super::bert::TextEmbeddings;
use super::{Config, Streams};
use crate::nn::{DropoutAt, Kernels, LayerNorm, Linear, ParamStore};

/// The dropout site of the text's embeddings; the regions' follows.
const SITE: u32 = 0;

#[derive(Debug, Clone)]
pub struct Embeddings {
    words: TextEmbeddings,
    text_norm: LayerNorm,
    features: Linear,
    locations: Linear,
    vision_norm: LayerNorm,
    kernels: Kernels,
}

impl Embeddings {
    /// Places of dropout: one a stream.
    pub const SITES: u32 = 2;

    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let (hidden, wide, eps) = (config.hidden_size, config.v_hidden_size, config.layer_norm_eps);
        let regions = |part: &str| format!("model.bert.v_embeddings.{part}");
        Ok(Self {
            words: TextEmbeddings::load(
                params,
                "model.bert.embeddings",
                config.words(),
                config.pad_token_id,
            )?,
            text_norm: LayerNorm::load(params, "model.bert.embeddings.LayerNorm", hidden, eps)?,
            features: Linear::load(params, &regions("image_embeddings"), config.v_feature_size, wide)?,
            locations: Linear::load(params, &regions("image_location_embeddings"), 5, wide)?,
            vision_norm: LayerNorm::load(params, &regions("LayerNorm"), wide, eps)?,
            kernels: params.kernels(),
        })
    }

    pub fn forward(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Streams> {
        let text = self.text_norm.forward(&self.words.forward(&batch.ids)?)?;
        let shown = self.features.forward(&batch.regions)?;
        let placed = self.locations.forward(&batch.locations)?;
        let vision = self.vision_norm.forward_sum(&shown, None, &placed)?;
        let mask = |site: u32| dropout.map(|dropout| dropout.site(site));
        Ok(Streams {
            text: self.kernels.dropout(&text, mask(SITE))?,
            vision: self.kernels.dropout(&vision, mask(SITE + 1))?,
        })
    }
}
