//! The param that says what a checkpoint is of, and what is common to the names in all of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::{Family, Origin};

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub enum From {
    /// The model of that kind.
    Model(Family),
    /// A BERT, as Hugging Face saves it: no visual parts.
    Bert,
}

impl From {
    /// What it is to the model that is built from it.
    pub fn origin(self) -> Origin {
        match self {
            Self::Model(_) => Origin::Itself,
            Self::Bert => Origin::Bert,
        }
    }

    /// Its name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::Model(family) => family.title(),
            Self::Bert => "BERT",
        }
    }
}

impl std::convert::From<From> for String {
    fn from(from: From) -> Self {
        match from {
            From::Model(family) => family.as_str().to_owned(),
            From::Bert => "bert".to_owned(),
        }
    }
}

impl TryFrom<String> for From {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Family::try_from(text.clone()) {
            _ if text == "bert" => Ok(Self::Bert),
            Ok(family) => Ok(Self::Model(family)),
            Err(_) => Err(format!("unknown checkpoint `{text}`: expected the model's own name or `bert`")),
        }
    }
}

/// A tensor's name as all checkpoints have it that anybody reads; nothing for the constant 0, 1, 2, … that older
/// versions saved as `position_ids`.
pub fn usual(name: &str) -> Option<String> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    if name.ends_with("position_ids") {
        return None;
    }
    // TensorFlow's names of a LayerNorm's parts, which early BERTs kept.
    let renamed = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
    let renamed = renamed.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
    Some(renamed.unwrap_or_else(|| name.to_owned()))
}
