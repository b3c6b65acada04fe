//! Locks that the system drops when their process ends, however it ends: none is ever left behind. What the locked
//! file says only tells those who wait whom they wait for.
//!
//! - The cache's lock is shared by all that run steps and taken alone by what removes results.
//! - A claim is the right to run one key. Of several runs on one cache each claims the steps it starts, so that they
//!   share the work.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::StoreError;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process number.
    pub process: u32,
    /// The machine it runs on.
    pub machine: String,
    /// Its command line.
    pub command: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
}

impl Holder {
    fn this_process() -> Self {
        let mut command = std::env::args().collect::<Vec<_>>().join(" ");
        if command.len() > 200 {
            command = command.chars().take(200).collect::<String>() + "…";
        }
        Self {
            process: std::process::id(),
            machine: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            command,
            since_ms: now_ms(),
        }
    }

    /// Who a locked file says holds it. That is a courtesy: a half-written line must not stop anybody.
    fn named_in(file: &mut File) -> Option<Self> {
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn write_to(&self, file: &mut File) -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(self)?)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, machine, command, since_ms } = self;
        let seconds = now_ms().saturating_sub(*since_ms) / 1000;
        write!(f, "process {process} on {machine} (`{command}`, for {seconds} s)")
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Beside others that share it.
    Shared,
    /// Alone.
    Alone,
}

/// The cache's lock, held while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// Whether somebody else had to be waited for.
    pub has_waited: bool,
}

impl Lock {
    /// Takes the lock, waiting if need be; `wait` is told once who holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn take(path: &Path, share: Share, wait: &mut dyn FnMut(&str)) -> Result<Self, StoreError> {
        let mut file = open(path).map_err(StoreError::io(path, "open"))?;
        let tried = match share {
            Share::Shared => file.try_lock_shared(),
            Share::Alone => file.try_lock(),
        };
        let has_waited = match tried {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => {
                let holder = Holder::named_in(&mut file).map(|holder| holder.to_string());
                wait(holder.as_deref().unwrap_or("another process"));
                let locked = match share {
                    Share::Shared => file.lock_shared(),
                    Share::Alone => file.lock(),
                };
                locked.map_err(StoreError::io(path, "lock"))?;
                true
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(path, "lock")(error)),
        };
        Holder::this_process().write_to(&mut file).map_err(StoreError::io(path, "write"))?;
        Ok(Self { _file: file, has_waited })
    }
}

/// The right to run a key, held while it lives.
#[derive(Debug)]
pub struct Claim {
    _file: File,
    path: PathBuf,
}

/// What became of a try to claim a key.
#[derive(Debug)]
pub enum Claimed {
    /// It is this process's.
    Mine(Claim),
    /// Another process has it.
    Theirs(Option<Holder>),
}

impl Claim {
    /// Tries to take the claim in `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub(super) fn try_take(path: &Path) -> Result<Claimed, StoreError> {
        loop {
            let mut file = open(path).map_err(StoreError::io(path, "open"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Claimed::Theirs(Holder::named_in(&mut file))),
                Err(TryLockError::Error(error)) => return Err(StoreError::io(path, "lock")(error)),
            }
            // The one who had it may have removed the file after it was opened here: then it is nobody's claim.
            let is_current =
                |here: &File| -> io::Result<bool> { Ok(here.metadata()?.ino() == path.metadata()?.ino()) };
            match is_current(&file) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io(path, "read")(error)),
            }
            Holder::this_process().write_to(&mut file).map_err(StoreError::io(path, "write"))?;
            return Ok(Claimed::Mine(Self { _file: file, path: path.to_owned() }));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the lock goes with the file; a file that stays is nobody's claim either.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_given_once_and_again_when_it_was_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let Claimed::Mine(claim) = Claim::try_take(&path).unwrap() else { panic!("nobody has it") };
        let Claimed::Theirs(Some(holder)) = Claim::try_take(&path).unwrap() else {
            panic!("it was given twice")
        };
        assert_eq!(holder.process, std::process::id());
        drop(claim);
        assert!(!path.exists());
        assert!(matches!(Claim::try_take(&path).unwrap(), Claimed::Mine(_)));
    }

    #[test]
    fn many_at_once_never_hold_one_claim_together() {
        let folder = tempfile::tempdir().unwrap();
        let (path, inside) = (folder.path().join("key"), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut taken = 0;
                    while taken < 200 {
                        let Claimed::Mine(claim) = Claim::try_take(&path).unwrap() else { continue };
                        use std::sync::atomic::Ordering::SeqCst;
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        taken += 1;
                        inside.fetch_sub(1, SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }
}
