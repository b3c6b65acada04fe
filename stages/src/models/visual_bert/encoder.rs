//! The encoder: BERT's layers with the LayerNorm after the residual sum, each with an adapter if there is one.

use candle_core::{Error, Result, Tensor};

use super::Config;
use super::adapter::Adapter;
use super::embeddings;
use crate::nn::{Activation, DropoutAt, Kernels, LayerNorm, Linear, Mask, Mlp, Params, SelfAttention};

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
    attention: SelfAttention,
    attention_output: Linear,
    attention_end: End,
    feed_forward: Mlp,
    output_end: End,
    site: u32,
}

/// How each half of a layer ends: the LayerNorm of its output and its input, with an adapter if there is one.
#[derive(Debug, Clone)]
struct End {
    adapter: Option<Adapter>,
    norm: LayerNorm,
    kernels: Kernels,
}

impl End {
    fn load(config: &Config, params: &Params, name: &str) -> Result<Self> {
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        Ok(Self {
            adapter: Adapter::load(config, params, name)?,
            norm: LayerNorm::load(params, &format!("{name}.LayerNorm"), hidden, eps)?,
            kernels: params.kernels(),
        })
    }

    fn forward(&self, x: &Tensor, mask: Option<Mask>, residual: &Tensor) -> Result<Tensor> {
        let Some(adapter) = &self.adapter else { return self.norm.forward_sum(x, mask, residual) };
        // The adapter reads what the half's own LayerNorm makes of its output alone.
        let x = self.kernels.dropout(x, mask)?;
        let change = adapter.forward(&self.norm.forward(&x)?)?;
        self.norm.forward_sum(&change, None, &(x + residual)?)
    }
}

impl Layer {
    fn load(config: &Config, params: &Params, index: usize) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("model.bert.encoder.layer.{index}.{part}");
        let (first, second) = (name("intermediate.dense"), name("output.dense"));
        Ok(Self {
            attention: SelfAttention::load(
                params,
                &name("attention.self"),
                hidden,
                config.num_attention_heads,
            )?,
            attention_output: Linear::load(params, &name("attention.output.dense"), hidden, hidden)?,
            attention_end: End::load(config, params, &name("attention.output"))?,
            feed_forward: Mlp::load(params, &first, &second, (hidden, inner), Activation::Gelu)?,
            output_end: End::load(config, params, &name("output"))?,
            site: embeddings::SITE + 1 + 3 * index as u32,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor, rows: Rows, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let mask = |offset: u32| dropout.map(|dropout| dropout.site(self.site + offset));
        let wanted = match rows {
            Rows::All => x.clone(),
            Rows::First => x.narrow(1, 0, 1)?.contiguous()?,
        };
        let context = self.attention.forward(&wanted, x, bias, mask(0))?;
        let attended = self.attention_output.forward(&context)?;
        let attended = self.attention_end.forward(&attended, mask(1), &wanted)?;
        self.output_end.forward(&self.feed_forward.forward(&attended)?, mask(2), &attended)
    }
}
