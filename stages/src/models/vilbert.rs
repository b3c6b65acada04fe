//! ViLBERT: an encoder for the tokens of a text and one for the regions of a picture, which attend to each other, with a
//! classification head over the product of what both pool.
//!
//! Names of parameters are the original checkpoint's. Some of its tensors are stored, counted and never used: `q_dense1`
//! and `q_dense2`.

mod config;

use candle_core::{Error, Result, Tensor};

pub use config::Config;

use super::bert::{Classifier, LayerSize, feed_forward, layer, mask, text_tables};
use super::{Architecture, Batch, Model, Parts};
use crate::nn::{
    Activation, Attention, Compute, Dense, DropoutAt, LayerNorm, Linear, Loader, ResidualNorm, Rows,
    Sequences, Site, TextTables, TransformerLayer, multiply,
};

/// The hidden states of both streams.
#[derive(Debug, Clone)]
struct Streams {
    /// Of the tokens [B, T, H], or of those that are not padding [.., H].
    text: Tensor,
    /// Of the regions [B, R, V], or of those that are not padding [.., V].
    vision: Tensor,
}

/// Which tokens and regions are there.
#[derive(Debug, Clone)]
struct StreamSequences {
    text: Sequences,
    vision: Sequences,
}

/// The model.
#[derive(Debug, Clone)]
pub struct Vilbert {
    embeddings: Embeddings,
    text: Vec<TransformerLayer>,
    vision: Vec<TransformerLayer>,
    /// Each layer of co-attention, with how many layers of the text and of the vision come before it.
    co_attention: Vec<(CoAttention, (usize, usize))>,
    head: Head,
}

impl Vilbert {
    /// The model of these dimensions, which have passed their check.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape, by name.
    pub fn load(config: &Config, loader: &Loader, parts: Parts) -> Result<Self> {
        let bert = loader.pp("model.bert");
        let embeddings = Embeddings::load(config, &bert)?;
        let encoder = bert.pp("encoder");
        let stack = |name: &str, count: usize, size| {
            let at = encoder.pp(name);
            (0..count).map(|index| layer(&at.pp(index), &size)).collect::<Result<Vec<_>>>()
        };
        let text = stack("layer", config.num_hidden_layers, config.text_layer(parts.adapters))?;
        let vision = stack("v_layer", config.v_num_hidden_layers, config.vision_layer(parts.adapters))?;
        let before = config.t_biattention_id.iter().copied().zip(config.v_biattention_id.iter().copied());
        let at = encoder.pp("c_layer");
        let co_attention = before
            .enumerate()
            .map(|(index, before)| Ok((CoAttention::load(config, &at.pp(index), parts.adapters)?, before)));
        let co_attention = co_attention.collect::<Result<_>>()?;
        Ok(Self { embeddings, text, vision, co_attention, head: Head::load(config, loader, parts)? })
    }

    /// The embedded streams without padding, and what of them is there.
    fn embed(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<(Streams, StreamSequences)> {
        let streams = self.embeddings.forward(batch, dropout)?;
        let (rows, tokens, _) = streams.text.dims3()?;
        let regions = streams.vision.dim(1)?;
        if streams.vision.dim(0)? != rows || batch.mask.dims() != [rows, tokens + regions] {
            let (vision, mask) = (streams.vision.dims(), batch.mask.dims());
            return Err(Error::msg(format!(
                "a batch of {rows} × {tokens} tokens has regions of shape {vision:?} and a mask of shape {mask:?}"
            )));
        }
        let compute = &self.embeddings.compute;
        let part = |first, length| Sequences::new(compute, &batch.mask.narrow(1, first, length)?);
        let sequences = StreamSequences { text: part(0, tokens)?, vision: part(tokens, regions)? };
        let text = sequences.text.pack(compute, &streams.text)?;
        let vision = sequences.vision.pack(compute, &streams.vision)?;
        Ok((Streams { text, vision }, sequences))
    }

    /// `output` of what all layers make of the streams.
    fn encoder(
        &self,
        mut x: Streams,
        sequences: &StreamSequences,
        output: Output,
        dropout: Option<&DropoutAt>,
    ) -> Result<Streams> {
        let of_text = |layers: &[TransformerLayer], x, rows| {
            TransformerLayer::stack(layers, x, &sequences.text, rows, dropout)
        };
        let of_vision = |layers: &[TransformerLayer], x, rows| {
            TransformerLayer::stack(layers, x, &sequences.vision, rows, dropout)
        };
        let mut from = (0, 0);
        for (index, (layer, to)) in self.co_attention.iter().enumerate() {
            x.text = of_text(&self.text[from.0..to.0], x.text, Rows::All)?;
            x.vision = of_vision(&self.vision[from.1..to.1], x.vision, Rows::All)?;
            from = *to;
            let (text, vision) = ((&x.text, &sequences.text), (&x.vision, &sequences.vision));
            let text_to_vision = layer.text.forward_to(text, vision, dropout)?;
            // What only the regions go through from here on does not reach the text.
            if output == Output::FirstRows || index + 1 < self.co_attention.len() {
                x.vision = layer.vision.forward_to(vision, text, dropout)?;
            }
            x.text = text_to_vision;
        }
        match output {
            Output::Text => x.text = of_text(&self.text[from.0..], x.text, Rows::All)?,
            Output::FirstRows => {
                x.text = of_text(&self.text[from.0..], x.text, Rows::First)?;
                x.vision = of_vision(&self.vision[from.1..], x.vision, Rows::First)?;
            }
        }
        Ok(x)
    }
}

/// What is asked of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The text's hidden states.
    Text,
    /// The first row of both streams.
    FirstRows,
}

impl Model for Vilbert {
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let (streams, sequences) = self.embed(batch, dropout)?;
        let text = self.encoder(streams, &sequences, Output::Text, dropout)?.text;
        sequences.text.unpack(&self.embeddings.compute, &text)
    }

    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let (streams, sequences) = self.embed(batch, dropout)?;
        let first = self.encoder(streams, &sequences, Output::FirstRows, dropout)?;
        self.head.forward(&first, dropout)
    }
}

/// Tokens with their positions; regions by what they show and where they are. Each stream is normalised alone.
#[derive(Debug, Clone)]
struct Embeddings {
    compute: Compute,
    text: TextTables,
    text_norm: LayerNorm,
    text_site: Site,
    features: Dense,
    locations: Dense,
    vision_norm: LayerNorm,
    vision_site: Site,
}

impl Embeddings {
    fn load(config: &Config, bert: &Loader) -> Result<Self> {
        let (text, vision, compute) = (bert.pp("embeddings"), bert.pp("v_embeddings"), bert.compute());
        let (hidden, wide, eps) = (config.hidden_size, config.v_hidden_size, config.layer_norm_eps);
        Ok(Self {
            text: text_tables(&text, &config.text())?,
            text_norm: text.layer_norm("LayerNorm", hidden, eps)?,
            text_site: text.site("dropout"),
            features: Dense::new(&compute, vision.linear("image_embeddings", config.v_feature_size, wide)?),
            locations: Dense::new(&compute, vision.linear("image_location_embeddings", 5, wide)?),
            vision_norm: vision.layer_norm("LayerNorm", wide, eps)?,
            vision_site: vision.site("dropout"),
            compute,
        })
    }

    fn forward(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Streams> {
        let text = self.text.embed(&self.compute, &batch.ids)?;
        let shown = self.features.forward(&batch.regions, None)?;
        let placed = self.locations.forward(&batch.locations, None)?;
        let (text_mask, vision_mask) = (mask(dropout, self.text_site), mask(dropout, self.vision_site));
        Ok(Streams {
            text: self.text_norm.forward(&self.compute, &text, None, text_mask)?,
            vision: self.vision_norm.forward(&self.compute, &shown, Some(&placed), vision_mask)?,
        })
    }
}

/// A layer of co-attention: each stream asks the other, then each has a feed-forward part. Both read what came into the
/// layer, and neither attends to itself.
#[derive(Debug, Clone)]
struct CoAttention {
    text: TransformerLayer,
    vision: TransformerLayer,
}

impl CoAttention {
    fn load(config: &Config, loader: &Loader, adapters: bool) -> Result<Self> {
        let (bi, heads) = (config.bi_hidden_size, config.bi_num_attention_heads);
        let (text, vision) = config.co_attention_layers(adapters);
        let (attention, output) = (loader.pp("biattention"), loader.pp("biOutput"));
        // In the original's names 1 is the regions and 2 the text.
        let projections = |number: u8, width: usize| -> Result<[Linear; 3]> {
            let linear = |part: &str| attention.linear(&format!("{part}{number}"), width, bi);
            Ok([linear("query")?, linear("key")?, linear("value")?])
        };
        let [vision_query, vision_key, vision_value] = projections(1, vision.hidden)?;
        let [text_query, text_key, text_value] = projections(2, text.hidden)?;
        let side =
            |size: &LayerSize, number: u8, of: &str, [query, key, value]: [Linear; 3], probabilities| {
                let attention = Attention {
                    query,
                    key,
                    value,
                    probabilities,
                    output: output.linear(&format!("dense{number}"), bi, size.hidden)?,
                    site: output.site(&format!("dropout{number}")),
                    end: ResidualNorm {
                        norm: output.layer_norm(&format!("LayerNorm{number}"), size.hidden, size.eps)?,
                        adapter: None,
                    },
                    heads,
                };
                output.skip_linear(&format!("q_dense{number}"), bi, size.hidden)?;
                let parts = (format!("{of}_intermediate"), format!("{of}_output"));
                let feed_forward = feed_forward(loader, (&parts.0, &parts.1), size)?;
                Ok::<_, Error>(TransformerLayer { compute: loader.compute(), attention, feed_forward })
            };
        // The original numbers the probabilities by what is attended to.
        let (at_text, at_vision) = (attention.site("dropout2"), attention.site("dropout1"));
        let vision = side(&vision, 1, "v", [vision_query, text_key, text_value], at_text)?;
        Ok(Self { vision, text: side(&text, 2, "t", [text_query, vision_key, vision_value], at_vision)? })
    }
}

/// From the first row of either stream to class logits: two poolers, their product, then the classifier.
#[derive(Debug, Clone)]
struct Head {
    compute: Compute,
    text: Dense,
    vision: Dense,
    site: Site,
    classifier: Option<Classifier>,
}

impl Head {
    fn load(config: &Config, loader: &Loader, parts: Parts) -> Result<Self> {
        let (bi, bert, compute) = (config.bi_hidden_size, loader.pp("model.bert"), loader.compute());
        let pooler = |name: &str, width: usize| -> Result<Dense> {
            Ok(Dense::new(&compute, bert.linear(name, width, bi)?).with_activation(Activation::Relu))
        };
        Ok(Self {
            text: pooler("t_pooler.dense", config.hidden_size)?,
            vision: pooler("v_pooler.dense", config.v_hidden_size)?,
            site: loader.site("model.dropout"),
            classifier: match parts.head {
                true => Some(Classifier::load(loader, &config.dimensions())?),
                false => None,
            },
            compute,
        })
    }

    /// Streams of one row each → [B, 2].
    fn forward(&self, first: &Streams, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let classifier = self.classifier.as_ref();
        let classifier = classifier.ok_or_else(|| Error::msg("these weights have no classification head"))?;
        let text = self.text.forward(&first.text.squeeze(1)?, None)?;
        let vision = self.vision.forward(&first.vision.squeeze(1)?, None)?;
        classifier.forward(&multiply(&self.compute, &text, &vision, mask(dropout, self.site))?)
    }
}

#[cfg(test)]
mod tests;
