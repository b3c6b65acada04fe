//! The param that says what a checkpoint is of, and what is common to the names in all of them.

use stage_api::ParamEnum;

use crate::models::{Family, Origin};

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// A VisualBERT.
    VisualBert,
    /// A ViLBERT.
    Vilbert,
    /// A BERT, as Hugging Face saves it: no visual parts.
    Bert,
}

impl From {
    /// The checkpoint of a model of this kind.
    pub fn model(family: Family) -> Self {
        match family {
            Family::VisualBert => Self::VisualBert,
            Family::Vilbert => Self::Vilbert,
        }
    }

    /// What it is to the model that is built from it.
    pub fn origin(self) -> Origin {
        match self {
            Self::VisualBert | Self::Vilbert => Origin::Itself,
            Self::Bert => Origin::Bert,
        }
    }

    /// Its name in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::VisualBert => Family::VisualBert.title(),
            Self::Vilbert => Family::Vilbert.title(),
            Self::Bert => "BERT",
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
