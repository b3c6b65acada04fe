//! The writing half of the store; whoever has a [`Writer`] holds the lock.

use std::fs;
use std::path::PathBuf;

use super::{ContentStore, Lock, StoreError, files};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// A run shorter than this is cheaper to repeat than to force to disk.
const DURABLE_FROM_SECONDS: f64 = 1.0;

/// The store, open for writing.
#[derive(Debug)]
pub struct Writer {
    store: ContentStore,
    _lock: Lock,
}

/// The folders of one running step.
#[derive(Debug)]
pub struct WorkDir {
    /// The key that is run.
    pub key: StageKey,
    /// Empty at first; becomes the tree.
    pub out: PathBuf,
    /// Survives a failed attempt of the key.
    pub scratch: PathBuf,
    /// The log, empty at first.
    pub log: PathBuf,
    /// Holds `out` and whatever else the run needs beside it.
    pub folder: PathBuf,
}

impl Writer {
    /// Clears what dead runs left behind: nobody else runs, the lock says so.
    pub(super) fn start(store: ContentStore, lock: Lock) -> Result<Self, StoreError> {
        let work = store.root().join("work");
        for item in fs::read_dir(&work).map_err(StoreError::io(&work, "list"))?.flatten() {
            files::remove(&item.path())
                .map_err(StoreError::io(&item.path(), "remove a dead run's folder"))?;
        }
        Ok(Self { store, _lock: lock })
    }

    /// The store, for reading.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Fresh folders for a run of `key`.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn begin(&self, key: StageKey) -> Result<WorkDir, StoreError> {
        let work = self.store.root().join("work");
        // A name of its own for each attempt: a dying process of an earlier one must not write into this one.
        let folder = tempfile::Builder::new()
            .prefix(&format!("{key}-"))
            .tempdir_in(&work)
            .map_err(StoreError::io(&work, "make a folder in it"))?
            .keep();
        let out = folder.join("out");
        let scratch = self.store.root().join("scratch").join(key.to_string());
        for folder in [&out, &scratch] {
            fs::create_dir_all(folder).map_err(StoreError::io(folder, "create the folder"))?;
        }
        let log = self.store.log(&key);
        fs::write(&log, "").map_err(StoreError::io(&log, "write"))?;
        files::remove(&log.with_extension("jsonl")).map_err(StoreError::io(&log, "remove"))?;
        Ok(WorkDir { key, out, scratch, log, folder })
    }

    /// Hashes what a run wrote.
    ///
    /// # Errors
    /// When it wrote something that a tree cannot hold.
    pub fn hash(&self, work: &WorkDir) -> Result<Manifest, StoreError> {
        Ok(Manifest::of_folder(&work.out)?)
    }

    /// Keeps what a run wrote: the tree under its digest, then the record under its key.
    ///
    /// # Errors
    /// When the disk does not take it; then there is no record, and an earlier one of the key still stands.
    pub fn commit(&self, work: WorkDir, manifest: &Manifest, record: &RunRecord) -> Result<(), StoreError> {
        let durable = record.seconds >= DURABLE_FROM_SECONDS;
        let (tree, path) = (self.store.tree(&record.tree), self.store.manifest_file(&record.tree));
        files::write_whole(&path, manifest.text().as_bytes(), durable)
            .map_err(StoreError::io(&path, "write"))?;
        // A step runs though its tree is there when two keys have one output, or when a person doubts it. Bytes
        // that are not what their name says give way to the fresh ones.
        let kept = tree.is_dir() && Manifest::of_folder(&tree).is_ok_and(|old| old.digest() == record.tree);
        if !kept {
            self.forget_bytes(&record.tree)?;
            files::seal(&work.out, durable).map_err(StoreError::io(&work.out, "make read-only"))?;
            fs::rename(&work.out, &tree).map_err(StoreError::io(&tree, "move the output to"))?;
            if durable {
                let trees = self.store.root().join("trees");
                files::sync_folder(&trees).map_err(StoreError::io(&trees, "sync"))?;
            }
        }
        let path = self.store.root().join("records").join(work.key.to_string());
        let text = record.to_text().map_err(|error| StoreError::io(&path, "write")(error.into()))?;
        files::write_whole(&path, text.as_bytes(), durable).map_err(StoreError::io(&path, "write"))?;
        files::remove(&work.scratch).map_err(StoreError::io(&work.scratch, "remove"))?;
        self.discard(work)
    }

    /// Keeps a record of a tree that is there already.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        let path = self.store.root().join("records").join(record.key_text.key().to_string());
        let text = record.to_text().map_err(|error| StoreError::io(&path, "write")(error.into()))?;
        files::write_whole(&path, text.as_bytes(), true).map_err(StoreError::io(&path, "write"))
    }

    /// Throws away what a run wrote; its scratch and its log stay.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn discard(&self, work: WorkDir) -> Result<(), StoreError> {
        files::remove(&work.folder).map_err(StoreError::io(&work.folder, "remove"))
    }

    /// Removes a tree's bytes; its manifest and the records that name it stay.
    fn forget_bytes(&self, tree: &Digest) -> Result<(), StoreError> {
        // Out of its name first: a half-removed tree must not look like a whole one.
        let (tree, aside) =
            (self.store.tree(tree), self.store.root().join("work").join(format!("{tree}-old")));
        if tree.exists() {
            fs::rename(&tree, &aside).map_err(StoreError::io(&tree, "move aside"))?;
        }
        files::remove(&aside).map_err(StoreError::io(&aside, "remove"))
    }
}
