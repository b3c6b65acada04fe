//! BERT's layer with the LayerNorm after the residual sum, with adapters where there are any.

use candle_core::{Result, Tensor};

use super::Adapter;
use crate::nn::{
    Activation, Attention, AttentionDims, DropoutAt, Kernels, LayerNorm, Linear, Mask, Mlp, ParamStore,
};

/// Which rows of the sequence are computed by a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    /// The first alone; all others are still attended to.
    First,
}

/// Dimensions of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerSize {
    pub hidden: usize,
    pub heads: usize,
    /// Width within the feed-forward part.
    pub inner: usize,
    pub eps: f64,
    /// What its adapters are called, without the 1 or 2 of their linear layers.
    pub adapter: &'static str,
}

/// What a mask [B, S] of 1 and 0 adds to the scores of keys.
pub fn key_bias(mask: &Tensor) -> Result<Tensor> {
    // −10000 rather than −∞, as the original: added to a score it makes the probability exactly 0 in f32.
    mask.affine(10_000.0, -10_000.0)
}

/// How a part of a layer ends: the LayerNorm of its output and its input, with an adapter if there is one.
#[derive(Debug, Clone)]
pub struct BertOutput {
    adapter: Option<Adapter>,
    norm: LayerNorm,
    kernels: Kernels,
}

impl BertOutput {
    pub fn load(params: &ParamStore, name: &str, size: &LayerSize) -> Result<Self> {
        Ok(Self {
            adapter: Adapter::load(params, &format!("{name}.{}", size.adapter), size.hidden)?,
            norm: LayerNorm::load(params, &format!("{name}.LayerNorm"), size.hidden, size.eps)?,
            kernels: params.kernels(),
        })
    }

    pub fn forward(&self, x: &Tensor, mask: Option<Mask>, residual: &Tensor) -> Result<Tensor> {
        let Some(adapter) = &self.adapter else { return self.norm.forward_sum(x, mask, residual) };
        // The adapter reads what the part's own LayerNorm makes of its output alone.
        let x = self.kernels.dropout(x, mask)?;
        let change = adapter.forward(&self.norm.forward(&x)?)?;
        self.norm.forward_sum(&change, None, &(x + residual)?)
    }
}

#[derive(Debug, Clone)]
pub struct Layer {
    attention: Attention,
    attention_output: Linear,
    attention_end: BertOutput,
    feed_forward: Mlp,
    output_end: BertOutput,
    site: u32,
}

impl Layer {
    /// Places of dropout in a layer.
    pub const SITES: u32 = 3;

    /// The layer of the parameters under `name`; its places of dropout are `site` and those after it.
    pub fn load(params: &ParamStore, name: &str, size: &LayerSize, site: u32) -> Result<Self> {
        let hidden = size.hidden;
        let part = |part: &str| format!("{name}.{part}");
        let projections = ["query", "key", "value"].map(|of| part(&format!("attention.self.{of}")));
        let projections = projections.each_ref().map(String::as_str);
        let (first, second) = (part("intermediate.dense"), part("output.dense"));
        Ok(Self {
            attention: Attention::load(params, projections, AttentionDims::all(hidden), size.heads)?,
            attention_output: Linear::load(params, &part("attention.output.dense"), hidden, hidden)?,
            attention_end: BertOutput::load(params, &part("attention.output"), size)?,
            feed_forward: Mlp::load(params, &first, &second, (hidden, size.inner), Activation::Gelu)?,
            output_end: BertOutput::load(params, &part("output"), size)?,
            site,
        })
    }

    /// `x` [B, S, H], `bias` [B, S] of the keys → [B, S, H], or [B, 1, H] of the first rows.
    pub fn forward(
        &self,
        x: &Tensor,
        bias: &Tensor,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let mask = |offset: u32| dropout.map(|dropout| dropout.site(self.site + offset));
        let queries = match rows {
            Rows::All => x.clone(),
            Rows::First => x.narrow(1, 0, 1)?.contiguous()?,
        };
        let context = self.attention.forward(&queries, x, bias, mask(0))?;
        let attended = self.attention_output.forward(&context)?;
        let attended = self.attention_end.forward(&attended, mask(1), &queries)?;
        self.output_end.forward(&self.feed_forward.forward(&attended)?, mask(2), &attended)
    }
}
