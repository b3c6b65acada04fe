//! Embeddings: tokens with their positions, then regions through a projection, normalised together.

use candle_core::{DType, Error, Result, Tensor};

use super::{Batch, Config};
use crate::nn::{DropoutAt, Kernels, LayerNorm, Linear, Params};

/// The dropout site of the embeddings; the layers' come after it.
pub const SITE: u32 = 0;

#[derive(Debug, Clone)]
pub struct Embeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    projection: Linear,
    visual_positions: Tensor,
    visual_types: Tensor,
    norm: LayerNorm,
    pad: u32,
    kernels: Kernels,
}

impl Embeddings {
    pub fn load(config: &Config, params: &Params) -> Result<Self> {
        let hidden = config.hidden_size;
        let name = |part: &str| format!("model.bert.embeddings.{part}");
        let table = |part: &str, rows: usize| params.get_shaped(&name(part), &[rows, hidden]);
        Ok(Self {
            words: table("word_embeddings.weight", config.vocab_size)?,
            positions: table("position_embeddings.weight", config.max_position_embeddings)?,
            types: table("token_type_embeddings.weight", config.type_vocab_size)?,
            projection: Linear::load(params, &name("projection"), config.visual_embedding_dim, hidden)?,
            visual_positions: table("position_embeddings_visual.weight", config.max_position_embeddings)?,
            visual_types: table("token_type_embeddings_visual.weight", config.type_vocab_size)?,
            norm: LayerNorm::load(params, &name("LayerNorm"), hidden, config.layer_norm_eps)?,
            pad: config.pad_token_id,
            kernels: params.kernels(),
        })
    }

    /// [B, T + R, H].
    pub fn forward(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let (rows, tokens) = batch.ids.dims2()?;
        let longest = self.positions.dim(0)?;
        if tokens > longest {
            return Err(Error::msg(format!(
                "a text of {tokens} tokens is longer than the model's {longest}"
            )));
        }
        // All tokens have segment 0.
        let text = self.words(&batch.ids)?;
        let text = text.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let text = text.broadcast_add(&self.types.narrow(0, 0, 1)?)?;
        // Every region has visual position 0 and visual type 0: the original supplies no alignment.
        let regions = self.projection.forward(&batch.regions)?;
        let regions = regions.broadcast_add(&self.visual_positions.narrow(0, 0, 1)?)?;
        let regions = regions.broadcast_add(&self.visual_types.narrow(0, 0, 1)?)?;
        if regions.dim(0)? != rows {
            let found = regions.dim(0)?;
            return Err(Error::msg(format!("a batch of {rows} texts has regions of {found} pictures")));
        }
        let x = self.norm.forward(&Tensor::cat(&[text, regions], 1)?)?;
        self.kernels.dropout(&x, dropout.map(|dropout| dropout.site(SITE)))
    }

    /// Word embeddings [B, T, H]. The row of `[PAD]` is read like any other but receives no gradient.
    fn words(&self, ids: &Tensor) -> Result<Tensor> {
        let (rows, tokens) = ids.dims2()?;
        let words = self.words.index_select(&ids.flatten_all()?, 0)?.reshape((rows, tokens, ()))?;
        if !words.track_op() {
            return Ok(words);
        }
        let padding = ids.eq(self.pad)?.to_dtype(DType::F32)?.unsqueeze(2)?;
        let frozen = words.detach().broadcast_mul(&padding)?;
        words.broadcast_mul(&(1.0 - padding)?)?.add(&frozen)
    }
}
