//! Finds the step that owns each report, and rejects reports that cannot coexist: one file of two
//! steps, a file and a folder of one name, and names that differ only in capitalization.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ledger::Other;
use super::{Part, PublishError, UNFINISHED, published_files};
use crate::digest::Digest;
use crate::tree::Entry;

/// The origin of a report.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    pub step: &'a str,
    /// The step's tree and the entry in it.
    pub tree: Digest,
    pub entry: &'a Entry,
    /// The digest of the file's bytes and executable bit.
    pub identity: Digest,
}

/// All files of `parts`, relative to the reports folder.
///
/// # Errors
/// When two of them cannot coexist.
pub(super) fn owners<'a>(parts: &'a [Part<'a>]) -> Result<BTreeMap<PathBuf, Owner<'a>>, PublishError> {
    let mut owners: BTreeMap<PathBuf, Owner> = BTreeMap::new();
    for part in parts {
        for (file, entry, identity) in published_files(part.below, &part.manifest) {
            let step = part.step;
            if file.components().next().is_some_and(|first| folded(first.as_ref()) == UNFINISHED) {
                return Err(PublishError::Reserved { file, step: step.to_owned() });
            }
            let new = Owner { step, tree: part.tree, entry, identity };
            if let Some(first) = owners.insert(file.clone(), new) {
                return Err(conflict(file, true, first.step, step));
            }
        }
    }
    let names: BTreeMap<String, (&PathBuf, &str)> =
        owners.iter().map(|(file, owner)| (folded(file), (file, owner.step))).collect();
    for (file, owner) in &owners {
        for name in file.ancestors().filter(|name| !name.as_os_str().is_empty()) {
            if let Some((other, step)) = names.get(&folded(name))
                && *step != owner.step
            {
                return Err(conflict((*other).clone(), false, step, owner.step));
            }
        }
    }
    Ok(owners)
}

/// Rejects files that another existing pipeline of the folder has published to a profile of the same name.
///
/// # Errors
/// When there is such a file.
pub(super) fn refuse_foreign(
    owners: &BTreeMap<PathBuf, Owner>,
    profile: &str,
    others: &[Other],
) -> Result<(), PublishError> {
    for other in others.iter().filter(|other| other.pipeline.exists()) {
        for (step, files) in other.ledger.profiles.get(profile).into_iter().flatten() {
            if let Some((file, owner)) = files.keys().find_map(|file| owners.get_key_value(file)) {
                return Err(PublishError::Foreign {
                    file: file.clone(),
                    step: owner.step.to_owned(),
                    other: step.clone(),
                    pipeline: other.pipeline.clone(),
                });
            }
        }
    }
    Ok(())
}

fn conflict(file: PathBuf, is_file: bool, first: &str, second: &str) -> PublishError {
    PublishError::Conflict { file, is_file, first: first.to_owned(), second: second.to_owned() }
}

/// A path as a case-insensitive file system compares it.
fn folded(path: &Path) -> String {
    path.to_string_lossy().to_lowercase()
}
