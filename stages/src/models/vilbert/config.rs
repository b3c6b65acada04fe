//! Dimensions of the model, what its tensors are called in checkpoints of others, and how dimensions are read off shapes.

use candle_core::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Vilbert;
use crate::models::bert::{EmbeddingDims, LayerSize};
use crate::models::checks::{self, defaults};
use crate::models::shape_inference::{self, TensorShapes};
use crate::models::{
    AdapterPlace, Architecture, Dimensions, Family, Head, Known, Model, ModelOverrides, Origin, Parts,
    Pretrained, ProblemType, SmallConfig,
};
use crate::nn::Loader;

/// Widths of an attention head in the paper's model: of the text, and of the regions and of co-attention.
const HEAD_WIDTHS: (usize, usize) = (64, 128);

/// Dimensions, under the names of the original's configuration: without prefix the text's, `v_` the regions', `bi_` of
/// co-attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the text's hidden states.
    pub hidden_size: usize,
    /// Layers of the text.
    pub num_hidden_layers: usize,
    /// Attention heads of a text layer.
    pub num_attention_heads: usize,
    /// Width within the text's feed-forward parts.
    pub intermediate_size: usize,
    /// Longest text.
    pub max_position_embeddings: usize,
    /// Rows of the table of segment types.
    pub type_vocab_size: usize,
    /// Width of a region's features.
    pub v_feature_size: usize,
    /// Width of the regions' hidden states.
    pub v_hidden_size: usize,
    /// Layers of the regions.
    pub v_num_hidden_layers: usize,
    /// Attention heads of such a layer.
    pub v_num_attention_heads: usize,
    /// Width within the regions' feed-forward parts.
    pub v_intermediate_size: usize,
    /// Width of all heads of a layer of co-attention, and of what the poolers make.
    pub bi_hidden_size: usize,
    /// Attention heads of a layer of co-attention.
    pub bi_num_attention_heads: usize,
    /// The text layer that follows each layer of co-attention.
    pub t_biattention_id: Vec<usize>,
    /// The layer of the regions that follows each layer of co-attention.
    pub v_biattention_id: Vec<usize>,
    /// ε within the square root of every LayerNorm.
    #[serde(default = "defaults::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Probability of dropout of hidden states in training, in both streams.
    #[serde(default = "defaults::dropout")]
    pub hidden_dropout_prob: f64,
    /// Probability of dropout of attention probabilities in training, in both streams.
    #[serde(default = "defaults::dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Standard deviation of initial weights.
    #[serde(default = "defaults::initializer_range")]
    pub initializer_range: f64,
    /// Id of `[PAD]`, whose word embedding receives no gradient.
    #[serde(default)]
    pub pad_token_id: u32,
    /// An adapter's bottleneck is its stream's hidden size divided by this, rounded down.
    #[serde(default = "defaults::adapter_divisor")]
    pub adapter_divisor: usize,
    /// Where adapters are.
    #[serde(default, skip_serializing_if = "AdapterPlace::is_default")]
    pub adapter_place: AdapterPlace,
    /// Classes that the head tells apart.
    #[serde(default = "defaults::num_labels", skip_serializing_if = "defaults::is_num_labels")]
    pub num_labels: usize,
    /// Whether a row has one of the classes, or any number of them.
    #[serde(
        default,
        deserialize_with = "ProblemType::or_default",
        skip_serializing_if = "ProblemType::is_default"
    )]
    pub problem_type: ProblemType,
}

impl Config {
    /// The paper's model.
    pub fn base() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            v_feature_size: 2048,
            v_hidden_size: 1024,
            v_num_hidden_layers: 6,
            v_num_attention_heads: 8,
            v_intermediate_size: 1024,
            bi_hidden_size: 1024,
            bi_num_attention_heads: 8,
            t_biattention_id: (6..12).collect(),
            v_biattention_id: (0..6).collect(),
            layer_norm_eps: defaults::layer_norm_eps(),
            hidden_dropout_prob: defaults::dropout(),
            attention_probs_dropout_prob: defaults::dropout(),
            initializer_range: defaults::initializer_range(),
            pad_token_id: 0,
            adapter_divisor: defaults::adapter_divisor(),
            adapter_place: AdapterPlace::default(),
            num_labels: defaults::num_labels(),
            problem_type: ProblemType::default(),
        }
    }

    /// A small one: of one width throughout, and with half as many layers of regions and of co-attention as of text, as the
    /// paper's has.
    pub fn small(small: &SmallConfig) -> Self {
        let both = (small.layers / 2).max(1);
        Self {
            vocab_size: small.words,
            hidden_size: small.hidden,
            num_hidden_layers: small.layers,
            num_attention_heads: small.heads,
            intermediate_size: small.intermediate,
            max_position_embeddings: small.positions,
            v_feature_size: small.features,
            v_hidden_size: small.hidden,
            v_num_hidden_layers: both,
            v_num_attention_heads: small.heads,
            v_intermediate_size: small.intermediate,
            bi_hidden_size: small.hidden,
            bi_num_attention_heads: small.heads,
            t_biattention_id: (small.layers.saturating_sub(both)..small.layers).collect(),
            v_biattention_id: (0..both).collect(),
            hidden_dropout_prob: small.dropout,
            attention_probs_dropout_prob: small.dropout,
            initializer_range: small.initializer_range,
            ..Self::base()
        }
    }

    pub(super) fn text(&self) -> EmbeddingDims {
        EmbeddingDims {
            words: self.vocab_size,
            positions: self.max_position_embeddings,
            types: self.type_vocab_size,
            hidden: self.hidden_size,
            pad: self.pad_token_id,
        }
    }

    pub(super) fn text_layer(&self, adapters: bool) -> LayerSize {
        LayerSize {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            eps: self.layer_norm_eps,
            adapter: "AdaptText",
            narrow: self.bottleneck(self.hidden_size),
            adapters_in: if adapters { self.adapter_place.parts() } else { &[] },
        }
    }

    pub(super) fn vision_layer(&self, adapters: bool) -> LayerSize {
        LayerSize {
            hidden: self.v_hidden_size,
            heads: self.v_num_attention_heads,
            inner: self.v_intermediate_size,
            eps: self.layer_norm_eps,
            adapter: "AdaptImg",
            narrow: self.bottleneck(self.v_hidden_size),
            adapters_in: match self.adapter_place {
                AdapterPlace::CoAttention => &[],
                place if adapters => place.parts(),
                _ => &[],
            },
        }
    }

    /// What happens to the text and to the regions in a layer of co-attention.
    pub(super) fn co_attention_layers(&self, adapters: bool) -> (LayerSize, LayerSize) {
        let adapters = adapters && self.adapter_place == AdapterPlace::CoAttention;
        let vision_parts: &[_] = if adapters { &["v_output"] } else { &[] };
        (self.text_layer(false), LayerSize { adapters_in: vision_parts, ..self.vision_layer(false) })
    }

    /// Width within an adapter of a stream of width `hidden`: 76 and 102 in the paper's model.
    fn bottleneck(&self, hidden: usize) -> usize {
        hidden / self.adapter_divisor.max(1)
    }

    /// Whether the order of layers can be followed, and ends with one of either stream, whose first row the head reads.
    fn check_order(&self) -> Result<()> {
        let orders = [
            ("t_biattention_id", &self.t_biattention_id, "num_hidden_layers", self.num_hidden_layers),
            ("v_biattention_id", &self.v_biattention_id, "v_num_hidden_layers", self.v_num_hidden_layers),
        ];
        for (name, ids, layers, count) in orders {
            checks::other(ids.is_sorted() && ids.iter().all(|&id| id < count), || {
                format!("`{name}` must be in ascending order and below `{layers}`, {count}")
            })?;
        }
        checks::other(
            !self.t_biattention_id.is_empty() && self.t_biattention_id.len() == self.v_biattention_id.len(),
            || "`t_biattention_id` and `v_biattention_id` must be of one length, at least 1".to_owned(),
        )
    }
}

impl Architecture for Config {
    fn check(&self) -> Result<()> {
        checks::dimensions(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("v_feature_size", self.v_feature_size),
            ("v_hidden_size", self.v_hidden_size),
            ("v_num_hidden_layers", self.v_num_hidden_layers),
            ("v_num_attention_heads", self.v_num_attention_heads),
            ("v_intermediate_size", self.v_intermediate_size),
            ("bi_hidden_size", self.bi_hidden_size),
            ("bi_num_attention_heads", self.bi_num_attention_heads),
            ("adapter_divisor", self.adapter_divisor),
            ("num_labels", self.num_labels),
        ])?;
        checks::layers(("num_hidden_layers", self.num_hidden_layers))?;
        checks::layers(("v_num_hidden_layers", self.v_num_hidden_layers))?;
        checks::layers(("t_biattention_id", self.t_biattention_id.len()))?;
        self.check_order()?;
        for (width, heads) in [
            (("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads)),
            (("v_hidden_size", self.v_hidden_size), ("v_num_attention_heads", self.v_num_attention_heads)),
            (
                ("bi_hidden_size", self.bi_hidden_size),
                ("bi_num_attention_heads", self.bi_num_attention_heads),
            ),
        ] {
            checks::heads(width, heads)?;
        }
        checks::parameters(self)?;
        checks::dropout(self.hidden_dropout_prob, self.attention_probs_dropout_prob)
    }

    fn check_adapters(&self) -> Result<()> {
        checks::adapters(self.hidden_size.min(self.v_hidden_size), self.adapter_divisor)
    }

    fn dimensions(&self) -> Dimensions {
        Dimensions {
            words: self.vocab_size,
            positions: self.max_position_embeddings,
            features: self.v_feature_size,
            hidden: self.hidden_size,
            pooled: self.bi_hidden_size,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.hidden_dropout_prob,
            initializer_range: self.initializer_range,
            head: Head { labels: self.num_labels, problem: self.problem_type },
        }
    }

    fn change(&mut self, changes: &ModelOverrides) {
        let ModelOverrides { dropout, adapter_divisor, adapter_place, head, features } = *changes;
        self.hidden_dropout_prob = dropout.unwrap_or(self.hidden_dropout_prob);
        self.attention_probs_dropout_prob = dropout.unwrap_or(self.attention_probs_dropout_prob);
        self.adapter_divisor = adapter_divisor.unwrap_or(self.adapter_divisor);
        self.adapter_place = adapter_place.unwrap_or(self.adapter_place);
        self.v_feature_size = features.unwrap_or(self.v_feature_size);
        if let Some(Head { labels, problem }) = head {
            (self.num_labels, self.problem_type) = (labels, problem);
        }
    }

    fn load(&self, loader: &Loader, parts: Parts) -> Result<Box<dyn Model>> {
        Ok(Box::new(Vilbert::load(self, loader, parts)?))
    }

    fn own_name(&self, origin: Origin, name: &str) -> Option<String> {
        own_name(origin, name)
    }

    fn is_fresh(&self, origin: Origin, name: &str) -> bool {
        is_fresh(origin, name)
    }

    fn known(&self) -> Known {
        Known {
            num_attention_heads: Some(self.num_attention_heads),
            v_num_attention_heads: Some(self.v_num_attention_heads),
            bi_num_attention_heads: Some(self.bi_num_attention_heads),
            t_biattention_id: Some(self.t_biattention_id.clone()),
            v_biattention_id: Some(self.v_biattention_id.clone()),
            problem_type: Some(self.problem_type),
        }
    }

    fn set_from_shapes(&mut self, shapes: &TensorShapes, known: &Known) -> std::result::Result<(), String> {
        set_from_shapes(self, shapes, known)
    }
}

impl Pretrained for Config {
    const FAMILY: Family = Family::Vilbert;

    fn base_size() -> Self {
        Self::base()
    }
}

/// The name in this model of the tensor `name` of a checkpoint of `origin`; nothing for what is not of the base.
fn own_name(origin: Origin, name: &str) -> Option<String> {
    let (prefixes, parts): (&[&str], &[&str]) = match origin {
        // MMF's spellings now and before.
        Origin::Itself => (
            &["model.bert.", "bert.bert."],
            &["embeddings.", "v_embeddings.", "encoder.", "t_pooler.", "v_pooler."],
        ),
        // Its pooler has another shape than the text's here.
        Origin::Bert => (&["bert.", ""], &["embeddings.", "encoder."]),
    };
    let part = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let is_base = parts.iter().any(|start| part.starts_with(start));
    is_base.then(|| format!("model.bert.{part}"))
}

/// Whether checkpoints of `origin` have nothing for this model's tensor `name`.
fn is_fresh(origin: Origin, name: &str) -> bool {
    let is_text = name.starts_with("model.bert.embeddings.") || name.starts_with("model.bert.encoder.layer.");
    origin == Origin::Bert && !is_text
}

/// Sets every dimension that `shapes` tell; the others as `known` says.
///
/// # Errors
/// A tensor that is missing or is not a matrix; a dimension that neither tells.
fn set_from_shapes(
    config: &mut Config,
    shapes: &TensorShapes,
    known: &Known,
) -> std::result::Result<(), String> {
    let matrix = |name: &str| shape_inference::matrix(shapes, &format!("model.bert.{name}.weight"));
    let (hidden, wide, both);
    (config.vocab_size, hidden) = matrix("embeddings.word_embeddings")?;
    config.max_position_embeddings = matrix("embeddings.position_embeddings")?.0;
    config.type_vocab_size = matrix("embeddings.token_type_embeddings")?.0;
    (wide, config.v_feature_size) = matrix("v_embeddings.image_embeddings")?;
    config.intermediate_size = matrix("encoder.layer.0.intermediate.dense")?.0;
    config.num_labels = shape_inference::labels(shapes)?.unwrap_or(config.num_labels);
    config.problem_type = known.problem_type.unwrap_or_default();
    config.v_intermediate_size = matrix("encoder.v_layer.0.intermediate.dense")?.0;
    (both, _) = matrix("encoder.c_layer.0.biattention.query1")?;
    (config.hidden_size, config.v_hidden_size, config.bi_hidden_size) = (hidden, wide, both);

    let layers = |kind: &str| shape_inference::layers(shapes, &format!("model.bert.encoder.{kind}."));
    config.num_hidden_layers = layers("layer");
    config.v_num_hidden_layers = layers("v_layer");
    let co_attention = layers("c_layer");
    let first_text = config.num_hidden_layers.saturating_sub(co_attention);
    let text = || (first_text..config.num_hidden_layers).collect();
    config.t_biattention_id = known.t_biattention_id.clone().unwrap_or_else(text);
    let regions = || (0..co_attention).collect();
    config.v_biattention_id = known.v_biattention_id.clone().unwrap_or_else(regions);

    let (narrow, broad) = HEAD_WIDTHS;
    config.num_attention_heads =
        shape_inference::heads(known.num_attention_heads, "num_attention_heads", hidden, narrow)?;
    config.v_num_attention_heads =
        shape_inference::heads(known.v_num_attention_heads, "v_num_attention_heads", wide, broad)?;
    config.bi_num_attention_heads =
        shape_inference::heads(known.bi_num_attention_heads, "bi_num_attention_heads", both, broad)?;

    let width = |name: &str| {
        let name = format!("model.bert.encoder.{name}1.weight");
        shapes.get(&name).and_then(|shape| shape.first().copied())
    };
    let adapters = [
        (hidden, width("layer.0.attention.output.AdaptText")),
        (hidden, width("layer.0.output.AdaptText")),
        (wide, width("v_layer.0.attention.output.AdaptImg")),
        (wide, width("v_layer.0.output.AdaptImg")),
        (wide, width("c_layer.0.v_output.AdaptImg")),
    ];
    let [(_, attention), (_, output), .., (_, co_attention)] = adapters;
    if let Some(place) = AdapterPlace::from_parts(attention.is_some(), output.is_some()) {
        config.adapter_place = if co_attention.is_some() { AdapterPlace::CoAttention } else { place };
        let widths: Vec<(usize, usize)> =
            adapters.into_iter().filter_map(|(hidden, narrow)| Some((hidden, narrow?))).collect();
        config.adapter_divisor = shape_inference::adapter_divisor(&widths)?;
    }
    Ok(())
}
