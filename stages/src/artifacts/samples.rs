//! Samples: what an `index` stage makes of an official archive layout.
//!
//! ```text
//! <tree>/samples/dataset.json    name of the data set
//! <tree>/samples/samples.jsonl   one sample a line, in the order of the source
//! <tree>/images/…                the pictures, under the names that samples.jsonl gives
//! <tree>/summary.json            what was found, kept and dropped; see `data_summary`
//! ```
//!
//! Readers of text take `<step>/samples`, readers of pictures `<step>/images`, so that a change of the one does
//! not rerun what reads the other.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::ParamEnum;

use super::labels::{Classes, Label};
use super::{Result, read_json, read_json_lines, write_json, write_json_lines};

/// The split a sample belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Trained on.
    Train,
    /// Chooses the best checkpoint; the paper reports on it.
    Val,
    /// Held out.
    Test,
}

/// One meme.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The source's own id, as text.
    pub id: String,
    /// File name of the picture within `images/`.
    pub image: String,
    /// The caption, as the source gives it.
    pub text: String,
    /// The class, or classes: in the paper 1 hateful, 0 not. Absent where the source publishes none.
    pub label: Option<Label>,
    /// The share of annotators that call it hateful, from 0 to 1, where the label rule asks for it. Training does not
    /// read it: it is there for those who want soft targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<f32>,
    /// Where it belongs.
    pub split: Split,
}

/// A data set as samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleSet {
    /// Short name of the data set as files show it: `hmd`, `mmh`.
    pub dataset: String,
    /// Its classes.
    pub classes: Classes,
    /// The samples in the order of the source.
    pub samples: Vec<Sample>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    dataset: String,
    #[serde(flatten)]
    classes: Classes,
}

impl SampleSet {
    /// Writes `dataset.json` and `samples.jsonl` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|error| super::ArtifactError::new(dir, error))?;
        let header = Header { dataset: self.dataset.clone(), classes: self.classes.clone() };
        write_json(&dir.join("dataset.json"), &header)?;
        write_json_lines(&dir.join("samples.jsonl"), &self.samples)
    }

    /// Reads what [`SampleSet::write`] wrote.
    pub fn read(dir: &Path) -> Result<Self> {
        let Header { dataset, classes } = read_json(&dir.join("dataset.json"))?;
        Ok(Self { dataset, classes, samples: read_json_lines(&dir.join("samples.jsonl"))? })
    }
}
