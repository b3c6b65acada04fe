//! How a run trains a model: which parameters, a function from their names, and where adapters are.

use schemars::JsonSchema;
use stage_api::ParamEnum;

use super::Parts;

/// Which parameters a run trains, in the order of the paper's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The classification head alone.
    Fc,
    /// The head, and an adapter in every layer (parameter-efficient).
    Pe,
    /// Everything; no adapters.
    Full,
}

impl Mode {
    /// What people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Fc => "FC",
            Self::Pe => "PE",
            Self::Full => "Full-FT",
        }
    }

    /// The parts of a model in this mode.
    pub fn parts(self) -> Parts {
        Parts { adapters: self == Self::Pe, head: true }
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

/// Where adapters are, if the model has any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterPlace {
    /// After the feed-forward part, as in the paper.
    #[default]
    Output,
    /// After attention.
    Attention,
    /// After both (Houlsby et al., 2019).
    Both,
    /// After the text's feed-forward parts, and after those of the regions in layers of co-attention.
    CoAttention,
}

impl AdapterPlace {
    /// Whether it is the paper's.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The place of adapters that text layers have in these parts; nothing where they have none.
    pub fn from_parts(attention: bool, output: bool) -> Option<Self> {
        match (attention, output) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Attention),
            (false, true) => Some(Self::Output),
            (false, false) => None,
        }
    }

    /// The parts of a text layer, `attention.output` and `output`, that have one.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Output | Self::CoAttention => &["output"],
            Self::Attention => &["attention.output"],
            Self::Both => &["attention.output", "output"],
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
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
}
