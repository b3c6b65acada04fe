//! Writing to a shared store: chunks, then the tree that names them, then the record that names the tree. So a push that
//! breaks off leaves objects that nobody names, and the next one finds the chunks that are there. What another machine has
//! written under a key is never replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::object::{self, Stored, chunk_name, record_name, tree_name};
use super::pack::{self, Piece};
use super::{AT_ONCE, Inner, Remote, RemoteError, Trouble};
use crate::digest::Digest;
use crate::record::RunRecord;
use crate::store::VerifiedPath;
use crate::tree::Manifest;

/// How many results are pushed beside each other.
const RESULTS_AT_ONCE: usize = 4;

/// A result to be pushed.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its record.
    pub record: RunRecord,
    /// What is in its tree.
    pub manifest: Manifest,
    /// The tree's bytes.
    pub tree: VerifiedPath,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq)]
pub enum Pushed {
    /// The store has it now; so many bytes had to be sent.
    New {
        /// Bytes of chunks that were not there.
        sent: u64,
    },
    /// The store had it.
    BuildState,
    /// The store has another result under its key, which stays.
    Conflict(Box<RunRecord>),
}

impl Remote {
    /// Pushes results; an answer for each. With `again` nothing that lies there is trusted: all that these results are
    /// made of is sent once more.
    pub fn push(&self, offers: Vec<Upload>, again: bool) -> Vec<Result<Pushed, RemoteError>> {
        let all = stream::iter(offers).map(|offer| {
            let inner = Arc::clone(&self.inner);
            async move { inner.push(offer, again).await }
        });
        let pushed = self.runtime.block_on(all.buffered(RESULTS_AT_ONCE).collect::<Vec<_>>());
        pushed.into_iter().map(|pushed| pushed.map_err(|trouble| self.trouble(trouble))).collect()
    }
}

impl Inner {
    async fn push(self: Arc<Self>, offer: Upload, again: bool) -> Result<Pushed, Trouble> {
        let key = offer.record.key_text.key();
        let name = record_name(&key);
        let read = |bytes: bytes::Bytes| object::to_record(&key, &bytes);
        let (there, is_damaged) = match self.get(&name, object::LARGEST_RECORD, read).await {
            Ok(there) => (there, false),
            Err(Trouble::Damaged { .. }) => (None, true),
            Err(other) => return Err(other),
        };
        match &there {
            Some(theirs) if theirs.tree != offer.record.tree => {
                return Ok(Pushed::Conflict(Box::new(theirs.clone())));
            }
            // What was found damaged today is mended by whoever has it whole.
            Some(_) if !again && self.has_no_damage() => return Ok(Pushed::BuildState),
            _ => {}
        }
        let sent = self.push_tree(&offer, again).await?;
        if there.is_some() {
            return Ok(if sent > 0 { Pushed::New { sent } } else { Pushed::BuildState });
        }
        let bytes = object::of_record(&offer.record)
            .map_err(|error| error.to_string())
            .and_then(|bytes| of_possible_size(bytes, object::LARGEST_RECORD))
            .map_err(|problem| Trouble::Unfit { object: name.clone(), problem })?;
        if is_damaged {
            self.put(&name, bytes).await?;
        } else if !self.create(&name, bytes).await? {
            // Another machine was faster.
            let theirs = self
                .get(&name, object::LARGEST_RECORD, read)
                .await?
                .filter(|theirs| theirs.tree != offer.record.tree);
            return Ok(theirs.map_or(Pushed::BuildState, |theirs| Pushed::Conflict(Box::new(theirs))));
        }
        Ok(Pushed::New { sent })
    }

    fn has_no_damage(&self) -> bool {
        self.damaged.lock().is_ok_and(|damaged| damaged.is_empty())
    }

    /// Sends the chunks of a tree that are not there, and the tree; returns how many bytes of chunks that were.
    async fn push_tree(self: &Arc<Self>, offer: &Upload, again: bool) -> Result<u64, Trouble> {
        let files: Arc<Vec<PathBuf>> =
            Arc::new(offer.manifest.entries().iter().map(|entry| offer.tree.join(&entry.path)).collect());
        let chunks = stream::iter(pack::chunks(&offer.manifest)).map(|pieces| {
            let (inner, files) = (Arc::clone(self), Arc::clone(&files));
            async move { inner.push_chunk(files, pieces, again).await }
        });
        let chunks: Vec<(Digest, u64)> = chunks.buffered(AT_ONCE).try_collect().await?;
        let stored = Stored {
            manifest: offer.manifest.clone(),
            chunks: chunks.iter().map(|(digest, _)| *digest).collect(),
        };
        let name = tree_name(&offer.record.tree);
        let bytes = of_possible_size(object::of_tree(&stored), object::LARGEST_TREE)
            .map_err(|problem| Trouble::Unfit { object: name.clone(), problem })?;
        if again || self.size(&name).await? != Some(bytes.len() as u64) {
            self.put(&name, bytes).await?;
        }
        Ok(chunks.iter().map(|(_, sent)| sent).sum())
    }

    /// Sends a chunk unless it is there; returns its name and how many bytes were sent.
    async fn push_chunk(
        &self,
        files: Arc<Vec<PathBuf>>,
        pieces: Vec<Piece>,
        again: bool,
    ) -> Result<(Digest, u64), Trouble> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let read = tokio::task::spawn_blocking(move || {
            read(&files, &pieces).map(|bytes| (Digest::of_bytes(&bytes), bytes))
        });
        let read = read.await.unwrap_or_else(|error| Err((PathBuf::new(), io::Error::other(error))));
        let (digest, bytes) = read.map_err(|(path, error)| Trouble::Here { path, error })?;
        let (name, len) = (chunk_name(&digest), bytes.len() as u64);
        // By length: one that was cut short when it was written is sent again.
        if !again && self.size(&name).await? == Some(len) {
            return Ok((digest, 0));
        }
        self.put(&name, bytes).await?;
        Ok((digest, len))
    }
}

/// The bytes of an object, if whoever reads it would take so many.
fn of_possible_size(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>, String> {
    match bytes.len() as u64 {
        size if size > limit => Err(format!("it would have {size} bytes, and at most {limit} are possible")),
        _ => Ok(bytes),
    }
}

/// The bytes of a chunk.
fn read(files: &[PathBuf], pieces: &[Piece]) -> Result<Vec<u8>, (PathBuf, io::Error)> {
    let mut bytes = vec![0; pack::len(pieces) as usize];
    let mut at = 0;
    for piece in pieces {
        let path = &files[piece.entry];
        let end = at + piece.len as usize;
        File::open(path)
            .and_then(|file| file.read_exact_at(&mut bytes[at..end], piece.offset))
            .map_err(|error| (path.clone(), error))?;
        at = end;
    }
    Ok(bytes)
}
