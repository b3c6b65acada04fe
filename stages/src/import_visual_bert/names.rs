//! What the tensors of a checkpoint are called in this model. It knows names, not values.

use serde::{Deserialize, Serialize};

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum From {
    /// A VisualBERT, as MMF or Hugging Face saves it.
    #[default]
    VisualBert,
    /// A BERT, as Hugging Face saves it: no visual parts.
    Bert,
}

impl From {
    pub fn name(self) -> &'static str {
        match self {
            Self::VisualBert => "VisualBERT",
            Self::Bert => "BERT",
        }
    }

    /// The name in this model of the checkpoint's tensor `name`; nothing for what is not of the base: heads, and
    /// the constant 0, 1, 2, … that older versions saved as `position_ids`.
    pub fn ours(self, name: &str) -> Option<String> {
        let name = name.strip_prefix("module.").unwrap_or(name);
        if name.ends_with("position_ids") {
            return None;
        }
        let part = match self {
            // MMF's spellings now and before, then Hugging Face's.
            Self::VisualBert => ["model.bert.", "bert.bert.", "visual_bert."]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix))?,
            Self::Bert => name.strip_prefix("bert.").unwrap_or(name),
        };
        if !["embeddings.", "encoder.", "pooler."].iter().any(|start| part.starts_with(start)) {
            return None;
        }
        let part = part
            .replace(".visual_position_embeddings.", ".position_embeddings_visual.")
            .replace(".visual_token_type_embeddings.", ".token_type_embeddings_visual.")
            .replace(".visual_projection.", ".projection.");
        // TensorFlow's names of a LayerNorm's parts, which early BERTs kept.
        let part = match part.strip_suffix("LayerNorm.gamma") {
            Some(start) => format!("{start}LayerNorm.weight"),
            None => match part.strip_suffix("LayerNorm.beta") {
                Some(start) => format!("{start}LayerNorm.bias"),
                None => part,
            },
        };
        Some(format!("model.bert.{part}"))
    }

    /// Whether the checkpoint has nothing for this model's tensor `name`.
    pub fn is_fresh(self, name: &str) -> bool {
        self == Self::Bert && (name.contains("embeddings_visual") || name.contains("embeddings.projection"))
    }
}

impl std::convert::From<From> for String {
    fn from(from: From) -> Self {
        match from {
            From::VisualBert => "visualbert",
            From::Bert => "bert",
        }
        .to_owned()
    }
}

impl TryFrom<String> for From {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "visualbert" => Ok(Self::VisualBert),
            "bert" => Ok(Self::Bert),
            _ => Err(format!("unknown checkpoint `{text}`: expected `visualbert` or `bert`")),
        }
    }
}
