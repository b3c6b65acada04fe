//! An environment in the cache: built once, at the place where it stays (its programs hold that path), under a lock.
//!
//! ```text
//! cache/environments/
//!   <digest>/prefix/   the programs and packages
//!   <digest>/project/  the lock file that they were built from
//!   <digest>/built     written last: without it the rest does not count, and the next step builds again
//!   <digest>.lock      locked by the step that builds, shared by those that run with it
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stage_api::{Job, StageError};

/// The folder of environments in the cache.
pub const ENVIRONMENTS: &str = "environments";
/// The folder of programs and packages in that of an environment.
pub(super) const PREFIX: &str = "prefix";
/// The file that an environment has once it is complete.
const BUILT: &str = "built";
/// The ending of the name of its lock.
const LOCK: &str = ".lock";
/// How soon to look again whether a lock is free.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// An environment, in use until it is dropped.
#[derive(Debug)]
pub struct Prefix {
    /// Its folder of programs and packages.
    pub path: PathBuf,
    _lock: File,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Shared,
    Exclusive,
}

impl Prefix {
    /// The environment `name` in `cache`. Where it is missing, `build` builds it in the folder that it gets; other steps
    /// wait for that.
    ///
    /// # Errors
    /// What `build` returns; when the cache cannot be written; when the run stops.
    pub fn shared(
        cache: &Path,
        name: &str,
        job: &Job,
        build: &dyn Fn(&Path) -> Result<(), StageError>,
    ) -> Result<Self, StageError> {
        let all = cache.join(ENVIRONMENTS);
        fs::create_dir_all(&all)?;
        let (folder, lock) = (all.join(name), all.join(format!("{name}{LOCK}")));
        let mut was_built = false;
        loop {
            let shared = locked(&lock, Mode::Shared, job)?;
            if is_built(&folder) {
                return Ok(Self { path: folder.join(PREFIX), _lock: shared });
            }
            if was_built {
                return Err(StageError::failed(format!(
                    "{}: the environment was built, and its `python` is missing",
                    folder.display()
                )));
            }
            drop(shared);
            let _exclusive = locked(&lock, Mode::Exclusive, job)?;
            if is_built(&folder) {
                continue;
            }
            clear(&folder)?;
            fs::create_dir(&folder)?;
            if let Err(error) = build(&folder) {
                clear(&folder)?;
                return Err(error);
            }
            // After a power cut the file must not be there without the rest.
            rustix::fs::sync();
            fs::write(folder.join(BUILT), "")?;
            was_built = true;
        }
    }
}

/// Whether an environment is complete. The interpreter that a virtual environment links to may be gone.
fn is_built(folder: &Path) -> bool {
    let python = folder.join(PREFIX).join("bin/python");
    folder.join(BUILT).exists() && (!python.is_symlink() || python.exists())
}

/// Whether a step runs with the environment `name`, or builds it.
pub fn is_in_use(cache: &Path, name: &str) -> bool {
    let lock = cache.join(ENVIRONMENTS).join(format!("{name}{LOCK}"));
    File::open(lock).is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Removes the environment `name`, unless it is in use. Returns whether it was removed.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(cache: &Path, name: &str) -> io::Result<bool> {
    let all = cache.join(ENVIRONMENTS);
    let path = all.join(format!("{name}{LOCK}"));
    let lock = open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    clear(&all.join(name))?;
    fs::remove_file(path)?;
    Ok(true)
}

/// Removes the folder of an environment, which counts as missing from the first moment.
fn clear(folder: &Path) -> io::Result<()> {
    for removed in [fs::remove_file(folder.join(BUILT)), fs::remove_dir_all(folder)] {
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The locked file of `path`.
fn locked(path: &Path, mode: Mode, job: &Job) -> Result<File, StageError> {
    let mut has_waited = false;
    loop {
        let file = open(path)?;
        let tried = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match tried {
            // It may have been removed after it was opened.
            Ok(())
                if fs::metadata(path)
                    .is_ok_and(|at| at.ino() == file.metadata().map_or(0, |of| of.ino())) =>
            {
                return Ok(file);
            }
            Ok(()) => continue,
            Err(TryLockError::WouldBlock) => {
                job.check_cancelled()?;
                if !has_waited && mode == Mode::Shared {
                    job.progress.note("waiting for the step that builds the environment");
                    has_waited = true;
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}
