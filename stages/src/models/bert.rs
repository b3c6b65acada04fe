//! BERT's blocks, that the models consist of. They know no model: paths and widths are handed in.

use candle_core::{Error, Result, Tensor};

use super::Dimensions;
use crate::nn::{
    Activation, Adapter, Attention, Dense, DropoutAt, FeedForward, Linear, Loader, Mask, ParamStore,
    ResidualNorm, Site, TextTables, TransformerLayer,
};

/// Rows of the tables of a text's embeddings, and their width.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingDims {
    pub words: usize,
    pub positions: usize,
    pub types: usize,
    pub hidden: usize,
    /// The word whose row receives no gradient.
    pub pad: u32,
}

/// The tables of a text's embeddings: words, positions and the type of segment.
pub fn text_tables(loader: &Loader, size: &EmbeddingDims) -> Result<TextTables> {
    Ok(TextTables {
        words: loader.table("word_embeddings", size.words, size.hidden)?,
        positions: loader.table("position_embeddings", size.positions, size.hidden)?,
        types: loader.table("token_type_embeddings", size.types, size.hidden)?,
        pad: size.pad,
    })
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
    /// Width within an adapter.
    pub narrow: usize,
    /// The parts that end with an adapter.
    pub adapters_in: &'static [&'static str],
}

/// BERT's layer, which has its LayerNorms after the residual sums, and adapters where there are any.
pub fn layer(loader: &Loader, size: &LayerSize) -> Result<TransformerLayer> {
    let hidden = size.hidden;
    let attention = loader.pp("attention").pp("self");
    let attention = Attention {
        query: attention.linear("query", hidden, hidden)?,
        key: attention.linear("key", hidden, hidden)?,
        value: attention.linear("value", hidden, hidden)?,
        probabilities: attention.site("dropout"),
        output: loader.linear("attention.output.dense", hidden, hidden)?,
        site: loader.site("attention.output.dropout"),
        end: end(loader, "attention.output", size)?,
        heads: size.heads,
    };
    let feed_forward = feed_forward(loader, ("intermediate", "output"), size)?;
    Ok(TransformerLayer { compute: loader.compute(), attention, feed_forward })
}

/// The feed-forward part of the layers `first` and `second`.
pub fn feed_forward(loader: &Loader, (first, second): (&str, &str), size: &LayerSize) -> Result<FeedForward> {
    Ok(FeedForward {
        up: loader.linear(&format!("{first}.dense"), size.hidden, size.inner)?,
        down: loader.linear(&format!("{second}.dense"), size.inner, size.hidden)?,
        site: loader.site(&format!("{second}.dropout")),
        end: end(loader, second, size)?,
    })
}

/// How the layer's part `part` ends: the LayerNorm of its output and its input, with an adapter if there is one.
fn end(loader: &Loader, part: &str, size: &LayerSize) -> Result<ResidualNorm> {
    let at = loader.pp(part);
    let norm = at.layer_norm("LayerNorm", size.hidden, size.eps)?;
    let adapter = || {
        let down = at.linear(&format!("{}1", size.adapter), size.hidden, size.narrow)?;
        let up = at.linear(&format!("{}2", size.adapter), size.narrow, size.hidden)?;
        Ok::<_, Error>(Adapter { down, up })
    };
    Ok(ResidualNorm { norm, adapter: if size.adapters_in.contains(&part) { Some(adapter()?) } else { None } })
}

/// The mask of a place of dropout, where there is any.
pub fn mask(dropout: Option<&DropoutAt>, site: Site) -> Option<Mask> {
    dropout.map(|dropout| dropout.site(site))
}

/// The classifier: from what a base pools to logits of the classes.
#[derive(Debug, Clone)]
pub struct Classifier {
    transform: Dense,
    classes: Dense,
}

impl Classifier {
    /// Where its tensors are.
    pub const PATH: &str = "model.classifier";

    /// Whether `params` have one.
    pub fn is_in(params: &ParamStore) -> bool {
        params.has_under(Self::PATH)
    }

    pub fn load(root: &Loader, dimensions: &Dimensions) -> Result<Self> {
        let (width, eps) = (dimensions.pooled, dimensions.layer_norm_eps);
        let loader = root.pp(Self::PATH);
        let compute = loader.compute();
        let transform = Dense::new(&compute, loader.linear("0.dense", width, width)?);
        let transform = transform.with_activation(Activation::Gelu);
        let transform = transform.with_norm(loader.layer_norm("0.LayerNorm", width, eps)?);
        Ok(Self {
            transform,
            classes: Dense::new(&compute, loader.linear("1", width, dimensions.head.labels)?),
        })
    }

    /// [B, W] → [B, C].
    pub fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        self.classes.forward(&self.transform.forward(pooled, None)?, None)
    }
}

/// The name here of the classifier's tensor `name` of a checkpoint: MMF's spellings now and before, then that of exports for
/// Hugging Face; nothing for what is not of a classifier.
pub fn classifier_name(name: &str) -> Option<String> {
    let prefixes = ["model.classifier.", "bert.classifier.", "classifier."];
    let part = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    Some(format!("{}.{part}", Classifier::PATH))
}

/// The head of masked-language-model pretraining, which predicts words from hidden states: a transform, then a decoder whose
/// weights are the word embeddings. The classification model does not know it.
#[derive(Debug, Clone)]
pub struct MlmHead {
    transform: Dense,
    decoder: Dense,
}

impl MlmHead {
    /// The head of a model of these dimensions, with the model's word embeddings.
    ///
    /// # Errors
    /// A parameter is missing or has another shape.
    pub fn load(root: &Loader, dimensions: &Dimensions) -> Result<Self> {
        let Dimensions { words, hidden, layer_norm_eps, .. } = *dimensions;
        let loader = root.pp("model.cls.predictions");
        let compute = loader.compute();
        let transform = Dense::new(&compute, loader.linear("transform.dense", hidden, hidden)?);
        let transform = transform.with_activation(Activation::Gelu);
        let transform =
            transform.with_norm(loader.layer_norm("transform.LayerNorm", hidden, layer_norm_eps)?);
        let weight = loader.tied("model.bert.embeddings.word_embeddings.weight", &[words, hidden])?;
        let bias = loader.get("bias", &[words])?;
        let decoder = Linear { weight, bias, inputs: hidden, outputs: words };
        Ok(Self { transform, decoder: Dense::new(&compute, decoder) })
    }

    /// Rows of hidden states [N, H] → word logits [N, V].
    ///
    /// # Errors
    /// The rows have another width.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.decoder.forward(&self.transform.forward(rows, None)?, None)
    }
}
