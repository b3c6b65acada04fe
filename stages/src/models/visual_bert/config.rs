//! Dimensions of the model, what its tensors are called in checkpoints of others, and how dimensions are read off shapes.

use candle_core::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VisualBert;
use crate::models::bert::{EmbeddingDims, LayerSize};
use crate::models::checks::{self, defaults};
use crate::models::shape_inference::{self, TensorShapes};
use crate::models::{
    AdapterPlace, Architecture, Dimensions, Family, Head, Known, Model, ModelOverrides, Origin, Parts,
    Pretrained, ProblemType, SmallConfig,
};
use crate::nn::Loader;

/// Width of an attention head of the paper's model.
const HEAD_WIDTH: usize = 64;

/// Dimensions, under the names of BERT's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads a layer.
    pub num_attention_heads: usize,
    /// Width within the feed-forward part.
    pub intermediate_size: usize,
    /// Longest text.
    pub max_position_embeddings: usize,
    /// Rows of the two tables of segment types.
    pub type_vocab_size: usize,
    /// Width of a region's features.
    pub visual_embedding_dim: usize,
    /// ε within the square root of every LayerNorm.
    #[serde(default = "defaults::layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Probability of dropout of hidden states in training.
    #[serde(default = "defaults::dropout")]
    pub hidden_dropout_prob: f64,
    /// Probability of dropout of attention probabilities in training.
    #[serde(default = "defaults::dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Standard deviation of initial weights.
    #[serde(default = "defaults::initializer_range")]
    pub initializer_range: f64,
    /// Id of `[PAD]`, whose word embedding receives no gradient.
    #[serde(default)]
    pub pad_token_id: u32,
    /// An adapter's bottleneck is the hidden size divided by this, rounded down.
    #[serde(default = "defaults::adapter_divisor")]
    pub adapter_divisor: usize,
    /// Where in a layer adapters are.
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
    /// The paper's model: BERT-base over 2048-wide region features.
    pub fn base() -> Self {
        Self {
            vocab_size: 30_522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            visual_embedding_dim: 2048,
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

    /// A small one.
    pub fn small(small: &SmallConfig) -> Self {
        Self {
            vocab_size: small.words,
            hidden_size: small.hidden,
            num_hidden_layers: small.layers,
            num_attention_heads: small.heads,
            intermediate_size: small.intermediate,
            max_position_embeddings: small.positions,
            visual_embedding_dim: small.features,
            hidden_dropout_prob: small.dropout,
            attention_probs_dropout_prob: small.dropout,
            initializer_range: small.initializer_range,
            ..Self::base()
        }
    }

    /// Width within an adapter: 76 in the paper's model.
    pub fn bottleneck(&self) -> usize {
        self.hidden_size / self.adapter_divisor.max(1)
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

    pub(super) fn layer(&self, adapters: bool) -> LayerSize {
        LayerSize {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            inner: self.intermediate_size,
            eps: self.layer_norm_eps,
            adapter: "AdaptComb",
            narrow: self.bottleneck(),
            adapters_in: if adapters { self.adapter_place.parts() } else { &[] },
        }
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
            ("visual_embedding_dim", self.visual_embedding_dim),
            ("adapter_divisor", self.adapter_divisor),
            ("num_labels", self.num_labels),
        ])?;
        checks::layers(("num_hidden_layers", self.num_hidden_layers))?;
        checks::heads(("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads))?;
        checks::other(self.adapter_place != AdapterPlace::CoAttention, || {
            "has no co-attention for adapters to be in; `adapter_place` must be another".to_owned()
        })?;
        checks::parameters(self)?;
        checks::dropout(self.hidden_dropout_prob, self.attention_probs_dropout_prob)
    }

    fn check_adapters(&self) -> Result<()> {
        checks::adapters(self.hidden_size, self.adapter_divisor)
    }

    fn dimensions(&self) -> Dimensions {
        Dimensions {
            words: self.vocab_size,
            positions: self.max_position_embeddings,
            features: self.visual_embedding_dim,
            hidden: self.hidden_size,
            pooled: self.hidden_size,
            layer_norm_eps: self.layer_norm_eps,
            dropout: self.hidden_dropout_prob,
            initializer_range: self.initializer_range,
            head: Head { labels: self.num_labels, problem: self.problem_type },
        }
    }

    fn init_from(&self, name: &str) -> String {
        // The visual position and type tables are copies of the text's.
        name.replace("embeddings_visual", "embeddings")
    }

    fn change(&mut self, changes: &ModelOverrides) {
        let ModelOverrides { dropout, adapter_divisor, adapter_place, head, features } = *changes;
        self.hidden_dropout_prob = dropout.unwrap_or(self.hidden_dropout_prob);
        self.attention_probs_dropout_prob = dropout.unwrap_or(self.attention_probs_dropout_prob);
        self.adapter_divisor = adapter_divisor.unwrap_or(self.adapter_divisor);
        self.adapter_place = adapter_place.unwrap_or(self.adapter_place);
        self.visual_embedding_dim = features.unwrap_or(self.visual_embedding_dim);
        if let Some(Head { labels, problem }) = head {
            (self.num_labels, self.problem_type) = (labels, problem);
        }
    }

    fn load(&self, loader: &Loader, parts: Parts) -> Result<Box<dyn Model>> {
        Ok(Box::new(VisualBert::load(self, loader, parts)?))
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
            problem_type: Some(self.problem_type),
            ..Known::default()
        }
    }

    fn set_from_shapes(&mut self, shapes: &TensorShapes, known: &Known) -> std::result::Result<(), String> {
        let matrix = |name: &str| shape_inference::matrix(shapes, &format!("model.bert.{name}.weight"));
        let hidden;
        (self.vocab_size, hidden) = matrix("embeddings.word_embeddings")?;
        self.hidden_size = hidden;
        self.max_position_embeddings = matrix("embeddings.position_embeddings")?.0;
        self.type_vocab_size = matrix("embeddings.token_type_embeddings")?.0;
        self.visual_embedding_dim = matrix("embeddings.projection")?.1;
        self.intermediate_size = matrix("encoder.layer.0.intermediate.dense")?.0;
        self.num_hidden_layers = shape_inference::layers(shapes, "model.bert.encoder.layer.");
        self.num_labels = shape_inference::labels(shapes)?.unwrap_or(self.num_labels);
        self.problem_type = known.problem_type.unwrap_or_default();
        let name = "num_attention_heads";
        self.num_attention_heads =
            shape_inference::heads(known.num_attention_heads, name, hidden, HEAD_WIDTH)?;
        let adapter = |part: &str| {
            let name = format!("model.bert.encoder.layer.0.{part}.AdaptComb1.weight");
            shapes.get(&name).and_then(|shape| shape.first().copied())
        };
        let (attention, output) = (adapter("attention.output"), adapter("output"));
        if let Some(place) = AdapterPlace::from_parts(attention.is_some(), output.is_some()) {
            self.adapter_place = place;
            let widths: Vec<(usize, usize)> =
                [attention, output].into_iter().flatten().map(|narrow| (hidden, narrow)).collect();
            self.adapter_divisor = shape_inference::adapter_divisor(&widths)?;
        }
        Ok(())
    }
}

impl Pretrained for Config {
    const FAMILY: Family = Family::VisualBert;

    fn base_size() -> Self {
        Self::base()
    }
}

/// The name in this model of the tensor `name` of a checkpoint of `origin`; nothing for what is not of the base.
fn own_name(origin: Origin, name: &str) -> Option<String> {
    let part = match origin {
        // MMF's spellings now and before, then Hugging Face's.
        Origin::Itself => ["model.bert.", "bert.bert.", "visual_bert."]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))?,
        Origin::Bert => name.strip_prefix("bert.").unwrap_or(name),
    };
    if !["embeddings.", "encoder.", "pooler."].iter().any(|start| part.starts_with(start)) {
        return None;
    }
    let part = part
        .replace(".visual_position_embeddings.", ".position_embeddings_visual.")
        .replace(".visual_token_type_embeddings.", ".token_type_embeddings_visual.")
        .replace(".visual_projection.", ".projection.");
    Some(format!("model.bert.{part}"))
}

/// Whether checkpoints of `origin` have nothing for this model's tensor `name`.
fn is_fresh(origin: Origin, name: &str) -> bool {
    origin == Origin::Bert && (name.contains("embeddings_visual") || name.contains("embeddings.projection"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::models::{Counts, Mode};
    use crate::nn::Site;

    #[test]
    fn impossible_dimensions_are_refused_by_name() {
        assert!(Config::base().check().is_ok());
        let heads = Config { num_attention_heads: 7, ..Config::base() }.check().unwrap_err().to_string();
        assert!(heads.contains("`num_attention_heads` 7"), "{heads}");
        let zero = Config { hidden_size: 0, ..Config::base() }.check().unwrap_err().to_string();
        assert!(zero.contains("`hidden_size`"), "{zero}");
        for (name, config) in [
            ("vocab_size", Config { vocab_size: 1_000_000_000_000, ..Config::base() }),
            ("hidden_size", Config { hidden_size: usize::MAX, ..Config::base() }),
            ("num_hidden_layers", Config { num_hidden_layers: 1 << 20, ..Config::base() }),
            ("parameters", Config { hidden_size: 12 << 16, ..Config::base() }),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("more than"), "{error}");
        }
        assert!(Config { hidden_dropout_prob: 0.2, ..Config::base() }.check().is_err());
        let narrow = Config { adapter_divisor: 1000, ..Config::base() };
        assert!(narrow.check().is_ok() && narrow.check_adapters().is_err());
    }

    #[test]
    fn the_papers_model_has_exactly_the_papers_parameters() {
        let base = Config::base();
        let expected = [
            (Mode::Fc, 112_044_290, 593_666, 0),
            (Mode::Full, 112_044_290, 112_044_290, 0),
            (Mode::Pe, 113_455_250, 2_004_626, 1_410_960),
        ];
        for (mode, total, trained, adapters) in expected {
            assert_eq!(base.counts(mode).unwrap(), Counts { total, trained, adapters }, "{mode}");
        }
    }

    #[test]
    fn the_papers_model_has_as_many_tensors_as_its_checkpoint() {
        let base = Config::base();
        let tensors = |parts| base.parameters(parts).unwrap().len();
        assert_eq!(tensors(Parts::BASE), 203);
        assert_eq!(tensors(Mode::Full.parts()), 203 + 6);
        assert_eq!(tensors(Mode::Pe.parts()), 203 + 6 + 48);
    }

    #[test]
    fn no_name_and_no_place_of_dropout_occurs_twice() {
        let listing = Config::base().listing(Mode::Pe.parts()).unwrap();
        let names: BTreeSet<&String> = listing.parameters.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), listing.parameters.len());
        let sites: BTreeSet<Site> = listing.sites.iter().map(|path| Site::new(path)).collect();
        assert_eq!((listing.sites.len(), sites.len()), (2 + 3 * 12, 2 + 3 * 12));
    }
}
