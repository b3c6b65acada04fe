//! The encoder: BERT's layers with the LayerNorm after the residual sum, each with an adapter if there is one.

use candle_core::{Error, Result, Tensor};

use super::Config;
use super::adapter::Adapter;
use super::embeddings;
use crate::nn::{DropoutAt, LayerNorm, Linear, Params, attention, gelu};

/// Which rows of the sequence are wanted of the last layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    /// The first alone, `[CLS]`; all others are still attended to.
    First,
}

#[derive(Debug, Clone)]
pub struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub fn load(config: &Config, params: &Params) -> Result<Self> {
        let layers = (0..config.num_hidden_layers).map(|index| Layer::load(config, params, index));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
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
        // −10000 rather than −∞, as the original: added to a score it makes the probability exactly 0 in f32.
        let bias = mask.affine(10_000.0, -10_000.0)?;
        let last = self.layers.len() - 1;
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let rows = if index == last { rows } else { Rows::All };
            x = layer.forward(&x, &bias, rows, dropout)?;
        }
        Ok(x)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    adapter: Option<Adapter>,
    output_norm: LayerNorm,
    heads: usize,
    site: u32,
}

impl Layer {
    fn load(config: &Config, params: &Params, index: usize) -> Result<Self> {
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let name = |part: &str| format!("model.bert.encoder.layer.{index}.{part}");
        let linear = |part: &str, inputs, outputs| Linear::load(params, &name(part), inputs, outputs);
        Ok(Self {
            query: linear("attention.self.query", hidden, hidden)?,
            key: linear("attention.self.key", hidden, hidden)?,
            value: linear("attention.self.value", hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: LayerNorm::load(params, &name("attention.output.LayerNorm"), hidden, eps)?,
            intermediate: linear("intermediate.dense", hidden, inner)?,
            output: linear("output.dense", inner, hidden)?,
            adapter: Adapter::load(config, params, &name("output"))?,
            output_norm: LayerNorm::load(params, &name("output.LayerNorm"), hidden, eps)?,
            heads: config.num_attention_heads,
            site: embeddings::SITE + 1 + 3 * index as u32,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor, rows: Rows, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let mask = |offset: u32| dropout.map(|dropout| dropout.site(self.site + offset));
        let dropped = |x: Tensor, offset: u32| match mask(offset) {
            Some(mask) => mask.apply(&x),
            None => Ok(x),
        };
        let wanted = match rows {
            Rows::All => x.clone(),
            Rows::First => x.narrow(1, 0, 1)?.contiguous()?,
        };
        let (q, k, v) = (self.query.forward(&wanted)?, self.key.forward(x)?, self.value.forward(x)?);
        let context = attention(&q, &k, &v, bias, self.heads, mask(0))?;
        let attended = dropped(self.attention_output.forward(&context)?, 1)?;
        let attended = self.attention_norm.forward(&(attended + wanted)?)?;

        let inner = gelu(&self.intermediate.forward(&attended)?)?;
        let inner = dropped(self.output.forward(&inner)?, 2)?;
        let sum = (&inner + attended)?;
        match &self.adapter {
            None => self.output_norm.forward(&sum),
            // The adapter reads what the layer's own LayerNorm makes of the feed-forward output alone.
            Some(adapter) => {
                let change = adapter.forward(&self.output_norm.forward(&inner)?)?;
                self.output_norm.forward(&(change + sum)?)
            }
        }
    }
}
