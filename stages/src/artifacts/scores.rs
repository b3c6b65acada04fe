//! What a model gave each row of a split, with the truth: CSV `id,label,p0,p1`. The predictions in MMF's format lack
//! the label and P(class 0), without which neither the ROC-AUC over both columns nor a paired test can be computed.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ArtifactError, Result};

/// A scored row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The sample's id.
    pub id: String,
    /// Its true class, 0 or 1.
    pub label: u8,
    /// P(class 0), a float32 softmax.
    pub p0: f32,
    /// P(class 1).
    pub p1: f32,
}

/// The file's name within an evaluate step's tree.
pub const FILE: &str = "scores.csv";

/// Writes `scores.csv` into `dir`.
pub fn write(dir: &Path, scores: &[Score]) -> Result<()> {
    let path = dir.join(FILE);
    let mut file = csv::Writer::from_path(&path).map_err(|error| ArtifactError::new(&path, error))?;
    for score in scores {
        file.serialize(score).map_err(|error| ArtifactError::new(&path, error))?;
    }
    file.flush().map_err(|error| ArtifactError::new(&path, error))
}

/// Reads `scores.csv` of `dir`.
///
/// # Errors
/// A file that cannot be read; a line that does not parse or has another label than 0 and 1.
pub fn read(dir: &Path) -> Result<Vec<Score>> {
    let path = dir.join(FILE);
    let fail = |error: csv::Error| ArtifactError::new(&path, error);
    let mut file = csv::Reader::from_path(&path).map_err(fail)?;
    let scores: Vec<Score> = file.deserialize().collect::<std::result::Result<_, _>>().map_err(fail)?;
    match scores.iter().position(|score| score.label > 1) {
        Some(row) => Err(ArtifactError::new(&path, format!("row {}: a label is neither 0 nor 1", row + 1))),
        None => Ok(scores),
    }
}
