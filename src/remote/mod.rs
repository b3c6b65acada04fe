//! A cache that several machines share: a bucket (S3 and compatible ones, GCS, Azure), a web server (read-only), or a
//! folder. It holds records and trees in the formats of `object` and `pack`; all bytes from it are hashed before
//! they are used. [`RemoteCache`] queries it during a run.
//!
//! The rest of the engine sees a blocking interface. The async runtime starts only when a remote cache is opened.

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

/// Limit of concurrent requests.
const MAX_CONCURRENT: usize = 16;
/// A damaged object is requested this many times, because it may have been damaged on the way.
const MAX_TRIES: u32 = 3;
/// A read times out after this long with less than [`MIN_PROGRESS_BYTES`]. A server that is silent, or sends single
/// bytes, must not block a run.
const STALL_TIMEOUT: Duration = Duration::from_secs(6);
/// See [`STALL_TIMEOUT`].
const MIN_PROGRESS_BYTES: usize = 4096;
/// Lowest useful rate to send, in bytes per second.
const MIN_SEND_RATE: usize = 64 << 10;

/// The timeout for sending an object of that size. There is no information on its progress.
fn send_timeout(bytes: usize) -> Duration {
    2 * STALL_TIMEOUT + Duration::from_secs((bytes / MIN_SEND_RATE) as u64)
}

/// A remote cache.
#[derive(Debug)]
pub struct Remote {
    place: String,
    inner: Arc<Inner>,
    runtime: Runtime,
    is_readonly: bool,
}

/// The state that concurrent requests share.
#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// The prefix of all object names.
    prefix: object_store::path::Path,
    /// Objects that were found damaged. A push replaces them.
    damaged: Mutex<HashSet<String>>,
    /// Limits the number of chunks in memory.
    turns: Semaphore,
    /// Set by another thread to stop all requests.
    stop: AtomicBool,
    /// Whether a request has failed.
    has_failed: AtomicBool,
    /// The folder of the objects, if the cache is a folder.
    folder: Option<PathBuf>,
}

/// The errors of a remote cache.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// The name cannot be one of a remote cache.
    #[error("`{place}` is not a remote cache: {problem}")]
    Place {
        /// The given name.
        place: String,
        /// The reason.
        problem: String,
    },
    /// A request failed: the store is unreachable, or refuses it.
    #[error("{place}: {object}: {problem}")]
    Trouble {
        /// The remote cache.
        place: String,
        /// The requested object.
        object: String,
        /// The error.
        problem: String,
        /// Whether the store refused access.
        is_refusal: bool,
    },
    /// An object is not usable.
    #[error("{place}: {object} counts as missing: {problem}")]
    Damaged {
        /// The remote cache.
        place: String,
        /// The object.
        object: String,
        /// The reason.
        problem: String,
    },
    /// A file on this machine cannot be read or written.
    #[error("{}: {problem}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The reason.
        problem: String,
    },
    /// An object cannot be stored.
    #[error("{object} cannot be stored: {problem}")]
    Unfit {
        /// The object.
        object: String,
        /// The reason.
        problem: String,
    },
    /// The result in the local cache is not usable.
    #[error("cannot use the result in the cache: {problem}")]
    Result {
        /// The reason.
        problem: String,
    },
    /// The requests were stopped.
    #[error("stopped")]
    Stopped,
}

impl RemoteError {
    fn local(path: &Path, error: &std::io::Error) -> Self {
        Self::Local { path: path.to_owned(), problem: error.to_string() }
    }
}

impl Remote {
    /// The name of the remote cache, as given.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether nothing is ever written to it.
    pub fn is_readonly(&self) -> bool {
        self.is_readonly
    }

    /// Stops all requests, from another thread.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let inner = Arc::clone(&self.inner);
        move || inner.stop.store(true, Ordering::Relaxed)
    }

    /// Converts it to an error of this remote cache.
    fn trouble(&self, trouble: Trouble) -> RemoteError {
        let place = self.place.clone();
        match trouble {
            Trouble::Refused { object, error } => {
                use object_store::Error::{PermissionDenied, Unauthenticated};
                let is_refusal = matches!(error, PermissionDenied { .. } | Unauthenticated { .. });
                RemoteError::Trouble { place, object, problem: with_causes(&error), is_refusal }
            }
            Trouble::Slow { object } => {
                let problem = "the request timed out".to_owned();
                RemoteError::Trouble { place, object, problem, is_refusal: false }
            }
            Trouble::Skipped { object } => {
                let problem = "not requested, because an earlier request failed".to_owned();
                RemoteError::Trouble { place, object, problem, is_refusal: false }
            }
            Trouble::Unfit { object, problem } => RemoteError::Unfit { object, problem },
            Trouble::Damaged { object, problem } => RemoteError::Damaged { place, object, problem },
            Trouble::Local { path, error } => RemoteError::local(&path, &error),
            Trouble::Stopped => RemoteError::Stopped,
        }
    }
}

/// The failure of one object.
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
    /// An object that is too large to be read back.
    Unfit {
        object: String,
        problem: String,
    },
    Damaged {
        object: String,
        problem: String,
    },
    Local {
        path: PathBuf,
        error: std::io::Error,
    },
    Stopped,
}

/// An error with its causes, each printed once.
fn with_causes(error: &dyn std::error::Error) -> String {
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

    /// Sends a request, unless an earlier one failed.
    async fn request<T>(
        &self,
        name: &str,
        timeout: Duration,
        act: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(Trouble::Skipped { object: name.to_owned() });
        }
        self.within(name, timeout, act).await
    }

    /// Runs `act` with a timeout.
    async fn within<T>(
        &self,
        name: &str,
        timeout: Duration,
        act: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Trouble> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Trouble::Stopped);
        }
        let object = name.to_owned();
        match tokio::time::timeout(timeout, act).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(Trouble::Refused { object, error }),
            Err(_) => Err(Trouble::Slow { object }),
        }
    }

    /// Remembers a failure, so that no more requests are sent.
    fn note<T>(&self, result: Result<T, Trouble>) -> Result<T, Trouble> {
        if matches!(result, Err(Trouble::Refused { .. } | Trouble::Slow { .. })) {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// In a folder, only regular files are opened: a pipe may block forever, and a link leaves the folder.
    fn refuse_special_file(&self, name: &str) -> Result<(), Trouble> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match std::fs::symlink_metadata(folder.join(name)) {
            Ok(metadata) if !metadata.is_file() => {
                self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
                let problem = "it is not a regular file".to_owned();
                Err(Trouble::Damaged { object: name.to_owned(), problem })
            }
            // Other errors come from the store itself.
            _ => Ok(()),
        }
    }

    /// The bytes of an object, if it exists. The inner error is the reason why it cannot be valid.
    async fn read(&self, name: &str, limit: u64) -> Result<Option<Result<Bytes, String>>, Trouble> {
        self.refuse_special_file(name)?;
        let path = self.path(name);
        let Some(found) = self.request(name, STALL_TIMEOUT, self.objects.get(&path)).await? else {
            return Ok(None);
        };
        let too_large =
            |size: u64| Ok(Some(Err(format!("it has {size} bytes, more than the limit of {limit}"))));
        if found.meta.size > limit {
            return too_large(found.meta.size);
        }
        let mut stream = found.into_stream();
        let mut bytes = BytesMut::new();
        let (mut since, mut come) = (Instant::now(), 0);
        loop {
            let left = STALL_TIMEOUT.saturating_sub(since.elapsed());
            let next = async { stream.next().await.transpose() };
            match self.within(name, left, next).await {
                Ok(Some(Some(part))) => {
                    come += part.len();
                    // The store may have reported another size.
                    if (bytes.len() + part.len()) as u64 > limit {
                        return too_large((bytes.len() + part.len()) as u64);
                    }
                    bytes.extend_from_slice(&part);
                }
                Ok(Some(None)) => return Ok(Some(Ok(bytes.freeze()))),
                Ok(None) => return Ok(None),
                Err(Trouble::Slow { .. }) if come >= MIN_PROGRESS_BYTES => {
                    (since, come) = (Instant::now(), 0)
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Reads and parses an object, if it exists, up to `limit` bytes. An object that `read` rejects is requested
    /// again before it counts as damaged. A first timeout is repeated as well.
    async fn get<T>(
        &self,
        name: &str,
        limit: u64,
        read: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, Trouble> {
        let mut problem = String::new();
        for attempt in 0..MAX_TRIES {
            let found = match self.read(name, limit).await {
                Err(Trouble::Slow { .. }) if attempt == 0 => continue,
                // This request was slow; the failure was that of another object.
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

    /// The size of an object, if it exists and is not known to be damaged.
    async fn size(&self, name: &str) -> Result<Option<u64>, Trouble> {
        if self.is_damaged(name) || self.refuse_special_file(name).is_err() {
            return Ok(None);
        }
        let path = self.path(name);
        let found = self.request(name, STALL_TIMEOUT, self.objects.head(&path)).await;
        Ok(self.note(found)?.map(|meta| meta.size))
    }

    /// Writes an object and replaces an existing one.
    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
        let (path, timeout) = (self.path(name), send_timeout(bytes.len()));
        let put = self.request(name, timeout, self.objects.put(&path, PutPayload::from(bytes))).await;
        self.note(put).map(|_| ())
    }

    /// Writes an object unless it exists. Returns whether it wrote it.
    async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool, Trouble> {
        let (path, timeout) = (self.path(name), send_timeout(bytes.len()));
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.objects.put_opts(&path, PutPayload::from(bytes), options);
        match self.request(name, timeout, put).await {
            Err(Trouble::Refused { error: object_store::Error::AlreadyExists { .. }, .. }) => Ok(false),
            other => self.note(other).map(|_| true),
        }
    }
}
