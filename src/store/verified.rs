//! The only access to the bytes of a result: a [`VerifiedPath`], which only a comparison of the bytes with their
//! digest creates. A file that this process has hashed is not read again while its stamp is the same. A second check
//! thus costs one stat per file. It does not know the store; the evidence opens its files the same way.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::stat_cache::Known;
use crate::digest::Digest;
use crate::tree::{self, Manifest, TreeError};

/// A damaged result names at most this many files.
const MAX_PROBLEMS: usize = 5;

/// Files that this process has hashed, by device and inode, which a rename of the tree does not change.
static HASHED: LazyLock<Mutex<HashMap<(u64, u64), Known>>> = LazyLock::new(Mutex::default);

/// A result, or a file or folder in it, whose bytes match its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPath(PathBuf);

/// Why a result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Its bytes are missing.
    #[error("its bytes are missing")]
    Missing,
    /// Its bytes have another digest. Holds the first files that differ, or another reason.
    #[error("it is damaged ({})", .0.join("; "))]
    Damaged(Vec<String>),
    /// A part of it cannot be read, so it may be intact.
    #[error("{0}")]
    Unreadable(TreeError),
}

impl VerifiedPath {
    /// Compares the file or folder at `path` with its expected digest.
    ///
    /// # Errors
    /// When it is missing, has another digest, or cannot be read.
    pub fn check(path: &Path, expected: &Digest) -> Result<Self, ResultError> {
        match digest(path) {
            Ok(found) if found == *expected => Ok(Self(path.to_owned())),
            Ok(_) => Err(ResultError::Damaged(Vec::new())),
            Err(TreeError::Unreadable { path: missing, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                // A file may disappear between the listing and the reading.
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

/// The digest of a file or folder as a step reads it. Links are not followed.
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

/// The manifest of a folder now. Reads only files that this process has not hashed, or that have changed since.
/// Before that, it calls `announce` with the number of files and bytes to read.
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

/// The first differences between a damaged tree and its recorded manifest.
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
                Some(format!("{} has another digest", shown(&was.path)))
            }
            Some((_, executable)) if executable != was.executable => {
                let now = if executable { "is now" } else { "is no longer" };
                Some(format!("{} {now} executable", shown(&was.path)))
            }
            Some(_) => None,
        })
        .collect();
    let added = found.entries().iter().filter(|is| entry(known, &is.path).is_none());
    problems.extend(added.map(|is| format!("{} was added", shown(&is.path))));
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}
