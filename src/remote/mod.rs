//! A store that several machines share: a bucket (S3 and what speaks like it, GCS, Azure), a web server to read from, or
//! a folder. It holds records and trees as `object` and `pack` lay them out; every byte that comes from it is hashed
//! before it counts. [`RemoteCache`] asks it while a plan unfolds.
//!
//! To the rest of the engine it is blocking. The runtime that its network needs is started when a store is named, never
//! otherwise.

mod cache;
mod connector;
mod fetch;
mod object;
mod open;
mod pack;
mod push;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use stage_api::secrets;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub use cache::{PushSummary, RemoteCache, RemoteEvent};
pub use object::Stored;
pub use push::{Pushed, Upload};

/// How many objects are under way at one time.
const AT_ONCE: usize = 16;
/// How often an object that came damaged is asked for again: it may have been damaged on the way.
const TRIES: u32 = 3;
/// How long a store may send next to nothing. A server that is silent, or sends a byte now and then, must not hold a run.
const QUIET: Duration = Duration::from_secs(6);
/// Fewer bytes than this in [`QUIET`] are next to nothing.
const LEAST: usize = 4096;
/// Bytes a second at which an object can be sent over the slowest line that is of use.
const SLOWEST_SENDING: usize = 64 << 10;

/// How long an object of that size may take to be sent. How far it is cannot be seen.
fn patience(bytes: usize) -> Duration {
    2 * QUIET + Duration::from_secs((bytes / SLOWEST_SENDING) as u64)
}

/// A shared store.
#[derive(Debug)]
pub struct Remote {
    place: String,
    inner: Arc<Inner>,
    runtime: Runtime,
    is_readonly: bool,
}

/// What the tasks of a store share.
#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// What the names of all objects begin with.
    prefix: object_store::path::Path,
    /// Objects that were found damaged. What is there does not count when such a one is written.
    damaged: Mutex<HashSet<String>>,
    /// Chunks that may be in memory.
    turns: Semaphore,
    /// Set from outside: all that is under way is to end.
    stop: AtomicBool,
    /// Whether it did not do what it was asked.
    has_failed: AtomicBool,
    /// Where the objects are, if that is a folder here.
    folder: Option<PathBuf>,
}

/// What may go wrong with a shared store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be named like that.
    #[error("`{place}` names no shared store: {problem}")]
    Place {
        /// What was given.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It does not do what it is asked: it cannot be reached, or it refuses.
    #[error("{place}: {object}: {problem}")]
    Trouble {
        /// The store.
        place: String,
        /// What was asked for.
        object: String,
        /// What it answered.
        problem: String,
        /// Whether it answered that this is not allowed.
        is_refusal: bool,
    },
    /// An object is not what it must be.
    #[error("{place}: {object} is damaged and counts as absent: {problem}")]
    Damaged {
        /// The store.
        place: String,
        /// The object.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The disk here does not take or give something.
    #[error("{}: {problem}", path.display())]
    Here {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// An object cannot be stored.
    #[error("{object} cannot be stored: {problem}")]
    Unfit {
        /// The object.
        object: String,
        /// Why.
        problem: String,
    },
    /// The result here cannot be used.
    #[error("the result in the cache cannot be used: {problem}")]
    Result {
        /// Why.
        problem: String,
    },
    /// It was asked to stop.
    #[error("it was stopped")]
    Stopped,
}

impl RemoteError {
    fn here(path: &Path, error: &std::io::Error) -> Self {
        Self::Here { path: path.to_owned(), problem: error.to_string() }
    }
}

impl Remote {
    /// The store's name, as it was given.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether nothing is ever written there.
    pub fn is_readonly(&self) -> bool {
        self.is_readonly
    }

    /// Ends what is under way, from another thread.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let inner = Arc::clone(&self.inner);
        move || inner.stop.store(true, Ordering::Relaxed)
    }

    /// As an error of this store.
    fn trouble(&self, trouble: Trouble) -> RemoteError {
        let place = self.place.clone();
        match trouble {
            Trouble::Refused { object, error } => {
                use object_store::Error::{PermissionDenied, Unauthenticated};
                let is_refusal = matches!(error, PermissionDenied { .. } | Unauthenticated { .. });
                RemoteError::Trouble { place, object, problem: in_words(&error), is_refusal }
            }
            Trouble::Slow { object } => {
                let problem = format!("it sent next to nothing for {} s", QUIET.as_secs());
                RemoteError::Trouble { place, object, problem, is_refusal: false }
            }
            Trouble::Skipped { object } => {
                let problem = "not asked for, as the store failed before".to_owned();
                RemoteError::Trouble { place, object, problem, is_refusal: false }
            }
            Trouble::Unfit { object, problem } => RemoteError::Unfit { object, problem },
            Trouble::Damaged { object, problem } => RemoteError::Damaged { place, object, problem },
            Trouble::Here { path, error } => RemoteError::here(&path, &error),
            Trouble::Stopped => RemoteError::Stopped,
        }
    }
}

/// What went wrong with one object.
#[derive(Debug)]
enum Trouble {
    Refused {
        object: String,
        error: object_store::Error,
    },
    Slow {
        object: String,
    },
    Skipped {
        object: String,
    },
    /// An object that would be too large to be read.
    Unfit {
        object: String,
        problem: String,
    },
    Damaged {
        object: String,
        problem: String,
    },
    Here {
        path: PathBuf,
        error: std::io::Error,
    },
    Stopped,
}

/// An error with what caused it, each said once.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    secrets::shown(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Inner {
    fn path(&self, name: &str) -> object_store::path::Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn is_damaged(&self, name: &str) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Asks the store for something, unless it failed before.
    async fn ask<T>(
        &self,
        name: &str,
        patience: Duration,
        act: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(Trouble::Skipped { object: name.to_owned() });
        }
        self.within(name, patience, act).await
    }

    /// Lets `act` take so much time, and no more.
    async fn within<T>(
        &self,
        name: &str,
        patience: Duration,
        act: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        let object = name.to_owned();
        match tokio::time::timeout(patience, act).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(Trouble::Refused { object, error }),
            Err(_) => Err(Trouble::Slow { object }),
        }
    }

    /// Remembers that the store does not do what it is asked: what was not begun is not asked for any more.
    fn note<T>(&self, result: Result<T, Trouble>) -> Result<T, Trouble> {
        if matches!(result, Err(Trouble::Refused { .. } | Trouble::Slow { .. })) {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// In a folder, what is not a regular file is not opened: a pipe would never answer, and a link leads elsewhere.
    fn refuse_special_file(&self, name: &str) -> Result<(), Trouble> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match std::fs::symlink_metadata(folder.join(name)) {
            Ok(metadata) if !metadata.is_file() => {
                self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                let problem = "it is not a regular file".to_owned();
                Err(Trouble::Damaged { object: name.to_owned(), problem })
            }
            // Whether it is there, and may be read, the store says.
            _ => Ok(()),
        }
    }

    /// The bytes of the object of that name, if there is one; in the inner result, why it cannot be what it is taken for.
    async fn read(&self, name: &str, limit: u64) -> Result<Option<Result<Bytes, String>>, Trouble> {
        self.refuse_special_file(name)?;
        let path = self.path(name);
        let Some(found) = self.ask(name, QUIET, self.objects.get(&path)).await? else { return Ok(None) };
        let too_large =
            |size: u64| Ok(Some(Err(format!("it has {size} bytes, and at most {limit} are possible"))));
        if found.meta.size > limit {
            return too_large(found.meta.size);
        }
        let mut stream = found.into_stream();
        let mut bytes = BytesMut::new();
        let (mut since, mut come) = (Instant::now(), 0);
        loop {
            let left = QUIET.saturating_sub(since.elapsed());
            let next = async { stream.next().await.transpose() };
            match self.within(name, left, next).await {
                Ok(Some(Some(part))) => {
                    come += part.len();
                    // Whatever the store said about the size before.
                    if (bytes.len() + part.len()) as u64 > limit {
                        return too_large((bytes.len() + part.len()) as u64);
                    }
                    bytes.extend_from_slice(&part);
                }
                Ok(Some(None)) => return Ok(Some(Ok(bytes.freeze()))),
                Ok(None) => return Ok(None),
                Err(Trouble::Slow { .. }) if come >= LEAST => (since, come) = (Instant::now(), 0),
                Err(other) => return Err(other),
            }
        }
    }

    /// What `read` makes of the object of that name, if there is one; more than `limit` bytes of it are not taken. What `read`
    /// refuses is asked for again before it is believed to be damaged, and so is what did not come.
    async fn get<T>(
        &self,
        name: &str,
        limit: u64,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, Trouble> {
        let mut problem = String::new();
        for attempt in 0..TRIES {
            let found = match self.read(name, limit).await {
                Err(Trouble::Slow { .. }) if attempt == 0 => continue,
                // What failed meanwhile is another object; this one was slow.
                Err(Trouble::Skipped { object }) if attempt > 0 => return Err(Trouble::Slow { object }),
                other => self.note(other)?,
            };
            let Some(bytes) = found else { return Ok(None) };
            match bytes.and_then(&read) {
                Ok(found) => return Ok(Some(found)),
                Err(wrong) => problem = wrong,
            }
        }
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Err(Trouble::Damaged { object: name.to_owned(), problem })
    }

    /// How large the object of that name is, if there is one that is not known to be damaged.
    async fn size(&self, name: &str) -> Result<Option<u64>, Trouble> {
        if self.is_damaged(name) || self.refuse_special_file(name).is_err() {
            return Ok(None);
        }
        let path = self.path(name);
        let found = self.ask(name, QUIET, self.objects.head(&path)).await;
        Ok(self.note(found)?.map(|meta| meta.size))
    }

    /// Writes an object, in place of what may be there.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
        let (path, patience) = (self.path(name), patience(bytes.len()));
        let put = self.ask(name, patience, self.objects.put(&path, PutPayload::from(bytes))).await;
        self.note(put).map(|_| ())
    }

    /// Writes an object if there is none; says whether there was none.
    async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, Trouble> {
        let (path, patience) = (self.path(name), patience(bytes.len()));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.objects.put_opts(&path, PutPayload::from(bytes), options);
        match self.ask(name, patience, put).await {
            Err(Trouble::Refused { error: object_store::Error::AlreadyExists { .. }, .. }) => Ok(false),
            other => self.note(other).map(|_| true),
        }
    }
}
