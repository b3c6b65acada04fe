//! Embeddings: tokens with their positions, then regions through a projection, normalised together.

use candle_core::{Error, Result, Tensor};

use super::super::Batch;
use super::super::bert::TextEmbeddings;
use super::Config;
use crate::nn::{DropoutAt, Kernels, LayerNorm, Linear, ParamStore};

/// The dropout site of the embeddings; the layers' come after it.
pub const SITE: u32 = 0;

#[derive(Debug, Clone)]
pub struct Embeddings {
    words: TextEmbeddings,
    projection: Linear,
    visual_positions: Tensor,
    visual_types: Tensor,
    norm: LayerNorm,
    kernels: Kernels,
}

impl Embeddings {
    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let hidden = config.hidden_size;
        let name = |part: &str| format!("model.bert.embeddings.{part}");
        let table = |part: &str, rows: usize| params.get_shaped(&name(part), &[rows, hidden]);
        Ok(Self {
            words: TextEmbeddings::load(
                params,
                "model.bert.embeddings",
                config.words(),
                config.pad_token_id,
            )?,
            projection: Linear::load(params, &name("projection"), config.visual_embedding_dim, hidden)?,
            visual_positions: table("position_embeddings_visual.weight", config.max_position_embeddings)?,
            visual_types: table("token_type_embeddings_visual.weight", config.type_vocab_size)?,
            norm: LayerNorm::load(params, &name("LayerNorm"), hidden, config.layer_norm_eps)?,
            kernels: params.kernels(),
        })
    }

    /// [B, T + R, H].
    pub fn forward(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let text = self.words.forward(&batch.ids)?;
        let rows = text.dim(0)?;
        // Every region has visual position 0 and visual type 0: the original supplies no alignment.
        let regions = self.projection.forward(&batch.regions)?;
        let regions = self.kernels.add_rows(&regions, &self.visual_positions.narrow(0, 0, 1)?)?;
        let regions = self.kernels.add_rows(&regions, &self.visual_types.narrow(0, 0, 1)?)?;
        if regions.dim(0)? != rows {
            let found = regions.dim(0)?;
            return Err(Error::msg(format!("a batch of {rows} texts has regions of {found} pictures")));
        }
        let x = self.norm.forward(&Tensor::cat(&[text, regions], 1)?)?;
        self.kernels.dropout(&x, dropout.map(|dropout| dropout.site(SITE)))
    }
}
