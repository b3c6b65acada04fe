//! Dimensions of the model, and which of its parameters a run trains.

use candle_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::shapes;

/// No dimension is greater than this: the counting of parameters below cannot overflow.
const MOST: usize = 1 << 20;
/// No model has more layers than this.
const MOST_LAYERS: usize = 1 << 10;
/// No model has more parameters than this, 16 GiB: a damaged config must not ask for all memory there is.
const MOST_PARAMETERS: u64 = 1 << 32;

/// Dimensions, under the names of BERT's `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// Where in an encoder layer adapters are, if the model has any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdapterPlace {
    /// After the feed-forward part, as in the paper.
    #[default]
    Output,
    /// After attention.
    Attention,
    /// After both (Houlsby et al., 2019).
    Both,
}

impl AdapterPlace {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Output, "output"), (Self::Attention, "attention"), (Self::Both, "both")];

    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The parts of a layer, `attention.output` and `output`, that have one.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Output => &["output"],
            Self::Attention => &["attention.output"],
            Self::Both => &["attention.output", "output"],
        }
    }
}

impl From<AdapterPlace> for String {
    fn from(place: AdapterPlace) -> Self {
        let (_, name) = AdapterPlace::ALL[place as usize];
        name.to_owned()
    }
}

impl TryFrom<String> for AdapterPlace {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|(_, name)| *name == text);
        let unknown =
            || format!("unknown place `{text}` of adapters: expected `output`, `attention` or `both`");
        known.map(|(place, _)| place).ok_or_else(unknown)
    }
}

/// BERT's constants, which small models share.
mod defaults {
    pub fn layer_norm_eps() -> f64 {
        1e-12
    }
    pub fn dropout() -> f64 {
        0.1
    }
    pub fn initializer_range() -> f64 {
        0.02
    }
    pub fn adapter_divisor() -> usize {
        10
    }
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
        }
    }

    /// Width within an adapter: 76 in the paper's model.
    pub fn bottleneck(&self) -> usize {
        self.hidden_size / self.adapter_divisor.max(1)
    }

    /// Whether these dimensions make a model.
    ///
    /// # Errors
    /// Says which do not, and why.
    pub fn check(&self) -> Result<()> {
        let fail = |problem: String| Err(Error::msg(format!("model config: {problem}")));
        let counts = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("visual_embedding_dim", self.visual_embedding_dim),
            ("adapter_divisor", self.adapter_divisor),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return fail(format!("`{name}` must not be 0"));
        }
        if let Some((name, count)) = counts.iter().find(|(_, count)| *count > MOST) {
            return fail(format!("`{name}` is {count}, more than {MOST}"));
        }
        if self.num_hidden_layers > MOST_LAYERS {
            return fail(format!(
                "`num_hidden_layers` is {}, more than {MOST_LAYERS}",
                self.num_hidden_layers
            ));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return fail(format!("`hidden_size` {hidden} is no multiple of `num_attention_heads` {heads}"));
        }
        if self.bottleneck() == 0 {
            return fail(format!("`adapter_divisor` {} leaves adapters no width", self.adapter_divisor));
        }
        let parameters = shapes::counts(self, Mode::Pe).total;
        if parameters > MOST_PARAMETERS {
            return fail(format!("makes {parameters} parameters, more than {MOST_PARAMETERS}"));
        }
        let (hidden, attention) = (self.hidden_dropout_prob, self.attention_probs_dropout_prob);
        if hidden != attention {
            return fail(format!(
                "`hidden_dropout_prob` {hidden} and `attention_probs_dropout_prob` {attention} differ: a run has one \
                 probability of dropout, for all places"
            ));
        }
        Ok(())
    }
}

/// Which parameters a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mode {
    /// The classification head alone.
    Fc,
    /// The head, and an adapter in every layer (parameter-efficient).
    Pe,
    /// Everything; no adapters.
    Full,
}

impl Mode {
    /// All modes, in the order of the paper's tables.
    pub const ALL: [Self; 3] = [Self::Fc, Self::Pe, Self::Full];

    /// `fc`, `pe` or `full`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fc => "fc",
            Self::Pe => "pe",
            Self::Full => "full",
        }
    }

    /// Whether the model has adapters.
    pub fn has_adapters(self) -> bool {
        self == Self::Pe
    }

    /// Whether the parameter of this name is trained. Note that the pooler is part of the base.
    pub fn trains(self, name: &str) -> bool {
        match self {
            Self::Full => true,
            Self::Fc => name.starts_with("model.classifier."),
            Self::Pe => name.starts_with("model.classifier.") || name.contains("Adapt"),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        mode.as_str().to_owned()
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        known.ok_or_else(|| format!("unknown training mode `{text}`: expected `fc`, `pe` or `full`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_by_name() {
        for mode in Mode::ALL {
            let text = serde_json::to_string(&mode).unwrap();
            assert_eq!(serde_json::from_str::<Mode>(&text).unwrap(), mode);
        }
        let error = serde_json::from_str::<Mode>("\"ft\"").unwrap_err().to_string();
        assert!(error.contains("`ft`") && error.contains("`full`"), "{error}");
    }

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
        assert!(Config { adapter_divisor: 1000, ..Config::base() }.check().is_err());
    }
}
