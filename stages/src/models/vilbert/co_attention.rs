//! A layer of co-attention: each stream asks the other, then each has a feed-forward part. Both read what came into the
//! layer, and neither attends to itself.

use candle_core::{Result, Tensor};

use super::super::bert::BertOutput;
use super::{Biases, Config, Streams};
use crate::nn::{Activation, Attention, AttentionDims, DropoutAt, LayerNorm, Linear, Mask, Mlp, ParamStore};

#[derive(Debug, Clone)]
pub struct CoAttention {
    text: Side,
    vision: Side,
}

/// What happens to one stream.
#[derive(Debug, Clone)]
struct Side {
    attention: Attention,
    attention_output: Linear,
    attention_norm: LayerNorm,
    feed_forward: Mlp,
    output_end: BertOutput,
    /// Its places of dropout: of the attention, after it, after the feed-forward part.
    sites: [u32; 3],
}

impl CoAttention {
    /// Places of dropout in a layer.
    pub const SITES: u32 = 6;

    pub fn load(config: &Config, params: &ParamStore, index: usize, site: u32) -> Result<Self> {
        let part = |part: &str| format!("model.bert.encoder.c_layer.{index}.{part}");
        let bi = config.bi_hidden_size;
        // In the original's names 1 is the regions and 2 the text.
        let side = |of: &str, own: u8, other: u8, sites: [u32; 3]| -> Result<Side> {
            let size = if own == 1 { config.vision_layer() } else { config.text_layer() };
            let key_value = if own == 1 { config.hidden_size } else { config.v_hidden_size };
            let names = [format!("query{own}"), format!("key{other}"), format!("value{other}")]
                .map(|name| part(&format!("biattention.{name}")));
            let names = names.each_ref().map(String::as_str);
            let dims = AttentionDims { query: size.hidden, key_value, heads: bi };
            let (first, second) = (format!("{of}_intermediate.dense"), format!("{of}_output.dense"));
            Ok(Side {
                attention: Attention::load(params, names, dims, config.bi_num_attention_heads)?,
                attention_output: Linear::load(
                    params,
                    &part(&format!("biOutput.dense{own}")),
                    bi,
                    size.hidden,
                )?,
                attention_norm: LayerNorm::load(
                    params,
                    &part(&format!("biOutput.LayerNorm{own}")),
                    size.hidden,
                    size.eps,
                )?,
                feed_forward: Mlp::load(
                    params,
                    &part(&first),
                    &part(&second),
                    (size.hidden, size.inner),
                    Activation::Gelu,
                )?,
                output_end: BertOutput::load(params, &part(&format!("{of}_output")), &size)?,
                sites: sites.map(|offset| site + offset),
            })
        };
        Ok(Self { text: side("t", 2, 1, [0, 3, 5])?, vision: side("v", 1, 2, [1, 2, 4])? })
    }

    pub fn forward(&self, x: &Streams, biases: &Biases, dropout: Option<&DropoutAt>) -> Result<Streams> {
        Ok(Streams {
            text: self.text(x, biases, dropout)?,
            vision: self.vision.forward(&x.vision, &x.text, &biases.text, dropout)?,
        })
    }

    /// The text alone.
    pub fn text(&self, x: &Streams, biases: &Biases, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        self.text.forward(&x.text, &x.vision, &biases.vision, dropout)
    }
}

impl Side {
    /// `own` [B, S, H] asks `other`, whose mask is in `bias`.
    fn forward(
        &self,
        own: &Tensor,
        other: &Tensor,
        bias: &Tensor,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let [attention, attended, output]: [Option<Mask>; 3] =
            self.sites.map(|site| dropout.map(|dropout| dropout.site(site)));
        let context = self.attention.forward(own, other, bias, attention)?;
        let x = self.attention_norm.forward_sum(&self.attention_output.forward(&context)?, attended, own)?;
        self.output_end.forward(&self.feed_forward.forward(&x)?, output, &x)
    }
}
