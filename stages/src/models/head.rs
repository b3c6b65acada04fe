//! What a classifier decides of a row.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use stage_api::ParamEnum;

/// What a classifier decides of a row, under the names of Hugging Face's `problem_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// Which one of the classes it has: softmax, cross-entropy.
    #[default]
    SingleLabelClassification,
    /// Of each class, whether it has it: sigmoid, binary cross-entropy.
    MultiLabelClassification,
}

impl ProblemType {
    /// Whether it is what a config need not say.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Reads it; `null`, as Hugging Face writes, is the default.
    pub fn or_default<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Self>::deserialize(from)?.unwrap_or_default())
    }
}

/// What the head of a model tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many classes.
    pub labels: usize,
    /// Whether a row has one of them, or any number.
    pub problem: ProblemType,
}

impl Head {
    /// Whether a row has one of two classes, as in the paper.
    pub fn is_binary(self) -> bool {
        self == Self { labels: 2, problem: ProblemType::SingleLabelClassification }
    }

    /// Whether a row may have several classes.
    pub fn is_multi_label(self) -> bool {
        self.problem == ProblemType::MultiLabelClassification
    }
}
