//! VisualBERT: BERT over the tokens of a text followed by the regions of a picture, with a classification head.
//!
//! Names of parameters are the original checkpoint's, so loading needs no map. The training [`Mode`](super::Mode) is a
//! function from parameter name to trained or not; the model itself does not know it: what is frozen leaves no graph.

mod config;

use candle_core::{Error, Result, Tensor};

pub use config::Config;

use super::bert::{Classifier, layer, mask, text_tables};
use super::{Architecture, Batch, Model, Parts};
use crate::nn::{
    Activation, Compute, Dense, DropoutAt, LayerNorm, Loader, Param, Rows, Sequences, Site, TextTables,
    TransformerLayer, add_first_rows, concat,
};

/// The model.
#[derive(Debug, Clone)]
pub struct VisualBert {
    embeddings: Embeddings,
    layers: Vec<TransformerLayer>,
    pooler: Dense,
    pooled_site: Site,
    classifier: Option<Classifier>,
}

impl VisualBert {
    /// The model of these dimensions, which have passed their check.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape, by name.
    pub fn load(config: &Config, loader: &Loader, parts: Parts) -> Result<Self> {
        let (hidden, bert) = (config.hidden_size, loader.pp("model.bert"));
        let embeddings = Embeddings::load(config, &bert.pp("embeddings"))?;
        let stack = bert.pp("encoder.layer");
        let size = config.layer(parts.adapters);
        let layers = (0..config.num_hidden_layers).map(|index| layer(&stack.pp(index), &size));
        let layers = layers.collect::<Result<_>>()?;
        let pooler = Dense::new(&loader.compute(), bert.linear("pooler.dense", hidden, hidden)?);
        let pooler = pooler.with_activation(Activation::Tanh);
        let pooled_site = loader.site("model.dropout");
        let classifier = match parts.head {
            true => Some(Classifier::load(loader, &config.dimensions())?),
            false => None,
        };
        Ok(Self { embeddings, layers, pooler, pooled_site, classifier })
    }

    /// The encoder: [B, S, H], or [B, 1, H] of the first rows.
    fn encode_rows(&self, batch: &Batch, rows: Rows, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let compute = &self.embeddings.compute;
        let sequences = Sequences::new(compute, &batch.mask)?;
        // Handed on, so that it is free again as soon as it is read.
        let x = sequences.pack(compute, &self.embeddings.forward(batch, dropout)?)?;
        let x = TransformerLayer::stack(&self.layers, x, &sequences, rows, dropout)?;
        match rows {
            Rows::All => sequences.unpack(compute, &x),
            Rows::First => Ok(x),
        }
    }

    /// The head: from the first rows' hidden states [B, H] to class logits [B, 2].
    fn classify(&self, first: &Tensor, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let classifier = self.classifier.as_ref();
        let classifier = classifier.ok_or_else(|| Error::msg("these weights have no classification head"))?;
        classifier.forward(&self.pooler.forward(first, mask(dropout, self.pooled_site))?)
    }
}

impl Model for VisualBert {
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        self.encode_rows(batch, Rows::All, dropout)
    }

    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        // The head reads the first row only, so the last layer computes no other.
        let first = self.encode_rows(batch, Rows::First, dropout)?.squeeze(1)?;
        self.classify(&first, dropout)
    }
}

/// Tokens with their positions, then regions through a projection, normalised together.
#[derive(Debug, Clone)]
struct Embeddings {
    compute: Compute,
    text: TextTables,
    norm: LayerNorm,
    visual_types: Param,
    visual_positions: Param,
    projection: Dense,
    site: Site,
}

impl Embeddings {
    fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let (hidden, types) = (config.hidden_size, config.type_vocab_size);
        let (positions, compute) = (config.max_position_embeddings, loader.compute());
        Ok(Self {
            text: text_tables(loader, &config.text())?,
            norm: loader.layer_norm("LayerNorm", hidden, config.layer_norm_eps)?,
            visual_types: loader.table("token_type_embeddings_visual", types, hidden)?,
            visual_positions: loader.table("position_embeddings_visual", positions, hidden)?,
            projection: Dense::new(
                &compute,
                loader.linear("projection", config.visual_embedding_dim, hidden)?,
            ),
            site: loader.site("dropout"),
            compute,
        })
    }

    /// [B, T + R, H].
    fn forward(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let text = self.text.embed(&self.compute, &batch.ids)?;
        // Every region has visual position 0 and visual type 0: the original supplies no alignment.
        let regions = self.projection.forward(&batch.regions, None)?;
        let tables = [&self.visual_positions, &self.visual_types];
        let regions = add_first_rows(&self.compute, &regions, &tables)?;
        let x = concat(&self.compute, &text, &regions)?;
        self.norm.forward(&self.compute, &x, None, mask(dropout, self.site))
    }
}

#[cfg(test)]
pub(super) mod tests;
