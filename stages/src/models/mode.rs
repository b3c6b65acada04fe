//! Which of a model's parameters a run trains: a function from their names.

use schemars::JsonSchema;
use stage_api::ParamEnum;

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
