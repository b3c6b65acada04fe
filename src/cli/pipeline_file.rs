//! Which pipeline file a command uses where none is named: the one in the current folder, or else in the nearest folder
//! above it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::error::CliError;

/// What the file is called.
pub const NAME: &str = "pipeline.ron";

/// The file, or `None` if no folder up to the root has one.
pub fn find() -> Option<PathBuf> {
    let near = Path::new(NAME);
    // Whatever has this name here is meant, even a link that leads nowhere: the error is then about that.
    if fs::symlink_metadata(near).is_ok() {
        return Some(near.to_owned());
    }
    let current = std::env::current_dir().ok()?;
    current.ancestors().skip(1).map(|folder| folder.join(NAME)).find(|file| file.is_file())
}

/// As [`find`]; prints once which file it is when it is not in the current folder.
///
/// # Errors
/// When there is none.
pub fn require() -> Result<PathBuf, CliError> {
    static PRINTED: Once = Once::new();
    let Some(file) = find() else {
        return Err(CliError::Usage {
            message: format!("there is no {NAME} in this folder or in a folder above it"),
            hint: Some("`repro init` writes a first one; --file names one of another place".to_owned()),
        });
    };
    if file.is_absolute() {
        PRINTED.call_once(|| print_err!("pipeline file: {}", file.display()));
    }
    Ok(file)
}
