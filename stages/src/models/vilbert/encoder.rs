//! The encoder: two stacks of BERT's layers, with layers of co-attention between them in a given order.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::super::bert::{Layer, Rows};
use super::co_attention::CoAttention;
use super::embeddings::Embeddings;
use super::{Biases, Config, Streams};
use crate::nn::{DropoutAt, ParamStore};

#[derive(Debug, Clone)]
pub struct Encoder {
    first: Stacks,
    /// Each layer of co-attention with what follows it.
    then: Vec<(CoAttention, Stacks)>,
}

/// Layers of either stream between two layers of co-attention.
#[derive(Debug, Clone)]
struct Stacks {
    text: Vec<Layer>,
    vision: Vec<Layer>,
}

impl Encoder {
    /// The first place of dropout of text layers, vision layers, layers of co-attention, and after all of them.
    fn sites(config: &Config) -> [u32; 4] {
        let text = Embeddings::SITES;
        let vision = text + Layer::SITES * config.num_hidden_layers as u32;
        let co = vision + Layer::SITES * config.v_num_hidden_layers as u32;
        [text, vision, co, co + CoAttention::SITES * config.t_biattention_id.len() as u32]
    }

    /// The first place of dropout after the encoder's.
    pub fn end(config: &Config) -> u32 {
        Self::sites(config)[3]
    }

    pub fn load(config: &Config, params: &ParamStore) -> Result<Self> {
        let co_site = Self::sites(config)[2];
        let ids = config.t_biattention_id.iter().copied().zip(config.v_biattention_id.iter().copied());
        let all = (config.num_hidden_layers, config.v_num_hidden_layers);
        let mut from = (0, 0);
        let mut stacks = |to: (usize, usize)| {
            let (text, vision) = (from.0..to.0, from.1..to.1);
            from = to;
            Stacks::load(config, params, text, vision)
        };
        let mut ids = ids.chain([all]);
        let first = stacks(ids.next().unwrap_or(all))?;
        let then = ids.enumerate().map(|(index, to)| {
            let site = co_site + CoAttention::SITES * index as u32;
            Ok((CoAttention::load(config, params, index, site)?, stacks(to)?))
        });
        Ok(Self { first, then: then.collect::<Result<_>>()? })
    }

    /// Both streams after all layers, of the last layer of each the first row alone.
    pub fn first_rows(&self, x: Streams, biases: &Biases, dropout: Option<&DropoutAt>) -> Result<Streams> {
        let mut x = self.first.forward(x, biases, Rows::All, dropout)?;
        for (index, (layer, stacks)) in self.then.iter().enumerate() {
            let rows = if index + 1 == self.then.len() { Rows::First } else { Rows::All };
            x = stacks.forward(layer.forward(&x, biases, dropout)?, biases, rows, dropout)?;
        }
        Ok(x)
    }

    /// The text after all layers; what only the regions would go through is left out.
    pub fn text(&self, x: Streams, biases: &Biases, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let mut x = self.first.forward(x, biases, Rows::All, dropout)?;
        for (index, (layer, stacks)) in self.then.iter().enumerate() {
            if index + 1 == self.then.len() {
                x.text =
                    run(&stacks.text, layer.text(&x, biases, dropout)?, &biases.text, Rows::All, dropout)?;
            } else {
                x = stacks.forward(layer.forward(&x, biases, dropout)?, biases, Rows::All, dropout)?;
            }
        }
        Ok(x.text)
    }
}

impl Stacks {
    fn load(config: &Config, params: &ParamStore, text: Range<usize>, vision: Range<usize>) -> Result<Self> {
        let [text_site, vision_site, ..] = Encoder::sites(config);
        let layer = |stack: &str, index: usize, size, first: u32| {
            let name = format!("model.bert.encoder.{stack}.{index}");
            Layer::load(params, &name, size, first + Layer::SITES * index as u32)
        };
        let (text_size, vision_size) = (config.text_layer(), config.vision_layer());
        Ok(Self {
            text: text.map(|index| layer("layer", index, &text_size, text_site)).collect::<Result<_>>()?,
            vision: vision
                .map(|index| layer("v_layer", index, &vision_size, vision_site))
                .collect::<Result<_>>()?,
        })
    }

    fn forward(
        &self,
        x: Streams,
        biases: &Biases,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Streams> {
        Ok(Streams {
            text: run(&self.text, x.text, &biases.text, rows, dropout)?,
            vision: run(&self.vision, x.vision, &biases.vision, rows, dropout)?,
        })
    }
}

/// `layers` one after the other, of the last one only `rows`.
fn run(
    layers: &[Layer],
    mut x: Tensor,
    bias: &Tensor,
    rows: Rows,
    dropout: Option<&DropoutAt>,
) -> Result<Tensor> {
    let last = layers.len().saturating_sub(1);
    for (index, layer) in layers.iter().enumerate() {
        x = layer.forward(&x, bias, if index == last { rows } else { Rows::All }, dropout)?;
    }
    Ok(x)
}
