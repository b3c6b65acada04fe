//! Locks that the system releases when their process ends, so no lock is ever left behind. The content of a lock file
//! only names its owner for the processes that wait.
//!
//! - Runs share the cache's lock. Commands that remove results take it exclusively.
//! - A claim is the right to run one key. Runs on one cache share the work: each claims the steps that it starts.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stage_api::secrets;

use super::StoreError;

/// The process that owns a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// Its process ID.
    pub process: u32,
    /// The machine it runs on.
    pub machine: String,
    /// Its command line.
    pub command: String,
    /// When it took the lock, in milliseconds since 1970.
    pub since_ms: u64,
}

impl LockOwner {
    fn this_process() -> Self {
        // Others can read it, and an address on the command line may hold a secret.
        let words = std::env::args_os().map(|word| secrets::shown(&word.to_string_lossy()));
        let mut command = words.collect::<Vec<_>>().join(" ");
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

    /// The owner that the lock file names. It is only for messages: an incomplete line must not stop the caller.
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

impl fmt::Display for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, machine, command, since_ms } = self;
        let seconds = now_ms().saturating_sub(*since_ms) / 1000;
        write!(f, "process {process} on {machine} (`{command}`, for {seconds} s)")
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// The mode of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Shared with other processes.
    Shared,
    /// Held by one process alone.
    Exclusive,
}

/// The cache's lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// Whether it had to wait for another process.
    pub has_waited: bool,
}

impl Lock {
    /// Takes the lock and waits for it if necessary. Before it waits, it calls `wait` once with the name of the
    /// owner.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn take(path: &Path, mode: LockMode, wait: &mut dyn FnMut(&str)) -> Result<Self, StoreError> {
        let mut file = open(path).map_err(StoreError::io(path, "open"))?;
        let tried = match mode {
            LockMode::Shared => file.try_lock_shared(),
            LockMode::Exclusive => file.try_lock(),
        };
        let has_waited = match tried {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => {
                let owner = LockOwner::named_in(&mut file).map(|owner| owner.to_string());
                wait(owner.as_deref().unwrap_or("another process"));
                let locked = match mode {
                    LockMode::Shared => file.lock_shared(),
                    LockMode::Exclusive => file.lock(),
                };
                locked.map_err(StoreError::io(path, "lock"))?;
                true
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(path, "lock")(error)),
        };
        LockOwner::this_process().write_to(&mut file).map_err(StoreError::io(path, "write"))?;
        Ok(Self { _file: file, has_waited })
    }
}

/// The claims that this process takes. The file of a released claim is renamed for the next one: creating and
/// removing files would be the largest cost of a short step's claim.
#[derive(Debug)]
pub(super) struct Claims {
    folder: PathBuf,
    spare: Rc<RefCell<Vec<Spare>>>,
}

/// The unlocked file of a released claim, and its path.
type Spare = (File, PathBuf);

/// The right to run a key, held until it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// Its locked file; `None` once the claim is released.
    file: Option<File>,
    path: PathBuf,
    spare: Rc<RefCell<Vec<Spare>>>,
}

/// The result of an attempt to claim a key.
#[derive(Debug)]
pub enum TryClaim {
    /// This process holds the claim.
    Acquired(Claim),
    /// Another process holds the claim.
    HeldBy(Option<LockOwner>),
}

impl Claims {
    /// Claims whose files are in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, spare: Rc::default() }
    }

    /// Tries to take the claim with that name.
    ///
    /// # Errors
    /// When its file cannot be opened or locked.
    pub fn try_take(&self, name: &str) -> Result<TryClaim, StoreError> {
        let path = self.folder.join(name);
        let mine = |file| {
            let (file, spare) = (Some(file), Rc::clone(&self.spare));
            TryClaim::Acquired(Claim { file, path: path.clone(), spare })
        };
        let spare = self.spare.borrow_mut().pop();
        if let Some(file) = spare.and_then(|spare| moved(spare, &path)) {
            return Ok(mine(file));
        }
        loop {
            let mut file = open(&path).map_err(StoreError::io(&path, "open"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(TryClaim::HeldBy(LockOwner::named_in(&mut file))),
                Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, "lock")(error)),
            }
            // The previous owner may have removed the file after this process opened it. Then it is not a claim.
            if is_at(&file, &path).map_err(StoreError::io(&path, "read"))? {
                LockOwner::this_process().write_to(&mut file).map_err(StoreError::io(&path, "write"))?;
                return Ok(mine(file));
            }
        }
    }

    /// Removes spare files.
    pub fn clear(&self) {
        for (file, path) in self.spare.take() {
            if file.try_lock().is_ok() && is_at(&file, &path).unwrap_or(false) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Renames a spare file to a free claim. It is locked before it gets that name.
fn moved((file, old): Spare, new: &Path) -> Option<File> {
    // Another process may have claimed it under its old name.
    if file.try_lock().is_err() || !is_at(&file, &old).unwrap_or(false) {
        return None;
    }
    // A hard link, because a rename would replace a claim that another process holds.
    let is_free = std::fs::hard_link(&old, new).is_ok();
    let is_gone = std::fs::remove_file(&old).is_ok();
    (is_free && is_gone).then_some(file)
}

/// Whether this file is the one at that path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match path.metadata() {
        Ok(there) => Ok((here.ino(), here.dev()) == (there.ino(), there.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Claim {
    /// Releases the claim and removes its file.
    pub(super) fn remove(mut self) {
        // Before the lock is released. A file that cannot be removed is not locked, so it blocks no claim.
        let _ = std::fs::remove_file(&self.path);
        self.file = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(file) = self.file.take()
            && file.unlock().is_ok()
        {
            self.spare.borrow_mut().push((file, std::mem::take(&mut self.path)));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(claims: &Claims, name: &str) -> Claim {
        match claims.try_take(name).unwrap() {
            TryClaim::Acquired(claim) => claim,
            TryClaim::HeldBy(owner) => panic!("{owner:?} holds it"),
        }
    }

    fn is_free(claims: &Claims, name: &str) -> bool {
        matches!(claims.try_take(name).unwrap(), TryClaim::Acquired(_))
    }

    fn names(folder: &Path) -> Vec<String> {
        let items = std::fs::read_dir(folder).unwrap().flatten();
        items.map(|item| item.file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_released_claim_can_be_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (Claims::new(folder.path().into()), Claims::new(folder.path().into()));
        let claim = taken(&here, "a");
        let TryClaim::HeldBy(Some(owner)) = there.try_take("a").unwrap() else {
            panic!("two claims hold the key")
        };
        assert_eq!(owner.process, std::process::id());
        drop(claim);
        assert!(is_free(&there, "a"));
        taken(&here, "a").remove();
        assert!(!folder.path().join("a").exists());
    }

    #[test]
    fn a_released_file_is_reused_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (Claims::new(folder.path().into()), Claims::new(folder.path().into()));
        let inode = |name: &str| folder.path().join(name).metadata().unwrap().ino();
        let claim = taken(&here, "a");
        let file = inode("a");
        drop(claim);
        let claim = taken(&here, "b");
        assert_eq!((inode("b"), names(folder.path())), (file, vec!["b".to_owned()]));
        assert!(!is_free(&there, "b"));
        assert!(is_free(&there, "a"), "the claim was released");
        drop((claim, here, there));
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn a_spare_file_that_another_process_claims_or_removes_stays_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (Claims::new(folder.path().into()), Claims::new(folder.path().into()));
        drop(taken(&here, "a"));
        let theirs = taken(&there, "a");
        let mine = taken(&here, "b");
        assert!(!is_free(&here, "a") && !is_free(&there, "b"), "each keeps its own");
        drop(mine);
        theirs.remove();
        std::fs::remove_file(folder.path().join("b")).unwrap();
        let mine = taken(&here, "c");
        assert!(folder.path().join("c").exists() && !is_free(&there, "c"));
        // A claim that another process holds is not replaced.
        drop(mine);
        let theirs = taken(&there, "d");
        assert!(!is_free(&here, "d"));
        drop(theirs);
    }

    #[test]
    fn threads_never_hold_one_claim_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let inside: [std::sync::atomic::AtomicUsize; 3] = Default::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let claims = Claims::new(folder.path().into());
                    let mut taken = 0;
                    while taken < 300 {
                        let name = taken % inside.len();
                        let TryClaim::Acquired(claim) = claims.try_take(&name.to_string()).unwrap() else {
                            continue;
                        };
                        use std::sync::atomic::Ordering::SeqCst;
                        assert_eq!(inside[name].fetch_add(1, SeqCst), 0);
                        taken += 1;
                        inside[name].fetch_sub(1, SeqCst);
                        drop(claim);
                    }
                });
            }
        });
    }
}
