//! A store that several machines share: a bucket (S3 and what speaks like it, GCS, Azure), a web server to read from, or
//! a folder. It holds records and trees as [`object`] and [`pack`] lay them out; every byte that comes from it is hashed
//! before it counts. [`Shared`] asks it while a plan unfolds.
//!
//! To the rest of the engine it is blocking. The runtime that its network needs is started when a store is named, never
//! otherwise.

mod connector;
mod fetch;
mod object;
mod open;
mod pack;
mod push;
mod shared;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use stage_api::secrets;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub use object::Stored;
pub use push::{Offer, Pushed};
pub use shared::{News, Offered, Shared};

/// How many objects are under way at one time.
const AT_ONCE: usize = 16;
/// How often an object that came damaged is asked for again: it may have been damaged on the way.
const TRIES: u32 = 3;
/// How long an object may take. A server that sends a byte now and then must not hold a run for ever.
const PATIENCE: Duration = Duration::from_secs(300);

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
                let problem = format!("it did not come within {} s", PATIENCE.as_secs());
                RemoteError::Trouble { place, object, problem, is_refusal: false }
            }
            Trouble::Damaged { object, problem } => RemoteError::Damaged { place, object, problem },
            Trouble::Here { path, error } => RemoteError::here(&path, &error),
            Trouble::Stopped => RemoteError::Stopped,
        }
    }
}

/// What went wrong with one object.
#[derive(Debug)]
enum Trouble {
    Refused { object: String, error: object_store::Error },
    Slow { object: String },
    Damaged { object: String, problem: String },
    Here { path: PathBuf, error: std::io::Error },
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

    /// Lets `act` take its time, but not all of it.
    async fn within<T>(
        &self,
        name: &str,
        act: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        let object = name.to_owned();
        match tokio::time::timeout(PATIENCE, act).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(Trouble::Refused { object, error }),
            Err(_) => Err(Trouble::Slow { object }),
        }
    }

    /// What `read` makes of the object of that name, if there is one. What it refuses is asked for again before it is
    /// believed to be damaged.
    async fn get<T>(
        &self,
        name: &str,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, Trouble> {
        let path = self.path(name);
        let mut problem = String::new();
        for _ in 0..TRIES {
            let bytes = self.within(name, async { self.objects.get(&path).await?.bytes().await }).await?;
            let Some(bytes) = bytes else { return Ok(None) };
            match read(bytes) {
                Ok(found) => return Ok(Some(found)),
                Err(wrong) => problem = wrong,
            }
        }
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Err(Trouble::Damaged { object: name.to_owned(), problem })
    }

    /// How large the object of that name is, if there is one that is not known to be damaged.
    async fn size(&self, name: &str) -> Result<Option<u64>, Trouble> {
        if self.is_damaged(name) {
            return Ok(None);
        }
        let path = self.path(name);
        Ok(self.within(name, self.objects.head(&path)).await?.map(|meta| meta.size))
    }

    /// Writes an object, in place of what may be there.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
        let path = self.path(name);
        self.within(name, self.objects.put(&path, PutPayload::from(bytes))).await?;
        Ok(())
    }

    /// Writes an object if there is none; says whether there was none.
    async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, Trouble> {
        let path = self.path(name);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let created = self.within(name, self.objects.put_opts(&path, PutPayload::from(bytes), options)).await;
        match created {
            Err(Trouble::Refused { error: object_store::Error::AlreadyExists { .. }, .. }) => Ok(false),
            other => other.map(|_| true),
        }
    }
}
