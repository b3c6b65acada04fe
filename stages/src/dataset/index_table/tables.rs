//! Finds the tables: by port, or as metadata of an image folder. It does not know what they hold.

use std::path::{Path, PathBuf};

use stage_api::{Inputs, StageError};

use crate::artifacts::samples::Split;
use crate::formats::archive::Archive;
use crate::formats::file_kind;

/// The port pictures come in by: a folder, a zip or a tar.
pub(super) const IMAGES: &str = "images";
/// The port of the only table.
pub(super) const TABLE: &str = "table";
/// The ports of tables of one split each.
pub(super) const TABLES: [(&str, Split); 3] =
    [("train", Split::Train), ("val", Split::Val), ("test", Split::Test)];
/// What Hugging Face's `datasets` calls the table of an image folder, in the forms that are read here.
const METADATA: [&str; 2] = ["metadata.csv", "metadata.jsonl"];

/// A table, not yet read.
pub(super) struct Source {
    /// What messages call it.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its split, where its port says it.
    pub split: Option<Split>,
    /// The folder that its pictures are relative to: empty, or ending in `/`.
    pub folder: String,
    /// Whether folders of an image folder may be named after splits.
    pub split_by_folder: bool,
    /// The port and the file that an error names.
    pub origin: (&'static str, PathBuf),
}

impl Source {
    /// An error about it.
    pub(super) fn error(&self, problem: impl std::fmt::Display) -> StageError {
        StageError::input(self.origin.0, &self.origin.1, problem)
    }
}

/// The tables that came in; those of an image folder where none did.
///
/// # Errors
/// A file that cannot be read, what was saved in place of a table, an image folder without metadata.
pub(super) fn find(inputs: &Inputs, archive: &Archive) -> Result<Vec<Source>, StageError> {
    let mut found = Vec::new();
    let ports = std::iter::once((TABLE, None)).chain(TABLES.map(|(port, split)| (port, Some(split))));
    for (port, split) in ports {
        if let Some(path) = inputs.optional(port) {
            found.push(of_port(port, path, split)?);
        }
    }
    if found.is_empty() { of_folder(inputs.one(IMAGES)?, archive) } else { Ok(found) }
}

fn of_port(port: &'static str, path: &Path, split: Option<Split>) -> Result<Source, StageError> {
    let fail = |problem: String| StageError::input(port, path, problem);
    let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    if let Some(problem) = file_kind::placeholder(&bytes) {
        return Err(fail(problem));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let origin = (port, path.to_owned());
    Ok(Source { name, bytes, split, folder: String::new(), split_by_folder: false, origin })
}

fn of_folder(path: &Path, archive: &Archive) -> Result<Vec<Source>, StageError> {
    let mut found = Vec::new();
    for name in archive.names() {
        let (folder, file) = name.rsplit_once('/').map_or(("", name), |(folder, file)| (folder, file));
        if METADATA.contains(&file) {
            let bytes = archive.clone().text(name)?;
            let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let (name, origin) = (name.to_owned(), (IMAGES, path.join(name)));
            found.push(Source { name, bytes, split: None, folder, split_by_folder: true, origin });
        }
    }
    if found.is_empty() {
        let names = archive.names();
        let what = match names.iter().find(|name| name.ends_with("metadata.parquet")) {
            Some(name) => format!("holds `{name}`, which is not read here; write it as metadata.csv"),
            None => format!(
                "holds no metadata.csv and no metadata.jsonl among its {} files; put one next to the pictures, or connect \
                 the port `{TABLE}`",
                names.len()
            ),
        };
        return Err(StageError::input(IMAGES, path, what));
    }
    Ok(found)
}

/// The split that a word means, as Hugging Face's `datasets` reads it.
pub(super) fn split_named(word: &str) -> Option<Split> {
    match word.trim().to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" | "dev" => Some(Split::Val),
        "test" | "testing" | "eval" | "evaluation" => Some(Split::Test),
        _ => None,
    }
}

/// The split that a folder on the path of a picture is named after.
pub(super) fn split_of_path(path: &str) -> Option<Split> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').find_map(split_named)
}
