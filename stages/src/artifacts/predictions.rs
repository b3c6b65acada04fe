//! Predictions as MMF exports them: CSV `id,proba,label` with CR LF line ends.

use std::path::Path;

use super::{ArtifactError, Result};

/// One scored sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The sample's id.
    pub id: String,
    /// P(class 1), a float32 softmax.
    pub proba: f32,
    /// Predicted class: argmax of the softmax.
    pub label: u8,
}

/// Writes predictions to the file `path`.
pub fn write(path: &Path, predictions: &[Prediction]) -> Result<()> {
    let fail = |error: csv::Error| ArtifactError::new(path, error);
    let mut file =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_path(path).map_err(fail)?;
    file.write_record(["id", "proba", "label"]).map_err(fail)?;
    for row in predictions {
        file.write_record([row.id.as_str(), &row.proba.to_string(), &row.label.to_string()]).map_err(fail)?;
    }
    file.flush().map_err(|error| ArtifactError::new(path, error))
}
