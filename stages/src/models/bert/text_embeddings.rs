//! The text's embeddings before their LayerNorm: words, positions and the type of segment.

use candle_core::{DType, Error, Result, Tensor};

use crate::nn::{Kernels, ParamStore};

#[derive(Debug, Clone)]
pub struct TextEmbeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    pad: u32,
    kernels: Kernels,
}

/// Rows of the tables of [`TextEmbeddings`], and their width.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingDims {
    pub words: usize,
    pub positions: usize,
    pub types: usize,
    pub hidden: usize,
}

impl TextEmbeddings {
    /// The tables under `name`; the row of the word `pad` receives no gradient.
    pub fn load(params: &ParamStore, name: &str, size: EmbeddingDims, pad: u32) -> Result<Self> {
        let table = |part: &str, rows: usize| {
            params.get_shaped(&format!("{name}.{part}_embeddings.weight"), &[rows, size.hidden])
        };
        Ok(Self {
            words: table("word", size.words)?,
            positions: table("position", size.positions)?,
            types: table("token_type", size.types)?,
            pad,
            kernels: params.kernels(),
        })
    }

    /// [B, T] → [B, T, H].
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let tokens = ids.dim(1)?;
        let longest = self.positions.dim(0)?;
        if tokens > longest {
            return Err(Error::msg(format!(
                "a text of {tokens} tokens is longer than the model's {longest}"
            )));
        }
        // All tokens have segment 0.
        let text = self.words(ids)?;
        let text = self.kernels.add_rows(&text, &self.positions.narrow(0, 0, tokens)?)?;
        self.kernels.add_rows(&text, &self.types.narrow(0, 0, 1)?)
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
