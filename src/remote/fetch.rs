//! Reads from a remote cache: records with the manifests of their trees, and the bytes of trees.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::object::{self, Stored, chunk_name, record_name, tree_name};
use super::pack::{self, FilePart};
use super::{Inner, MAX_CONCURRENT, Remote, RemoteError, Trouble};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;

impl Remote {
    /// Looks up keys concurrently: the record of each and the description of its tree. `None` for an unknown key.
    pub fn records(&self, keys: &[StageKey]) -> Vec<Result<Option<(RunRecord, Stored)>, RemoteError>> {
        let lookups = stream::iter(keys.iter().copied()).map(|key| {
            let inner = Arc::clone(&self.inner);
            async move { inner.record(&key).await }
        });
        let found = self.runtime.block_on(lookups.buffered(MAX_CONCURRENT).collect::<Vec<_>>());
        found.into_iter().map(|found| found.map_err(|trouble| self.trouble(trouble))).collect()
    }

    /// The description of a tree, if it exists.
    ///
    /// # Errors
    /// When a request fails, or the object is damaged.
    pub fn tree(&self, tree: &Digest) -> Result<Option<Stored>, RemoteError> {
        self.runtime.block_on(self.inner.tree(tree)).map_err(|trouble| self.trouble(trouble))
    }

    /// Writes the files of a tree into the empty folder `out`. Each chunk is checked; the caller must hash the tree.
    ///
    /// # Errors
    /// When a chunk is missing or damaged, or a write fails. Then the content of `out` is not usable.
    pub fn fetch(&self, stored: &Stored, out: &Path) -> Result<(), RemoteError> {
        prepare(stored, out).map_err(|(path, error)| RemoteError::local(&path, &error))?;
        let layout = pack::chunks(&stored.manifest);
        let files: Arc<Vec<(PathBuf, u64)>> = Arc::new(
            stored.manifest.entries().iter().map(|entry| (out.join(&entry.path), entry.size)).collect(),
        );
        let chunks = stream::iter(stored.chunks.iter().copied().zip(layout)).map(|(digest, parts)| {
            let (inner, files) = (Arc::clone(&self.inner), Arc::clone(&files));
            async move {
                // The semaphore is never closed.
                let _turn = inner.turns.acquire().await;
                let bytes = inner.chunk(&digest, pack::len(&parts)).await?;
                // Writing to disk must not block the network.
                let written = tokio::task::spawn_blocking(move || write(&files, &parts, &bytes)).await;
                written
                    .unwrap_or_else(|error| Err((PathBuf::new(), io::Error::other(error))))
                    .map_err(|(path, error)| Trouble::Local { path, error })
            }
        });
        let all = chunks.buffer_unordered(MAX_CONCURRENT).try_collect::<Vec<()>>();
        self.runtime.block_on(all).map_err(|trouble| self.trouble(trouble))?;
        Ok(())
    }
}

impl Inner {
    async fn record(&self, key: &StageKey) -> Result<Option<(RunRecord, Stored)>, Trouble> {
        let Some(record) = self
            .get(&record_name(key), object::MAX_RECORD_BYTES, |bytes| object::to_record(key, &bytes))
            .await?
        else {
            return Ok(None);
        };
        // Without its tree a record is useless.
        let Some(stored) = self.tree(&record.tree).await? else { return Ok(None) };
        if !object::agree(&record, &stored.manifest) {
            let problem = "it does not match the manifest of its tree".to_owned();
            return Err(Trouble::Damaged { object: record_name(key), problem });
        }
        Ok(Some((record, stored)))
    }

    async fn tree(&self, tree: &Digest) -> Result<Option<Stored>, Trouble> {
        self.get(&tree_name(tree), object::MAX_TREE_BYTES, |bytes| object::to_tree(tree, &bytes)).await
    }

    async fn chunk(&self, digest: &Digest, len: u64) -> Result<Bytes, Trouble> {
        let check = |bytes: Bytes| match bytes.len() as u64 {
            other if other != len => Err(format!("it has {other} bytes instead of {len}")),
            _ if Digest::of_bytes(&bytes) != *digest => Err("its bytes do not match its digest".to_owned()),
            _ => Ok(bytes),
        };
        let name = chunk_name(digest);
        let found = self.get(&name, len, check).await?;
        found.ok_or_else(|| Trouble::Damaged { object: name, problem: "it is missing".to_owned() })
    }
}

type Failed = (PathBuf, io::Error);

/// Creates the folders and empty files of a tree; large files get their final size.
fn prepare(stored: &Stored, out: &Path) -> Result<(), Failed> {
    for entry in stored.manifest.entries() {
        let path = out.join(&entry.path);
        let created = match entry.digest {
            None => fs::create_dir_all(&path),
            // The executable bit is part of the tree. The commit sets the other bits.
            Some(_) => path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
                let mode = if entry.executable { 0o777 } else { 0o666 };
                let is_written_in_parts = entry.size > pack::MAX_CHUNK_BYTES;
                let file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
                if is_written_in_parts { file.set_len(entry.size) } else { Ok(()) }
            }),
        };
        created.map_err(|error| (path, error))?;
    }
    Ok(())
}

/// Writes the parts of a chunk to their files.
fn write(files: &[(PathBuf, u64)], parts: &[FilePart], mut bytes: &[u8]) -> Result<(), Failed> {
    for part in parts {
        let (path, size) = &files[part.entry];
        let (these, rest) = bytes.split_at(part.len as usize);
        let open = || File::options().write(true).open(path);
        let written = if part.len == *size && *size <= pack::MAX_CHUNK_BYTES {
            open().and_then(|file| file.write_all_at(these, 0))
        } else {
            // A large file must be synced in the end: that overlaps with the next transfers.
            let begin = |file: File| file.write_all_at(these, part.offset).and_then(|()| file.sync_data());
            open().and_then(begin)
        };
        written.map_err(|error| (path.clone(), error))?;
        bytes = rest;
    }
    Ok(())
}
