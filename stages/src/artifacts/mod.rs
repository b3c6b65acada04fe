//! What travels between stages: one file per kind of thing, with its type, how it is written and how it is
//! read. Stages meet each other only here, so each arrow of the DAG has one file that says what is on it.
//!
//! Nothing here knows a model or a stage.

pub mod data_summary;
pub mod history;
pub mod labels;
pub mod metrics;
pub mod mmf_writer;
pub mod predictions;
pub mod region_features;
pub mod samples;
pub mod scalars;
pub mod scene_objects;
pub mod scores;
pub mod token_set;
pub mod view;
pub mod weights;

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::formats::file_kind;

/// An artifact that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct ArtifactError {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl ArtifactError {
    /// An error about `path`.
    pub fn new(path: impl AsRef<Path>, problem: impl std::fmt::Display) -> Self {
        Self { path: path.as_ref().to_owned(), problem: problem.to_string() }
    }
}

impl From<ArtifactError> for stage_api::StageError {
    fn from(error: ArtifactError) -> Self {
        Self::Input { port: String::new(), path: error.path, problem: error.problem }
    }
}

/// Result of reading or writing an artifact.
pub type Result<T> = std::result::Result<T, ArtifactError>;

/// Reads a JSON file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(|error| ArtifactError::new(path, error))?;
    serde_json::from_slice(&text).map_err(|error| {
        ArtifactError::new(path, file_kind::placeholder(&text).unwrap_or_else(|| error.to_string()))
    })
}

/// Writes a JSON file, indented, with a final newline.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| ArtifactError::new(path, error))?;
    text.push(b'\n');
    fs::write(path, text).map_err(|error| ArtifactError::new(path, error))
}

/// Reads a file of JSON lines; an error names the line.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = fs::File::open(path).map_err(|error| ArtifactError::new(path, error))?;
    let mut values = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| ArtifactError::new(path, error))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).map_err(|error| {
            let found = file_kind::head(path)
                .ok()
                .filter(|_| number == 0)
                .and_then(|head| file_kind::placeholder(&head));
            let problem = || format!("line {}, {}", number + 1, file_kind::json_in_line(&error));
            ArtifactError::new(path, found.unwrap_or_else(problem))
        })?;
        values.push(value);
    }
    Ok(values)
}

/// Writes a file of JSON lines.
pub fn write_json_lines<'a, T: Serialize + 'a>(
    path: &Path,
    values: impl IntoIterator<Item = &'a T>,
) -> Result<()> {
    let fail = |error: &dyn std::fmt::Display| ArtifactError::new(path, error);
    let mut file = BufWriter::new(fs::File::create(path).map_err(|error| fail(&error))?);
    for value in values {
        serde_json::to_writer(&mut file, value).map_err(|error| fail(&error))?;
        file.write_all(b"\n").map_err(|error| fail(&error))?;
    }
    file.flush().map_err(|error| fail(&error))
}
