//! The encoder: BERT's layers with the LayerNorm after the residual sum, each with an adapter if there is one.

use candle_core::{Error, Result, Tensor};

use super::Config;
use super::adapter::Adapter;
use super::embeddings;
use crate::nn::{Activation, DropoutAt, Kernels, LayerNorm, Linear, Mlp, Params, SelfAttention};

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
    attention_norm: LayerNorm,
    feed_forward: Mlp,
    adapter: Option<Adapter>,
    output_norm: LayerNorm,
    kernels: Kernels,
    site: u32,
}

impl Layer {
    fn load(config: &Config, params: &Params, index: usize) -> Result<Self> {
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
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
            attention_norm: LayerNorm::load(params, &name("attention.output.LayerNorm"), hidden, eps)?,
            feed_forward: Mlp::load(params, &first, &second, (hidden, inner), Activation::Gelu)?,
            adapter: Adapter::load(config, params, &name("output"))?,
            output_norm: LayerNorm::load(params, &name("output.LayerNorm"), hidden, eps)?,
            kernels: params.kernels(),
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
        let attended = self.attention_norm.forward_sum(&attended, mask(1), &wanted)?;

        let inner = self.feed_forward.forward(&attended)?;
        let Some(adapter) = &self.adapter else {
            return self.output_norm.forward_sum(&inner, mask(2), &attended);
        };
        // The adapter reads what the layer's own LayerNorm makes of the feed-forward output alone.
        let inner = self.kernels.dropout(&inner, mask(2))?;
        let change = adapter.forward(&self.output_norm.forward(&inner)?)?;
        self.output_norm.forward_sum(&change, None, &(inner + attended)?)
    }
}
