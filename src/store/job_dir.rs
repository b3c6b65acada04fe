//! Job directories, `jobs/<key>/`: the folders of steps that a cluster runs. A job directory outlives the run that
//! created it, as the job does. The next run that needs the key finds it under the same name and continues. Of the
//! job, this module knows only that it holds the job lock while it runs and writes `ended.json` last.
//!
//! The job lock is a locked file. A job and all processes that it starts hold it, so two jobs never work in one job
//! directory at the same time. This also holds on different machines, and if the cluster starts a job again while its
//! first run continues.
//!
//! A process that abandons a job directory first appends that to the lock file and then removes the directory. A job
//! that starts too late finds that line, or no directory, and does nothing. This requires a file system whose locks
//! work between machines; a file system without locks is an error.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::lock::Claim;
use super::work_dir::{self, CWD, LOG, WorkDir};
use super::{ContentStore, StoreError, files};
use crate::key::StageKey;

/// The folder of the job directories in the store.
pub(super) const JOBS: &str = "jobs";
/// In a job directory: how its step ended. The owner of the job lock writes it at the very end.
pub const ENDED: &str = "ended.json";
const LOCK_FILE: &str = "lock";
/// The last line of the lock file of an abandoned job directory.
const ABANDONED_LINE: &str = "abandoned";

/// The right to work in a job directory, held until it is dropped.
#[derive(Debug)]
pub struct JobLock {
    file: File,
}

/// The result of an attempt to take a job lock.
#[derive(Debug)]
pub enum TryLock {
    /// This process holds the lock.
    Acquired(JobLock),
    /// Another process holds the lock.
    Held,
    /// There is no work left: the step has ended, or the job directory was abandoned or removed.
    Over,
}

impl JobLock {
    /// Takes the job lock and waits for it if necessary; `None` if there is no work left.
    ///
    /// # Errors
    /// When it cannot be opened or locked, or a signal interrupts the wait.
    pub fn wait(job_dir: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open(job_dir)? else { return Ok(None) };
        file.lock().map_err(no_lock)?;
        Self { file }.if_open(job_dir)
    }

    /// Takes the job lock if it is free.
    ///
    /// # Errors
    /// When it cannot be opened or locked.
    pub fn try_take(job_dir: &Path) -> io::Result<TryLock> {
        let Some(file) = open(job_dir)? else { return Ok(TryLock::Over) };
        match file.try_lock() {
            Ok(()) => Ok(Self { file }.if_open(job_dir)?.map_or(TryLock::Over, TryLock::Acquired)),
            Err(TryLockError::WouldBlock) => Ok(TryLock::Held),
            Err(TryLockError::Error(error)) => Err(no_lock(error)),
        }
    }

    /// `None` if the step has ended or the job directory was abandoned. No other process can end the step between the
    /// two checks, because only the owner of the lock does. The lock file of a replaced directory has the last line.
    fn if_open(mut self, job_dir: &Path) -> io::Result<Option<Self>> {
        if has_ended(job_dir) {
            return Ok(None);
        }
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok((text.lines().last() != Some(ABANDONED_LINE)).then_some(self))
    }

    /// Appends a line that names the job.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// From now on, each process that this one starts holds the lock too, until the last of them has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn share(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty())?)
    }
}

/// The lines of a lock file: the jobs that have worked here.
pub fn notes(job_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(job_dir.join(LOCK_FILE)).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// Whether the step of a job directory has ended. It lists the folder, because a network file system may cache that a
/// file does not exist.
pub fn has_ended(job_dir: &Path) -> bool {
    fs::read_dir(job_dir)
        .is_ok_and(|mut items| items.any(|item| item.is_ok_and(|item| item.file_name() == ENDED)))
}

fn open(job_dir: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).append(true).open(job_dir.join(LOCK_FILE)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_lock(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::Interrupted {
        return error;
    }
    io::Error::other(format!(
        "the file system of the cache cannot lock files ({error}); a cache that several machines use needs locks \
         between machines (NFS 4, Lustre mounted with `flock`, …)"
    ))
}

/// Closes a job directory, so that no job starts there; `false` if a job is running there now.
pub(super) fn end(job_dir: &Path) -> io::Result<bool> {
    let mut held = None;
    if !has_ended(job_dir) {
        match JobLock::try_take(job_dir)? {
            TryLock::Held => return Ok(false),
            TryLock::Acquired(job_lock) => held = Some(job_lock),
            TryLock::Over => {}
        }
    }
    let open = held.map(|job_lock| job_lock.file).map_or_else(|| open(job_dir), |file| Ok(Some(file)))?;
    if let Some(mut file) = open {
        file.write_all(format!("{ABANDONED_LINE}\n").as_bytes())?;
    }
    Ok(true)
}

/// A job directory for the claimed `key`: the one that an earlier run has left, or a new one.
pub(super) fn set_up(store: &ContentStore, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
    let job_dir = path(store, &key);
    let is_intact =
        job_dir.join(LOCK_FILE).exists() && notes(&job_dir).last().is_none_or(|line| line != ABANDONED_LINE);
    if !is_intact {
        work_dir::remove(&job_dir)?;
        let created = fs::create_dir_all(job_dir.join("out"))
            .and_then(|()| fs::create_dir(job_dir.join(CWD)))
            .and_then(|()| fs::write(job_dir.join(LOG), ""))
            // The last file: with it the job directory is complete.
            .and_then(|()| files::write_whole(&job_dir.join(LOCK_FILE), b"", false));
        created.map_err(StoreError::io(&job_dir, "set up the job directory"))?;
    }
    Ok(WorkDir::job_dir(key, job_dir, claim))
}

/// Abandons the job directory of `key` from an earlier run, because the step is about to run here.
pub(super) fn abandon(store: &ContentStore, key: &StageKey) -> Result<(), StoreError> {
    let job_dir = path(store, key);
    if !job_dir.exists() {
        return Ok(());
    }
    if !end(&job_dir).map_err(StoreError::io(&job_dir, "abandon"))? {
        return Err(StoreError::JobRunning { job_dir: job_dir.clone(), by: notes(&job_dir).pop() });
    }
    work_dir::keep_logs(store, &job_dir, key)?;
    work_dir::remove(&job_dir)
}

/// The path of the job directory of `key`.
pub(super) fn path(store: &ContentStore, key: &StageKey) -> PathBuf {
    store.root().join(JOBS).join(key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job_dir() -> tempfile::TempDir {
        let job_dir = tempfile::tempdir().unwrap();
        fs::write(job_dir.path().join(LOCK_FILE), "").unwrap();
        job_dir
    }

    #[test]
    fn one_job_at_a_time_holds_the_lock_and_none_after_the_end() {
        let job_dir = job_dir();
        let TryLock::Acquired(mut job_lock) = JobLock::try_take(job_dir.path()).unwrap() else {
            panic!("the lock is free")
        };
        job_lock.note("job 1").unwrap();
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Held));
        assert!(!end(job_dir.path()).unwrap(), "a job is running there");
        drop(job_lock);
        // A job that died without `ended.json`: the next one continues. A process that another test starts may hold
        // the lock until it runs its program.
        let job_lock = JobLock::wait(job_dir.path()).unwrap().expect("the step has not ended");
        fs::write(job_dir.path().join(ENDED), "{}").unwrap();
        drop(job_lock);
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Over));
        assert!(JobLock::wait(job_dir.path()).unwrap().is_none());
        assert_eq!(notes(job_dir.path()), ["job 1"]);
    }

    #[test]
    fn a_job_that_opened_the_lock_of_an_abandoned_directory_does_nothing() {
        let job_dir = job_dir();
        let late = open(job_dir.path()).unwrap().unwrap();
        assert!(end(job_dir.path()).unwrap());
        // A new job directory replaces it under the same name.
        fs::remove_file(job_dir.path().join(LOCK_FILE)).unwrap();
        fs::write(job_dir.path().join(LOCK_FILE), "").unwrap();
        late.lock().unwrap();
        assert!(JobLock { file: late }.if_open(job_dir.path()).unwrap().is_none());
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Acquired(_)));
    }

    #[test]
    fn a_shared_lock_is_held_until_the_last_child_has_ended() {
        let job_dir = job_dir();
        let TryLock::Acquired(job_lock) = JobLock::try_take(job_dir.path()).unwrap() else {
            panic!("the lock is free")
        };
        job_lock.share().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(job_lock);
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Held));
        child.kill().unwrap();
        child.wait().unwrap();
        // Processes that other tests of this program have started hold it too, until they end.
        assert!(JobLock::wait(job_dir.path()).unwrap().is_some());
    }
}
