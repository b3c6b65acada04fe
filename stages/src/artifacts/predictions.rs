//! Predictions as MMF exports them: CSV `id,proba,label` with CR LF line ends.

use std::path::Path;

use serde::Serialize;

use super::{ArtifactError, Result};

/// One scored sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    let fail = |error: &dyn std::fmt::Display| ArtifactError::new(path, error);
    let text = csv(predictions).map_err(|error| fail(&error))?;
    std::fs::write(path, text).map_err(|error| fail(&error))
}

/// Predictions as CSV.
///
/// # Errors
/// Only if memory fails.
pub fn csv(predictions: &[Prediction]) -> csv::Result<Vec<u8>> {
    let mut text = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    text.write_record(["id", "proba", "label"])?;
    for row in predictions {
        text.write_record([row.id.as_str(), &row.proba.to_string(), &row.label.to_string()])?;
    }
    text.into_inner().map_err(|error| error.into_error().into())
}
