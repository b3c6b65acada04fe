//! The `config.json` next to a checkpoint, as Hugging Face writes it. It does not know the tensors.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use stage_api::StageError;

use super::from::From;
use crate::artifacts::read_json;
use crate::models::{Family, Pretrained};

/// The file's name in the folder of a checkpoint.
pub const CONFIG: &str = "config.json";

/// What a `config.json` says.
pub struct Stated {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Stated {
    /// Reads it.
    ///
    /// # Errors
    /// It is none, or of a model that computes otherwise.
    pub fn read(path: &Path) -> Result<Self, StageError> {
        let refuse = |problem: String| StageError::input("archive", path, problem);
        let fields: Map<String, Value> = read_json(path).map_err(|error| refuse(error.problem))?;
        for (name, computed) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
            let other = fields.get(name).filter(|value| !value.is_null() && value.as_str() != Some(computed));
            if let Some(other) = other {
                return Err(refuse(format!("`{name}` is {other}; only \"{computed}\" is computed here")));
            }
        }
        Ok(Self { path: path.to_owned(), fields })
    }

    /// The `config.json` next to `checkpoint`, if there is one.
    ///
    /// # Errors
    /// As for [`Stated::read`].
    pub fn next_to(checkpoint: &Path) -> Result<Option<Self>, StageError> {
        let path = checkpoint.with_file_name(CONFIG);
        if path.is_file() { Self::read(&path).map(Some) } else { Ok(None) }
    }

    /// Something wrong with it.
    pub fn error(&self, problem: impl ToString) -> StageError {
        StageError::input("archive", &self.path, problem.to_string())
    }

    /// All of it.
    pub fn value(&self) -> Value {
        Value::Object(self.fields.clone())
    }

    /// The dimensions of a model, of which a checkpoint of `from` has this config: what it says, and else those of the paper's.
    ///
    /// # Errors
    /// It is of another model, or a field has no value of its kind.
    pub fn dimensions<C: Pretrained>(&self, from: From) -> Result<C, StageError> {
        let types: &[&str] = match from {
            From::Bert => &["bert"],
            From::VisualBert => &["visual_bert", Family::VisualBert.as_str()],
            From::Vilbert => &[Family::Vilbert.as_str()],
        };
        let stated = self.fields.get("model_type").and_then(Value::as_str);
        if let Some(other) = stated.filter(|stated| !types.contains(stated)) {
            return Err(self.error(format!("is of a `{other}`, and `from` says {}", from.title())));
        }
        if !self.fields.contains_key("hidden_size") {
            return Err(self.error("is not the config of such a model: it has no `hidden_size`"));
        }
        let mut dimensions = serde_json::to_value(C::base_size()).map_err(StageError::failed)?;
        if let Some(fields) = dimensions.as_object_mut() {
            for (name, value) in fields {
                if let Some(stated) = self.fields.get(name).filter(|stated| !stated.is_null()) {
                    value.clone_from(stated);
                }
            }
        }
        serde_json::from_value(dimensions).map_err(|error| self.error(error))
    }
}
