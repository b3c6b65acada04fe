//! Which of a model's parameters a run trains: a function from their names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which parameters a run trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(!try_from, !into, rename_all = "lowercase")]
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
}
