//! Dimensions of the model, and what follows from them.

use candle_core::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::bert::{EmbeddingDims, LayerSize, Shapes, checks, defaults};
use super::super::{
    AdapterPlace, Architecture, Dimensions, Family, Known, Model, ModelOverrides, Origin, Pretrained,
    SmallConfig, TensorShapes,
};
use super::{Vilbert, checkpoint_names, shapes};
use crate::nn::ParamStore;

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

    pub(super) fn words(&self) -> EmbeddingDims {
        EmbeddingDims {
            words: self.vocab_size,
            positions: self.max_position_embeddings,
            types: self.type_vocab_size,
            hidden: self.hidden_size,
        }
    }

    pub(super) fn text_layer(&self) -> LayerSize {
        LayerSize {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            eps: self.layer_norm_eps,
            adapter: "AdaptText",
        }
    }

    pub(super) fn vision_layer(&self) -> LayerSize {
        LayerSize {
            hidden: self.v_hidden_size,
            heads: self.v_num_attention_heads,
            inner: self.v_intermediate_size,
            eps: self.layer_norm_eps,
            adapter: "AdaptImg",
        }
    }

    /// Width within an adapter of a stream of width `hidden`: 76 and 102 in the paper's model.
    fn bottleneck(&self, hidden: usize) -> usize {
        hidden / self.adapter_divisor.max(1)
    }

    /// The layer of co-attention `name`.
    fn co_attention(&self, list: &mut Shapes, name: &str, adapters: bool) {
        let (text, vision, bi) = (self.hidden_size, self.v_hidden_size, self.bi_hidden_size);
        for (suffix, width) in [(1, vision), (2, text)] {
            for part in ["query", "key", "value"] {
                list.linear(&format!("{name}.biattention.{part}{suffix}"), width, bi);
            }
        }
        for (suffix, width) in [(1, vision), (2, text)] {
            list.linear(&format!("{name}.biOutput.dense{suffix}"), bi, width);
            list.norm(&format!("{name}.biOutput.LayerNorm{suffix}"), width);
            // Stored and counted, never used.
            list.linear(&format!("{name}.biOutput.q_dense{suffix}"), bi, width);
        }
        for (of, width, inner) in
            [("v", vision, self.v_intermediate_size), ("t", text, self.intermediate_size)]
        {
            list.linear(&format!("{name}.{of}_intermediate.dense"), width, inner);
            list.linear(&format!("{name}.{of}_output.dense"), inner, width);
            list.norm(&format!("{name}.{of}_output.LayerNorm"), width);
        }
        if adapters && self.adapter_place == AdapterPlace::CoAttention {
            list.adapter(&format!("{name}.v_output.AdaptImg"), vision, self.bottleneck(vision));
        }
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
        }
    }

    fn base_parameters(&self, adapters: bool) -> Vec<(String, Vec<usize>)> {
        let mut list = Shapes::default();
        let (hidden, wide) = (self.hidden_size, self.v_hidden_size);
        let text = |part: &str| format!("model.bert.embeddings.{part}");
        list.push(&text("word_embeddings.weight"), &[self.vocab_size, hidden]);
        list.push(&text("position_embeddings.weight"), &[self.max_position_embeddings, hidden]);
        list.push(&text("token_type_embeddings.weight"), &[self.type_vocab_size, hidden]);
        list.norm(&text("LayerNorm"), hidden);
        let regions = |part: &str| format!("model.bert.v_embeddings.{part}");
        list.linear(&regions("image_embeddings"), self.v_feature_size, wide);
        list.linear(&regions("image_location_embeddings"), 5, wide);
        list.norm(&regions("LayerNorm"), wide);
        let parts = if adapters { self.adapter_place.parts() } else { &[] };
        for layer in 0..self.num_hidden_layers {
            let name = format!("model.bert.encoder.layer.{layer}");
            list.layer(&name, &self.text_layer(), self.bottleneck(hidden), parts);
        }
        let parts = if self.adapter_place == AdapterPlace::CoAttention { &[] } else { parts };
        for layer in 0..self.v_num_hidden_layers {
            let name = format!("model.bert.encoder.v_layer.{layer}");
            list.layer(&name, &self.vision_layer(), self.bottleneck(wide), parts);
        }
        for layer in 0..self.t_biattention_id.len() {
            self.co_attention(&mut list, &format!("model.bert.encoder.c_layer.{layer}"), adapters);
        }
        list.linear("model.bert.t_pooler.dense", hidden, self.bi_hidden_size);
        list.linear("model.bert.v_pooler.dense", wide, self.bi_hidden_size);
        list.0
    }

    fn change(&mut self, changes: &ModelOverrides) {
        let ModelOverrides { dropout, adapter_divisor, adapter_place } = *changes;
        self.hidden_dropout_prob = dropout.unwrap_or(self.hidden_dropout_prob);
        self.attention_probs_dropout_prob = dropout.unwrap_or(self.attention_probs_dropout_prob);
        self.adapter_divisor = adapter_divisor.unwrap_or(self.adapter_divisor);
        self.adapter_place = adapter_place.unwrap_or(self.adapter_place);
    }

    fn build(&self, params: &ParamStore) -> Result<Box<dyn Model>> {
        Ok(Box::new(Vilbert::new(self, params)?))
    }

    fn own_name(&self, origin: Origin, name: &str) -> Option<String> {
        checkpoint_names::own(origin, name)
    }

    fn is_fresh(&self, origin: Origin, name: &str) -> bool {
        checkpoint_names::is_fresh(origin, name)
    }

    fn known(&self) -> Known {
        Known {
            num_attention_heads: Some(self.num_attention_heads),
            v_num_attention_heads: Some(self.v_num_attention_heads),
            bi_num_attention_heads: Some(self.bi_num_attention_heads),
            t_biattention_id: Some(self.t_biattention_id.clone()),
            v_biattention_id: Some(self.v_biattention_id.clone()),
        }
    }

    fn set_from_shapes(&mut self, shapes: &TensorShapes, known: &Known) -> std::result::Result<(), String> {
        shapes::set(self, shapes, known)
    }
}

impl Pretrained for Config {
    const FAMILY: Family = Family::Vilbert;

    fn base_size() -> Self {
        Self::base()
    }
}
