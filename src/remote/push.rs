//! Writes to a remote cache: chunks, then the tree that names them, then the record that names the tree. An
//! interrupted push leaves unnamed objects, and the next one reuses its chunks. A record of another machine is never
//! replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::object::{self, Stored, chunk_name, record_name, tree_name};
use super::pack::{self, FilePart};
use super::{Inner, MAX_CONCURRENT, Remote, RemoteError, Trouble};
use crate::digest::Digest;
use crate::record::RunRecord;
use crate::store::VerifiedPath;
use crate::tree::Manifest;

/// Limit of concurrently pushed results.
const MAX_CONCURRENT_RESULTS: usize = 4;

/// A result to push.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its record.
    pub record: RunRecord,
    /// The files of its tree.
    pub manifest: Manifest,
    /// The tree's bytes.
    pub tree: VerifiedPath,
}

/// The outcome for one result.
#[derive(Debug, Clone, PartialEq)]
pub enum Pushed {
    /// The result is new in the remote cache.
    New {
        /// Bytes of the chunks that were sent.
        sent: u64,
    },
    /// The remote cache had the result already.
    AlreadyPresent,
    /// The remote cache has another result under its key; it stays.
    Conflict(Box<RunRecord>),
}

impl Remote {
    /// Pushes results and returns the outcome of each. With `force`, existing objects are not trusted and all are
    /// sent again.
    pub fn push(&self, offers: Vec<Upload>, force: bool) -> Vec<Result<Pushed, RemoteError>> {
        let all = stream::iter(offers).map(|offer| {
            let inner = Arc::clone(&self.inner);
            async move { inner.push(offer, force).await }
        });
        let pushed = self.runtime.block_on(all.buffered(MAX_CONCURRENT_RESULTS).collect::<Vec<_>>());
        pushed.into_iter().map(|pushed| pushed.map_err(|trouble| self.trouble(trouble))).collect()
    }
}

impl Inner {
    async fn push(self: Arc<Self>, offer: Upload, force: bool) -> Result<Pushed, Trouble> {
        let key = offer.record.key_text.key();
        let name = record_name(&key);
        let read = |bytes: bytes::Bytes| object::to_record(&key, &bytes);
        let (there, is_damaged) = match self.get(&name, object::MAX_RECORD_BYTES, read).await {
            Ok(there) => (there, false),
            Err(Trouble::Damaged { .. }) => (None, true),
            Err(other) => return Err(other),
        };
        match &there {
            Some(theirs) if theirs.tree != offer.record.tree => {
                return Ok(Pushed::Conflict(Box::new(theirs.clone())));
            }
            // After damage was found, all objects are checked, so that a complete result repairs it.
            Some(_) if !force && self.has_no_damage() => return Ok(Pushed::AlreadyPresent),
            _ => {}
        }
        let sent = self.push_tree(&offer, force).await?;
        if there.is_some() {
            return Ok(if sent > 0 { Pushed::New { sent } } else { Pushed::AlreadyPresent });
        }
        let bytes = object::of_record(&offer.record)
            .map_err(|error| error.to_string())
            .and_then(|bytes| within_limit(bytes, object::MAX_RECORD_BYTES))
            .map_err(|problem| Trouble::Unfit { object: name.clone(), problem })?;
        if is_damaged {
            self.put(&name, bytes).await?;
        } else if !self.create(&name, bytes).await? {
            // Another machine was faster.
            let theirs = self
                .get(&name, object::MAX_RECORD_BYTES, read)
                .await?
                .filter(|theirs| theirs.tree != offer.record.tree);
            return Ok(theirs.map_or(Pushed::AlreadyPresent, |theirs| Pushed::Conflict(Box::new(theirs))));
        }
        Ok(Pushed::New { sent })
    }

    fn has_no_damage(&self) -> bool {
        self.damaged.lock().is_ok_and(|damaged| damaged.is_empty())
    }

    /// Sends the missing chunks of a tree, and the tree. Returns the number of bytes of these chunks.
    async fn push_tree(self: &Arc<Self>, offer: &Upload, force: bool) -> Result<u64, Trouble> {
        let files: Arc<Vec<PathBuf>> =
            Arc::new(offer.manifest.entries().iter().map(|entry| offer.tree.join(&entry.path)).collect());
        let chunks = stream::iter(pack::chunks(&offer.manifest)).map(|parts| {
            let (inner, files) = (Arc::clone(self), Arc::clone(&files));
            async move { inner.push_chunk(files, parts, force).await }
        });
        let chunks: Vec<(Digest, u64)> = chunks.buffered(MAX_CONCURRENT).try_collect().await?;
        let stored = Stored {
            manifest: offer.manifest.clone(),
            chunks: chunks.iter().map(|(digest, _)| *digest).collect(),
        };
        let name = tree_name(&offer.record.tree);
        let bytes = within_limit(object::of_tree(&stored), object::MAX_TREE_BYTES)
            .map_err(|problem| Trouble::Unfit { object: name.clone(), problem })?;
        if force || self.size(&name).await? != Some(bytes.len() as u64) {
            self.put(&name, bytes).await?;
        }
        Ok(chunks.iter().map(|(_, sent)| sent).sum())
    }

    /// Sends a chunk unless it exists. Returns its digest and the number of bytes sent.
    async fn push_chunk(
        &self,
        files: Arc<Vec<PathBuf>>,
        parts: Vec<FilePart>,
        force: bool,
    ) -> Result<(Digest, u64), Trouble> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let read = tokio::task::spawn_blocking(move || {
            read(&files, &parts).map(|bytes| (Digest::of_bytes(&bytes), bytes))
        });
        let read = read.await.unwrap_or_else(|error| Err((PathBuf::new(), io::Error::other(error))));
        let (digest, bytes) = read.map_err(|(path, error)| Trouble::Local { path, error })?;
        let (name, len) = (chunk_name(&digest), bytes.len() as u64);
        // Compares the length, so that a truncated chunk is sent again.
        if !force && self.size(&name).await? == Some(len) {
            return Ok((digest, 0));
        }
        self.put(&name, bytes).await?;
        Ok((digest, len))
    }
}

/// The bytes of an object, unless they exceed what readers accept.
fn within_limit(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, String> {
    match bytes.len() as u64 {
        size if size > limit => Err(format!("it would have {size} bytes, more than the limit of {limit}")),
        _ => Ok(bytes),
    }
}

/// The bytes of a chunk.
fn read(files: &[PathBuf], parts: &[FilePart]) -> Result<Vec<u8>, (PathBuf, io::Error)> {
    let mut bytes = vec![0; pack::len(parts) as usize];
    let mut at = 0;
    for part in parts {
        let path = &files[part.entry];
        let end = at + part.len as usize;
        File::open(path)
            .and_then(|file| file.read_exact_at(&mut bytes[at..end], part.offset))
            .map_err(|error| (path.clone(), error))?;
        at = end;
    }
    Ok(bytes)
}
