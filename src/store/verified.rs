//! The only way to the bytes of a result: [`VerifiedPath`], which nothing but a comparison of the bytes with their digest
//! makes. What was hashed in this process and has the same stamp since is not read again, so a second look at a result
//! costs a stat for each file. It does not know the store; the evidence opens its files the same way.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::stat_cache::Known;
use crate::digest::Digest;
use crate::tree::{self, Manifest, TreeError};

/// No more files of a damaged result are named.
const NAMED_FILES: usize = 5;

/// Files that this process hashed, by device and inode: a tree that is renamed keeps them.
static HASHED: LazyLock<Mutex<HashMap<(u64, u64), Known>>> = LazyLock::new(Mutex::default);

/// A result, or a file or folder in one, whose bytes are what its digest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPath(PathBuf);

/// Why a result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Its bytes are not where they are kept.
    #[error("its bytes are not here")]
    Missing,
    /// Its bytes have another digest. The first files that differ, or what else is wrong.
    #[error("it is damaged: {}", .0.join("; "))]
    Damaged(Vec<String>),
    /// Something in it cannot be read, so nothing is known of its bytes.
    #[error("{0}")]
    Unreadable(TreeError),
}

impl VerifiedPath {
    /// Compares the file or folder in `path` with the digest that it should have.
    ///
    /// # Errors
    /// When it is not there, has another digest, or cannot be read.
    pub fn check(path: &Path, expected: &Digest) -> Result<Self, ResultError> {
        match digest(path) {
            Ok(found) if found == *expected => Ok(Self(path.to_owned())),
            Ok(_) => Err(ResultError::Damaged(Vec::new())),
            Err(TreeError::Unreadable { path: missing, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                // A file may go between the listing and the reading.
                let is_all = missing == path;
                let gone = || vec![format!("{} is missing", tree::shown(&missing))];
                Err(if is_all { ResultError::Missing } else { ResultError::Damaged(gone()) })
            }
            Err(error @ TreeError::Unfit { .. }) => Err(ResultError::Damaged(vec![error.to_string()])),
            Err(error) => Err(ResultError::Unreadable(error)),
        }
    }

    /// A file or folder within a verified folder; `None` for a path that leads out of it.
    pub fn within(&self, path: &str) -> Option<Self> {
        tree::is_plain(Path::new(path)).then(|| Self(self.0.join(path)))
    }
}

impl Deref for VerifiedPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for VerifiedPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<VerifiedPath> for PathBuf {
    fn from(path: VerifiedPath) -> Self {
        path.0
    }
}

/// The digest of a file or folder as a step reads it. No link is followed.
fn digest(path: &Path) -> Result<Digest, TreeError> {
    let metadata = fs::symlink_metadata(path).map_err(TreeError::unreadable(path))?;
    if metadata.is_dir() {
        return Ok(manifest(path, &mut |_, _| {})?.digest());
    }
    if !metadata.is_file() {
        return Err(TreeError::Unfit { path: path.to_owned(), problem: "it is neither a file nor a folder" });
    }
    let bytes = digest_of_bytes(path, &metadata).map_err(TreeError::unreadable(path))?;
    Ok(tree::identity(bytes, tree::is_executable(&metadata)))
}

/// What is in a folder now. Only files that were not hashed in this process, or were changed since, are read. `announce`
/// is called with the number of files and bytes before that.
///
/// # Errors
/// As [`Manifest::of_folder`].
pub(super) fn manifest(folder: &Path, announce: &mut dyn FnMut(usize, u64)) -> Result<Manifest, TreeError> {
    Manifest::of_folder_by(folder, announce, &digest_of_bytes)
}

fn digest_of_bytes(path: &Path, metadata: &Metadata) -> io::Result<Digest> {
    let hashed = || HASHED.lock().unwrap_or_else(PoisonError::into_inner);
    let new = Known::begin(metadata);
    let known =
        hashed().get(&new.file()).filter(|known| known.is_proof_of(metadata)).map(|known| known.digest);
    if let Some(known) = known {
        return Ok(known);
    }
    let digest = Digest::of_file(path)?;
    hashed().insert(new.file(), new.with(digest));
    Ok(digest)
}

/// How what is in a damaged tree differs from what was kept; the first few.
pub(super) fn problems(found: &Manifest, known: Option<&Manifest>) -> Vec<String> {
    let Some(known) = known else { return vec!["its bytes have another digest".to_owned()] };
    let entry = |manifest: &Manifest, path: &str| {
        let entries = manifest.entries();
        let found = entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok();
        found.map(|at| (entries[at].digest, entries[at].executable))
    };
    let shown = |path: &str| tree::shown(Path::new(path));
    let mut problems: Vec<String> = known
        .entries()
        .iter()
        .filter_map(|was| match entry(found, &was.path) {
            None => Some(format!("{} is missing", shown(&was.path))),
            Some((digest, _)) if digest != was.digest => {
                Some(format!("{} has other bytes", shown(&was.path)))
            }
            Some((_, executable)) if executable != was.executable => {
                let now = if executable { "may" } else { "may not" };
                Some(format!("{} {now} be executed", shown(&was.path)))
            }
            Some(_) => None,
        })
        .collect();
    let added = found.entries().iter().filter(|is| entry(known, &is.path).is_none());
    problems.extend(added.map(|is| format!("{} was not there", shown(&is.path))));
    if problems.len() > NAMED_FILES {
        let more = problems.len() - NAMED_FILES;
        problems.truncate(NAMED_FILES);
        problems.push(format!("and {more} more"));
    }
    problems
}
