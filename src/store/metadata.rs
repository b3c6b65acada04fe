//! What the store keeps next to results: digests of files by their stamps, versions of tools, checked pipelines, the
//! dependencies of requests that were found up to date, and which pipelines use the store.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ContentStore, PIPELINES, StatCache, StoreError, files};
use crate::digest::Digest;
use crate::environment::Version;

const USERS: &str = "users";
/// A pipeline file has a few profiles, and a person switches between a few versions of it.
const KEPT_PIPELINES: usize = 8;

impl ContentStore {
    /// What version commands printed, as far as it is known, oldest first.
    pub fn versions(&self) -> Vec<Version> {
        self.state.borrow().versions().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The dependency snapshot of the last "nothing to do" of `request`, if no execution was recorded since.
    pub fn up_to_date(&self, request: &Digest) -> Option<String> {
        self.state.borrow().up_to_date(request).map(ToOwned::to_owned)
    }

    /// Stores the dependency snapshot `note` of a "nothing to do" of `request`, based on the executions known here.
    ///
    /// # Errors
    /// When the state log cannot be written.
    pub fn keep_up_to_date(&self, request: &Digest, note: &str) -> Result<(), StoreError> {
        // The bytes of an execution that is not synced may still be lost.
        if self.state.borrow().has_unsynced() {
            return Ok(());
        }
        let mark = self.state.borrow().mark();
        self.with_state(|state| state.keep_up_to_date(mark, request, note))?;
        self.tidy()
    }

    /// The checked pipeline that is stored under `name`.
    pub fn pipeline(cache: &Path, name: &Digest) -> Option<Vec<u8>> {
        files::read(&cache.join(PIPELINES).join(name.to_string())).ok()
    }

    /// Stores a checked pipeline under `name` and keeps the few newest other ones.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_pipeline(&self, name: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.prepare()?;
        let folder = self.root.join(PIPELINES);
        fs::create_dir_all(&folder).map_err(StoreError::io(&folder, "create the folder"))?;
        let mut kept: Vec<_> = fs::read_dir(&folder)
            .map_err(StoreError::io(&folder, "list"))?
            .flatten()
            .filter_map(|item| Some((item.metadata().ok()?.modified().ok()?, item.path())))
            .collect();
        kept.sort_unstable();
        for (_, old) in kept.iter().rev().skip(KEPT_PIPELINES - 1) {
            files::remove(old).map_err(StoreError::io(old, "remove"))?;
        }
        let path = folder.join(name.to_string());
        files::write_whole(&path, bytes, false).map_err(StoreError::io(&path, "write"))
    }

    /// The digests of project files that are known.
    pub fn stat_cache(&self) -> StatCache {
        StatCache::of_lines(self.state.borrow().files())
    }

    /// Stores what `cache` has learned, and the output of version commands.
    ///
    /// # Errors
    /// When the state log cannot be written.
    pub fn keep_metadata(&self, cache: &mut StatCache, versions: &[Version]) -> Result<(), StoreError> {
        let mut lines: Vec<String> = cache.new_lines().iter().map(|line| format!("file {line}")).collect();
        lines.extend(
            versions.iter().filter_map(|a| Some(format!("version {}", serde_json::to_string(a).ok()?))),
        );
        if lines.is_empty() {
            return Ok(());
        }
        self.append(&lines, false)?;
        self.tidy()
    }

    /// Records that the pipeline in `file`, an absolute path, uses this store, so that `gc` keeps its results.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn register(&self, file: &Path) -> Result<(), StoreError> {
        let folder = self.root.join(USERS);
        let path = folder.join(Digest::of_bytes(file.as_os_str().as_encoded_bytes()).to_string());
        if path.exists() {
            return Ok(());
        }
        self.prepare()?;
        fs::create_dir_all(&folder).map_err(StoreError::io(&folder, "create the folder"))?;
        let text = file.to_string_lossy();
        files::write_whole(&path, text.as_bytes(), false).map_err(StoreError::io(&path, "write"))
    }

    /// The pipeline files that have used this store.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn users(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut users = Vec::new();
        for (_, path) in self.list(USERS)? {
            let text = files::read_text(&path).map_err(StoreError::io(&path, "read"))?;
            users.push(PathBuf::from(text));
        }
        users.sort_unstable();
        Ok(users)
    }

    /// Removes a pipeline file from the users of this store.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn unregister(&self, file: &Path) -> Result<(), StoreError> {
        let name = Digest::of_bytes(file.as_os_str().as_encoded_bytes()).to_string();
        let path = self.root.join(USERS).join(name);
        files::remove(&path).map_err(StoreError::io(&path, "remove"))
    }
}
