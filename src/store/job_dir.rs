//! Desks of steps whose work a job elsewhere does, `jobs/<key>/`. Such a desk outlives the run that set it up, as the
//! job does: the next run that wants the key finds it under the same name and goes on from there. Of the job this
//! module knows only that it holds the desk's token while it works and writes `ended.json` last.
//!
//! The token is a locked file. Whoever works at the desk has it, with all the processes it started: so no two jobs,
//! on whatever machines, work there at one time, also when the scheduler started one again while the first still
//! ran. Whoever gives the desk up writes so into the token before it takes the desk away: a job that begins too late
//! finds that, or no desk, and does nothing. That needs a file system whose locks hold between machines; one that
//! has no locks at all is refused.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::lock::Claim;
use super::work_dir::{self, CWD, LOG, WorkDir};
use super::{ContentStore, StoreError, files};
use crate::key::StageKey;

/// The folder of these desks in the store.
pub(super) const JOBS: &str = "jobs";
/// In a desk: how its step ended, written whole by whoever holds the token, at the very end.
pub const ENDED: &str = "ended.json";
const LOCK_FILE: &str = "lock";
/// The last line of a token that nobody may take any more.
const ABANDONED_LINE: &str = "abandoned";

/// The right to work at a desk, held while it lives.
#[derive(Debug)]
pub struct JobLock {
    file: File,
}

/// What became of a try to take a token.
#[derive(Debug)]
pub enum TryLock {
    /// Nobody else works at the desk.
    Acquired(JobLock),
    /// Somebody works there.
    Held,
    /// There is nothing to work at any more: the step has ended, the desk was given up, or it is gone.
    Over,
}

impl JobLock {
    /// Takes the token, waiting for whoever has it; `None` when the desk is over.
    ///
    /// # Errors
    /// When it cannot be opened or locked, or a signal came while waiting.
    pub fn wait(job_dir: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open(job_dir)? else { return Ok(None) };
        file.lock().map_err(no_lock)?;
        Self { file }.if_open(job_dir)
    }

    /// Takes the token if nobody has it.
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

    /// First whether the step has ended, then what the token says: between the two nobody else can have ended it,
    /// as only who has the token does, and a desk that was replaced by a new one has a token that says it is over.
    fn if_open(mut self, job_dir: &Path) -> io::Result<Option<Self>> {
        if has_ended(job_dir) {
            return Ok(None);
        }
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok((text.lines().last() != Some(ABANDONED_LINE)).then_some(self))
    }

    /// Adds a line: who works here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// From now on it is held by every process that this one starts, too, until the last of them has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn share(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.file, rustix::io::FdFlags::empty())?)
    }
}

/// The lines of a desk's token: who has worked there.
pub fn notes(job_dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(job_dir.join(LOCK_FILE)).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// Whether the step of a desk has ended. The folder is listed, as a network file system may remember for a while
/// that a file was not there.
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
        "the file system of the cache gives no lock ({error}); a cache that several machines use needs one with locks \
         between machines (NFS 4, Lustre mounted with `flock`, …)"
    ))
}

/// Ends a desk, so that no job begins to work there; `false` when one works there now.
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

/// A desk for a job that does the work of the claimed `key`: the one that an earlier run left for it, if there is
/// one.
pub(super) fn set_up(store: &ContentStore, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
    let job_dir = path(store, &key);
    let is_intact =
        job_dir.join(LOCK_FILE).exists() && notes(&job_dir).last().is_none_or(|line| line != ABANDONED_LINE);
    if !is_intact {
        work_dir::remove(&job_dir)?;
        let made = fs::create_dir_all(job_dir.join("out"))
            .and_then(|()| fs::create_dir(job_dir.join(CWD)))
            .and_then(|()| fs::write(job_dir.join(LOG), ""))
            // Last: with it the desk is whole.
            .and_then(|()| files::write_whole(&job_dir.join(LOCK_FILE), b"", false));
        made.map_err(StoreError::io(&job_dir, "set up the folder of a job"))?;
    }
    Ok(WorkDir::job_dir(key, job_dir, claim))
}

/// Gives up what a job of an earlier run may have left of `key`, as the step is about to run here.
pub(super) fn abandon(store: &ContentStore, key: &StageKey) -> Result<(), StoreError> {
    let job_dir = path(store, key);
    if !job_dir.exists() {
        return Ok(());
    }
    if !end(&job_dir).map_err(StoreError::io(&job_dir, "take back"))? {
        return Err(StoreError::JobRunning { job_dir: job_dir.clone(), by: notes(&job_dir).pop() });
    }
    work_dir::keep_logs(store, &job_dir, key)?;
    work_dir::remove(&job_dir)
}

/// Where the desk of a job for `key` is.
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
    fn one_at_a_time_works_at_a_desk_and_nobody_after_its_end() {
        let job_dir = job_dir();
        let TryLock::Acquired(mut job_lock) = JobLock::try_take(job_dir.path()).unwrap() else {
            panic!("nobody has it")
        };
        job_lock.note("job 1").unwrap();
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Held));
        assert!(!end(job_dir.path()).unwrap(), "somebody works there");
        drop(job_lock);
        // A job that ended without a word: the next one goes on. A process that another test starts may hold the lock until it
        // runs its program.
        let job_lock = JobLock::wait(job_dir.path()).unwrap().expect("nobody has ended it");
        fs::write(job_dir.path().join(ENDED), "{}").unwrap();
        drop(job_lock);
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Over));
        assert!(JobLock::wait(job_dir.path()).unwrap().is_none());
        assert_eq!(notes(job_dir.path()), ["job 1"]);
    }

    #[test]
    fn a_job_that_opened_the_token_of_a_desk_that_was_given_up_does_nothing() {
        let job_dir = job_dir();
        let late = open(job_dir.path()).unwrap().unwrap();
        assert!(end(job_dir.path()).unwrap());
        // The desk is replaced by a new one under the same name.
        fs::remove_file(job_dir.path().join(LOCK_FILE)).unwrap();
        fs::write(job_dir.path().join(LOCK_FILE), "").unwrap();
        late.lock().unwrap();
        assert!(JobLock { file: late }.if_open(job_dir.path()).unwrap().is_none());
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Acquired(_)));
    }

    #[test]
    fn a_shared_token_is_held_until_the_last_process_that_was_started_has_ended() {
        let job_dir = job_dir();
        let TryLock::Acquired(job_lock) = JobLock::try_take(job_dir.path()).unwrap() else {
            panic!("nobody has it")
        };
        job_lock.share().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(job_lock);
        assert!(matches!(JobLock::try_take(job_dir.path()).unwrap(), TryLock::Held));
        child.kill().unwrap();
        child.wait().unwrap();
        // So do processes that other tests of this program have started meanwhile, until they end.
        assert!(JobLock::wait(job_dir.path()).unwrap().is_some());
    }
}
