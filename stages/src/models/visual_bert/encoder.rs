//! The encoder: BERT's layers over the whole sequence.

use candle_core::{Error, Result, Tensor};

use super::super::bert::{Layer, Rows, key_bias};
use super::{Config, embeddings};
use crate::nn::{DropoutAt, ParamStore};

#[derive(Debug, Clone)]
pub struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    /// The first place of dropout after the encoder's.
    pub fn end(config: &Config) -> u32 {
        embeddings::SITE + 1 + Layer::SITES * config.num_hidden_layers as u32
    }

    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let layer = |index: usize| {
            let site = embeddings::SITE + 1 + Layer::SITES * index as u32;
            Layer::load(params, &format!("model.bert.encoder.layer.{index}"), &config.layer(), site)
        };
        Ok(Self { layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()? })
    }

    /// `x` [B, S, H], `mask` [B, S] → [B, S, H], or [B, 1, H] of the first rows.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &Tensor,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        if mask.dims() != [batch, length] {
            let found = mask.dims();
            return Err(Error::msg(format!("a batch of {batch} × {length} has a mask of shape {found:?}")));
        }
        let bias = key_bias(mask)?;
        let last = self.layers.len() - 1;
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let rows = if index == last { rows } else { Rows::All };
            x = layer.forward(&x, &bias, rows, dropout)?;
        }
        Ok(x)
    }
}
