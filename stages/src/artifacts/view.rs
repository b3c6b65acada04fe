//! What of a meme a model is shown: how much of the caption, how many regions, and whether one of the two is
//! taken away. Training writes it next to the weights, so that an evaluation shows the model the same.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::ParamEnum;

use super::{ArtifactError, Result, read_json, write_json};

/// The part of a meme that is taken away, to see what the other part alone is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ablation {
    /// Nothing: caption and regions are shown.
    #[default]
    None,
    /// Every caption is empty: `[CLS] [SEP]`.
    Text,
    /// Every region is zero, what it shows and where it is; how many regions there are stays visible.
    Regions,
}

/// What of a meme a model is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Longest text in pieces, `[CLS]` and `[SEP]` included; longer ones lose their last pieces.
    pub max_text: usize,
    /// Most regions; the first ones, which the detector is surest of, stay.
    pub max_regions: usize,
    /// What is taken away.
    pub ablation: Ablation,
}

impl View {
    /// The file's name within a train step's tree.
    pub const FILE: &'static str = "view.json";

    /// Writes `view.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(Self::FILE), self)
    }

    /// Reads `view.json` of `dir`.
    ///
    /// # Errors
    /// A file that is missing or damaged, or leaves no room for `[CLS]` and `[SEP]`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(Self::FILE);
        let view: Self = read_json(&path)?;
        if view.max_text < 2 {
            let problem =
                format!("max_text is {}; at least 2 are needed, for [CLS] and [SEP]", view.max_text);
            return Err(ArtifactError::new(path, problem));
        }
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_without_room_for_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut view = View { max_text: 2, max_regions: 1, ablation: Ablation::None };
        view.write(dir.path()).unwrap();
        assert_eq!(View::read(dir.path()).unwrap(), view);
        view.max_text = 0;
        view.write(dir.path()).unwrap();
        let error = View::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("view.json") && error.contains("max_text is 0"), "{error}");
    }
}
