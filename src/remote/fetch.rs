//! Reading from a shared store: records with what is in their trees, and the bytes of a tree.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::object::{self, Stored, chunk_name, record_name, tree_name};
use super::pack::{self, Piece};
use super::{AT_ONCE, Inner, Remote, RemoteError, Trouble};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;

impl Remote {
    /// What is known of keys, each asked for beside the others: the record, and what is in its tree. `None` where nothing is
    /// known.
    pub fn records(&self, keys: &[StageKey]) -> Vec<Result<Option<(RunRecord, Stored)>, RemoteError>> {
        let lookups = stream::iter(keys.iter().copied()).map(|key| {
            let inner = Arc::clone(&self.inner);
            async move { inner.record(&key).await }
        });
        let found = self.runtime.block_on(lookups.buffered(AT_ONCE).collect::<Vec<_>>());
        found.into_iter().map(|found| found.map_err(|trouble| self.trouble(trouble))).collect()
    }

    /// What is in a tree, if it is there.
    ///
    /// # Errors
    /// When the store does not answer, or what it has is damaged.
    pub fn tree(&self, tree: &Digest) -> Result<Option<Stored>, RemoteError> {
        self.runtime.block_on(self.inner.tree(tree)).map_err(|trouble| self.trouble(trouble))
    }

    /// Writes the files of a tree into the empty folder `out`. Each chunk is hashed; whether the whole is the tree, the
    /// caller sees by hashing it.
    ///
    /// # Errors
    /// When a chunk is missing or damaged, or the disk does not take it. What was written is of no use then.
    pub fn fetch(&self, stored: &Stored, out: &Path) -> Result<(), RemoteError> {
        prepare(stored, out).map_err(|(path, error)| RemoteError::here(&path, &error))?;
        let layout = pack::chunks(&stored.manifest);
        let files: Arc<Vec<(PathBuf, u64)>> = Arc::new(
            stored.manifest.entries().iter().map(|entry| (out.join(&entry.path), entry.size)).collect(),
        );
        let chunks = stream::iter(stored.chunks.iter().copied().zip(layout)).map(|(digest, pieces)| {
            let (inner, files) = (Arc::clone(&self.inner), Arc::clone(&files));
            async move {
                // The semaphore is never closed.
                let _turn = inner.turns.acquire().await;
                let bytes = inner.chunk(&digest, pack::len(&pieces)).await?;
                // The disk may take its time; the network goes on meanwhile.
                let written = tokio::task::spawn_blocking(move || write(&files, &pieces, &bytes)).await;
                written
                    .unwrap_or_else(|error| Err((PathBuf::new(), io::Error::other(error))))
                    .map_err(|(path, error)| Trouble::Here { path, error })
            }
        });
        let all = chunks.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>();
        self.runtime.block_on(all).map_err(|trouble| self.trouble(trouble))?;
        Ok(())
    }
}

impl Inner {
    async fn record(&self, key: &StageKey) -> Result<Option<(RunRecord, Stored)>, Trouble> {
        let Some(record) = self
            .get(&record_name(key), object::LARGEST_RECORD, |bytes| object::to_record(key, &bytes))
            .await?
        else {
            return Ok(None);
        };
        // Without a description of its tree a record is of no use.
        let Some(stored) = self.tree(&record.tree).await? else { return Ok(None) };
        if !object::agree(&record, &stored.manifest) {
            let problem = "it says other things of its tree than the tree does".to_owned();
            return Err(Trouble::Damaged { object: record_name(key), problem });
        }
        Ok(Some((record, stored)))
    }

    async fn tree(&self, tree: &Digest) -> Result<Option<Stored>, Trouble> {
        self.get(&tree_name(tree), object::LARGEST_TREE, |bytes| object::to_tree(tree, &bytes)).await
    }

    async fn chunk(&self, digest: &Digest, len: u64) -> Result<Bytes, Trouble> {
        let check = |bytes: Bytes| match bytes.len() as u64 {
            other if other != len => Err(format!("it has {other} bytes instead of {len}")),
            _ if Digest::of_bytes(&bytes) != *digest => {
                Err("its bytes are not what its name says".to_owned())
            }
            _ => Ok(bytes),
        };
        let name = chunk_name(digest);
        let found = self.get(&name, len, check).await?;
        found.ok_or_else(|| Trouble::Damaged { object: name, problem: "it is not there".to_owned() })
    }
}

type Failed = (PathBuf, io::Error);

/// Makes the folders of a tree and its files, empty still; large ones as long as they will be.
fn prepare(stored: &Stored, out: &Path) -> Result<(), Failed> {
    for entry in stored.manifest.entries() {
        let path = out.join(&entry.path);
        let made = match entry.digest {
            None => fs::create_dir_all(&path),
            // The executable bit is part of the tree; what else others may do is set when it is kept.
            Some(_) => path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
                let mode = if entry.executable { 0o777 } else { 0o666 };
                let is_written_in_parts = entry.size > pack::LARGEST;
                let file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
                if is_written_in_parts { file.set_len(entry.size) } else { Ok(()) }
            }),
        };
        made.map_err(|error| (path, error))?;
    }
    Ok(())
}

/// Writes the pieces of a chunk where they belong.
fn write(files: &[(PathBuf, u64)], pieces: &[Piece], mut bytes: &[u8]) -> Result<(), Failed> {
    for piece in pieces {
        let (path, size) = &files[piece.entry];
        let (these, rest) = bytes.split_at(piece.len as usize);
        let open = || File::options().write(true).open(path);
        let written = if piece.len == *size && *size <= pack::LARGEST {
            open().and_then(|file| file.write_all_at(these, 0))
        } else {
            // What is kept must be on the disk in the end: it goes there while the rest still comes.
            let begin = |file: File| file.write_all_at(these, piece.offset).and_then(|()| file.sync_data());
            open().and_then(begin)
        };
        written.map_err(|error| (path.clone(), error))?;
        bytes = rest;
    }
    Ok(())
}
