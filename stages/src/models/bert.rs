//! BERT's blocks, that the models consist of. They know no model: paths and widths are handed in.

use candle_core::{DType, Error, Result, Tensor};

use super::Dimensions;
use crate::nn::{
    Activation, Attention, DropoutAt, Kernels, LayerNorm, Linear, Loader, Mask, Mlp, ParamStore, Site,
};

/// What a mask [B, S] of 1 and 0 adds to the scores of keys.
pub fn key_bias(mask: &Tensor) -> Result<Tensor> {
    // −10000 rather than −∞, as the original: added to a score it makes the probability exactly 0 in f32.
    mask.affine(10_000.0, -10_000.0)
}

/// The text's embeddings before their LayerNorm: words, positions and the type of segment.
#[derive(Debug, Clone)]
pub struct TextEmbeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    pad: u32,
    kernels: Kernels,
}

/// Rows of the tables of [`TextEmbeddings`], and their width.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingDims {
    pub words: usize,
    pub positions: usize,
    pub types: usize,
    pub hidden: usize,
    /// The word whose row receives no gradient.
    pub pad: u32,
}

impl TextEmbeddings {
    pub fn load(loader: &Loader, size: &EmbeddingDims) -> Result<Self> {
        Ok(Self {
            words: loader.table("word_embeddings", size.words, size.hidden)?,
            positions: loader.table("position_embeddings", size.positions, size.hidden)?,
            types: loader.table("token_type_embeddings", size.types, size.hidden)?,
            pad: size.pad,
            kernels: loader.kernels(),
        })
    }

    /// [B, T] → [B, T, H].
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let tokens = ids.dim(1)?;
        let longest = self.positions.dim(0)?;
        if tokens > longest {
            return Err(Error::msg(format!(
                "a text of {tokens} tokens is longer than the model's {longest}"
            )));
        }
        // All tokens have segment 0.
        let text = self.words(ids)?;
        let text = self.kernels.add_rows(&text, &self.positions.narrow(0, 0, tokens)?)?;
        self.kernels.add_rows(&text, &self.types.narrow(0, 0, 1)?)
    }

    /// Word embeddings [B, T, H]. The row of `[PAD]` is read like any other but receives no gradient.
    fn words(&self, ids: &Tensor) -> Result<Tensor> {
        let (rows, tokens) = ids.dims2()?;
        let words = self.words.index_select(&ids.flatten_all()?, 0)?.reshape((rows, tokens, ()))?;
        if !words.track_op() {
            return Ok(words);
        }
        let padding = ids.eq(self.pad)?.to_dtype(DType::F32)?.unsqueeze(2)?;
        let frozen = words.detach().broadcast_mul(&padding)?;
        words.broadcast_mul(&(1.0 - padding)?)?.add(&frozen)
    }
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

/// BERT's layer with the LayerNorm after the residual sum, with adapters where there are any.
#[derive(Debug, Clone)]
pub struct Layer {
    pub attention: Attention,
    pub attention_site: Site,
    pub attention_output: Linear,
    pub attention_end: BertOutput,
    pub feed_forward: Mlp,
    pub output_end: BertOutput,
}

/// Which rows of the sequence are computed by a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    /// The first alone; all others are still attended to.
    First,
}

impl Layer {
    pub fn load(loader: &Loader, size: &LayerSize) -> Result<Self> {
        let hidden = size.hidden;
        let attention = loader.pp("attention").pp("self");
        let query = attention.linear("query", hidden, hidden)?;
        let key = attention.linear("key", hidden, hidden)?;
        let value = attention.linear("value", hidden, hidden)?;
        let attention_site = attention.site("dropout");
        let attention_output = loader.linear("attention.output.dense", hidden, hidden)?;
        let attention_end = BertOutput::load(loader, "attention.output", size)?;
        let first = loader.linear("intermediate.dense", hidden, size.inner)?;
        let second = loader.linear("output.dense", size.inner, hidden)?;
        let output_end = BertOutput::load(loader, "output", size)?;
        Ok(Self {
            attention: Attention::new(query, key, value, size.heads),
            attention_site,
            attention_output,
            attention_end,
            feed_forward: Mlp::new(first, Activation::Gelu, second),
            output_end,
        })
    }

    /// Of `x` [B, S, H], which attends to itself, the rows `rows`: [B, S, H] or [B, 1, H]. `bias` [B, S] is that of the keys.
    pub fn forward(
        &self,
        x: &Tensor,
        bias: &Tensor,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        match rows {
            Rows::All => self.attend(x, x, bias, dropout),
            Rows::First => self.attend(&x.narrow(1, 0, 1)?.contiguous()?, x, bias, dropout),
        }
    }

    /// `queries` [B, Q, H], which attend to `x` [B, S, K], whose mask is in `bias` [B, S]: [B, Q, H].
    pub fn attend(
        &self,
        queries: &Tensor,
        x: &Tensor,
        bias: &Tensor,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let context = self.attention.forward(queries, x, bias, mask(dropout, self.attention_site))?;
        let attended = self.attention_output.forward(&context)?;
        let attended = self.attention_end.forward(&attended, queries, dropout)?;
        self.output_end.forward(&self.feed_forward.forward(&attended)?, &attended, dropout)
    }
}

/// How a part of a layer ends: the LayerNorm of its output and its input, with an adapter if there is one.
#[derive(Debug, Clone)]
pub struct BertOutput {
    pub site: Site,
    pub norm: LayerNorm,
    pub adapter: Option<Mlp>,
    pub kernels: Kernels,
}

impl BertOutput {
    /// The end of the layer's part `part`.
    pub fn load(loader: &Loader, part: &str, size: &LayerSize) -> Result<Self> {
        let at = loader.pp(part);
        Ok(Self {
            site: at.site("dropout"),
            norm: at.layer_norm("LayerNorm", size.hidden, size.eps)?,
            adapter: if size.adapters_in.contains(&part) { Some(adapter(&at, size)?) } else { None },
            kernels: loader.kernels(),
        })
    }

    pub fn forward(&self, x: &Tensor, residual: &Tensor, dropout: Option<&DropoutAt>) -> Result<Tensor> {
        let mask = mask(dropout, self.site);
        let Some(adapter) = &self.adapter else { return self.norm.forward_sum(x, mask, residual) };
        // The adapter reads what the part's own LayerNorm makes of its output alone.
        let x = self.kernels.dropout(x, mask)?;
        let change = adapter.forward(&self.norm.forward(&x)?)?;
        self.norm.forward_sum(&change, None, &(x + residual)?)
    }
}

/// An adapter: a bottleneck of two linear layers, up(relu(down(x))). The sum with its surroundings is the layer's.
fn adapter(loader: &Loader, size: &LayerSize) -> Result<Mlp> {
    let down = loader.linear(&format!("{}1", size.adapter), size.hidden, size.narrow)?;
    let up = loader.linear(&format!("{}2", size.adapter), size.narrow, size.hidden)?;
    Ok(Mlp::new(down, Activation::Relu, up))
}

/// The mask of a place of dropout, where there is any.
pub fn mask(dropout: Option<&DropoutAt>, site: Site) -> Option<Mask> {
    dropout.map(|dropout| dropout.site(site))
}

/// The classifier: from what a base pools to logits of the two classes.
#[derive(Debug, Clone)]
pub struct Classifier {
    dense: Linear,
    norm: LayerNorm,
    classes: Linear,
    kernels: Kernels,
}

impl Classifier {
    /// Where its tensors are.
    const PATH: &str = "model.classifier";

    /// Whether `params` have one.
    pub fn is_in(params: &ParamStore) -> bool {
        params.has_under(Self::PATH)
    }

    pub fn load(root: &Loader, width: usize, eps: f64) -> Result<Self> {
        let loader = root.pp(Self::PATH);
        Ok(Self {
            dense: loader.linear("0.dense", width, width)?,
            norm: loader.layer_norm("0.LayerNorm", width, eps)?,
            classes: loader.linear("1", width, 2)?,
            kernels: loader.kernels(),
        })
    }

    /// [B, W] → [B, 2].
    pub fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        let transformed = self.kernels.activate(&self.dense.forward(pooled)?, Activation::Gelu)?;
        self.classes.forward(&self.norm.forward(&transformed)?)
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
    transform: Linear,
    norm: LayerNorm,
    decoder: Linear,
    kernels: Kernels,
}

impl MlmHead {
    /// The head of a model of these dimensions, with the model's word embeddings.
    ///
    /// # Errors
    /// A parameter is missing or has another shape.
    pub fn load(root: &Loader, dimensions: &Dimensions) -> Result<Self> {
        let Dimensions { words, hidden, layer_norm_eps, .. } = *dimensions;
        let loader = root.pp("model.cls.predictions");
        let transform = loader.linear("transform.dense", hidden, hidden)?;
        let norm = loader.layer_norm("transform.LayerNorm", hidden, layer_norm_eps)?;
        let table = loader.tied("model.bert.embeddings.word_embeddings.weight", &[words, hidden])?;
        let decoder = Linear::new(table, loader.get("bias", &[words])?, loader.kernels())?;
        Ok(Self { transform, norm, decoder, kernels: loader.kernels() })
    }

    /// Rows of hidden states [N, H] → word logits [N, V].
    ///
    /// # Errors
    /// The rows have another width.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let transformed = self.kernels.activate(&self.transform.forward(rows)?, Activation::Gelu)?;
        self.decoder.forward(&self.norm.forward(&transformed)?)
    }
}
