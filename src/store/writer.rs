//! The writing half of the store. Several processes may have a [`Writer`] for one store: they change a key only under
//! its claim and append complete lines to the log.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lock::{Claim, Claims, Lock, LockMode, TryClaim};
use super::verified::{ResultError, VerifiedPath};
use super::work_dir::{self, WorkDir, WorkDirs};
use super::{ContentStore, FailedRun, OLD_TREE, StoreError, files, job_dir, state, verified};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// A shorter run is cheaper to repeat than to sync, so such runs are synced in groups.
const DURABLE_FROM_SECONDS: f64 = 1.0;
/// The shortest time between two groups. It grows with the duration of a sync, so that the disk is free most of the
/// time.
const GROUP_INTERVAL: Duration = Duration::from_secs(1);
/// The next group waits at least this many times as long as the last sync took.
const REST_FACTOR: u32 = 10;
/// The files of a result with at most this many files are synced one by one.
const MAX_SINGLE_SYNCS: usize = 100;

/// The store, open for writing.
#[derive(Debug)]
pub struct Writer {
    pub(super) store: ContentStore,
    lock: Lock,
    pub(super) claims: Claims,
    pub(super) work_dirs: WorkDirs,
    group: RefCell<Option<Group>>,
    /// The earliest time of the next group.
    next: Cell<Instant>,
    /// The mode bits that new files may have, once they are known.
    allowed_mode: OnceCell<u32>,
    /// Warnings about the folders of dead runs, by folder; `None` once they were returned.
    pub(super) warnings: RefCell<BTreeMap<PathBuf, Option<String>>>,
}

/// Short runs that are being synced.
#[derive(Debug)]
struct Group {
    /// All executions before this point of the log are synced when it ends.
    mark: state::Mark,
    /// Returns how long the sync took.
    disk: JoinHandle<io::Result<Duration>>,
}

impl Writer {
    /// Removes what dead runs have left.
    pub(super) fn start(store: ContentStore, lock: Lock) -> Result<Self, StoreError> {
        let claims = Claims::new(store.root().join("claims"));
        let writer = Self {
            store,
            lock,
            claims,
            work_dirs: WorkDirs::default(),
            group: RefCell::default(),
            next: Cell::new(Instant::now() + GROUP_INTERVAL),
            allowed_mode: OnceCell::new(),
            warnings: RefCell::default(),
        };
        writer.clear()?;
        Ok(writer)
    }

    /// Moves the work directory of a step to `recovered/`, because it may hold the only copy of an input. Returns the
    /// new path.
    ///
    /// # Errors
    /// When it cannot be moved there.
    pub fn keep_aside(&self, work: WorkDir) -> Result<PathBuf, StoreError> {
        work_dir::keep_aside(&self.store, &work.work_dir)
    }

    /// The store, to read from.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Whether another process held the store exclusively when it was opened. Then results may have been removed.
    pub fn has_waited(&self) -> bool {
        self.lock.has_waited
    }

    /// Waits for an exclusive lock in the store, whose file is `name`.
    ///
    /// # Errors
    /// When the lock cannot be written.
    pub fn alone(&self, name: &str) -> Result<Lock, StoreError> {
        Lock::take(&self.store.root().join(name), LockMode::Exclusive, &mut |_| {})
    }

    /// Tries to claim `key`.
    ///
    /// # Errors
    /// When the claim cannot be written.
    pub fn claim(&self, key: StageKey) -> Result<TryClaim, StoreError> {
        self.claims.try_take(&key.to_string())
    }

    /// A work directory for a run of the claimed `key`.
    ///
    /// # Errors
    /// When it cannot be created, or a job on a cluster still runs this key.
    pub fn begin(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        job_dir::abandon(&self.store, &key)?;
        self.work_dirs.set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A job directory for the claimed `key`: the one that an earlier process has left, or a new one.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin_job(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        job_dir::set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A work directory for a run of the claimed `key` of which nothing is kept; its scratch folder is private too.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn begin_aside(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        self.work_dirs.set_up(&self.store, key, claim)
    }

    /// Hashes the output of a run after it sets the modes of stored files: a cache that several people share must be
    /// readable for all of them.
    ///
    /// # Errors
    /// When the output holds something that a tree cannot hold, or the output folder was replaced.
    pub fn hash(&self, work: &WorkDir) -> Result<Manifest, StoreError> {
        self.hash_announced(work, &mut |_, _| {})
    }

    /// Like [`Writer::hash`]; calls `announce` first with the number of files and bytes.
    ///
    /// # Errors
    /// As [`Writer::hash`].
    pub fn hash_announced(
        &self,
        work: &WorkDir,
        announce: &mut dyn FnMut(usize, u64),
    ) -> Result<Manifest, StoreError> {
        let found = match fs::symlink_metadata(&work.out) {
            Ok(metadata) if metadata.is_dir() => None,
            Ok(metadata) if metadata.is_symlink() => Some("a symbolic link"),
            Ok(metadata) if metadata.is_file() => Some("a file"),
            Ok(_) => Some("a special file"),
            Err(_) => Some("missing"),
        };
        if let Some(found) = found {
            return Err(StoreError::OutputReplaced { path: work.out.clone(), found });
        }
        files::set_modes(&work.out, self.allowed_mode()?)
            .map_err(|(path, error)| StoreError::io(&path, "set the mode of")(error))?;
        Ok(verified::manifest(&work.out, announce)?)
    }

    fn allowed_mode(&self) -> Result<u32, StoreError> {
        if let Some(mode) = self.allowed_mode.get() {
            return Ok(*mode);
        }
        let work = self.store.root().join("work");
        let mode = files::allowed_mode(&work).map_err(StoreError::io(&work, "write in"))?;
        Ok(*self.allowed_mode.get_or_init(|| mode))
    }

    /// Stores the output of a run: the tree under its digest, then the record under its key.
    ///
    /// # Errors
    /// When a write fails; then there is no new record, and an earlier one of the key stays valid.
    pub fn commit(&self, work: WorkDir, manifest: &Manifest, record: &RunRecord) -> Result<(), StoreError> {
        self.keep(work, manifest, record, record.seconds >= DURABLE_FROM_SECONDS)
    }

    /// Like [`Writer::commit`], for a result from another machine. It can be fetched again, so it is synced in a
    /// group.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn commit_fetched(
        &self,
        work: WorkDir,
        manifest: &Manifest,
        record: &RunRecord,
    ) -> Result<(), StoreError> {
        self.keep(work, manifest, record, false)
    }

    fn keep(
        &self,
        work: WorkDir,
        manifest: &Manifest,
        record: &RunRecord,
        durable: bool,
    ) -> Result<(), StoreError> {
        let path = self.store.manifest_file(&record.tree);
        let mut lines = Vec::from_iter(state::tree_line(&record.tree, manifest));
        if lines.is_empty() {
            files::write_whole(&path, manifest.text().as_bytes(), durable)
                .map_err(StoreError::io(&path, "write"))?;
        }
        if durable {
            // For many files, one wait for the disk is shorter than one per file.
            let sync = if manifest.entries().len() > MAX_SINGLE_SYNCS {
                files::sync_all_of
            } else {
                files::sync_tree
            };
            sync(&work.out).map_err(StoreError::io(&work.out, "sync"))?;
        }
        self.keep_tree(&work, &record.tree, durable)?;
        lines.push(
            state::ran_line(record, durable).map_err(|error| StoreError::io(&path, "write")(error.into()))?,
        );
        {
            let mut checked = self.store.checked.borrow_mut();
            checked.damaged.remove(&record.tree);
            checked.own.insert(record.tree);
        }
        self.store.append(&lines, durable)?;
        files::remove(&work.scratch).map_err(StoreError::io(&work.scratch, "remove"))?;
        self.discard(work)
    }

    fn keep_tree(&self, work: &WorkDir, digest: &Digest, durable: bool) -> Result<(), StoreError> {
        let tree = self.store.tree_folder(digest);
        // The tree may exist: two keys can have one output, and `--force` repeats a step. A damaged tree is replaced
        // by the new one. Another process may move the same tree into place at the same time.
        for _ in 0..3 {
            if fs::symlink_metadata(&tree).is_err() {
                match fs::rename(&work.out, &tree) {
                    Ok(()) => {
                        let sealed = files::seal_folder(&tree, self.allowed_mode()?);
                        sealed.map_err(StoreError::io(&tree, "set the mode of"))?;
                        break;
                    }
                    Err(error) if tree.is_dir() => drop(error),
                    Err(error) => return Err(StoreError::io(&tree, "move the output to")(error)),
                }
            }
            match VerifiedPath::check(&tree, digest) {
                Ok(_) => break,
                // Unreadable bytes may be intact.
                Err(ResultError::Unreadable(error)) => return Err(StoreError::Unreadable(error)),
                Err(ResultError::Damaged(_) | ResultError::Missing) => self.forget_bytes(digest)?,
            }
        }
        if durable {
            let trees = self.store.root().join("trees");
            files::sync_folder(&trees).map_err(StoreError::io(&trees, "sync"))?;
        }
        Ok(())
    }

    /// Starts to sync short runs from time to time; called after each commit. Returns at once.
    ///
    /// # Errors
    /// When the sync of an earlier group failed.
    pub fn sync_some(&self) -> Result<(), StoreError> {
        let arrived = |group: &mut Group| group.disk.is_finished();
        if self.group.borrow_mut().as_mut().is_some_and(|group| !arrived(group)) {
            return Ok(());
        }
        self.finish_group()?;
        if Instant::now() >= self.next.get() && self.store.state.borrow().has_unsynced() {
            let mark = self.store.state.borrow().mark();
            let root = self.store.root().to_owned();
            let disk = std::thread::spawn(move || {
                let since = Instant::now();
                files::sync_all_of(&root).map(|()| since.elapsed())
            });
            *self.group.borrow_mut() = Some(Group { mark, disk });
        }
        Ok(())
    }

    fn finish_group(&self) -> Result<(), StoreError> {
        let Some(Group { mark, disk }) = self.group.borrow_mut().take() else { return Ok(()) };
        let synced =
            disk.join().unwrap_or_else(|_| Err(io::Error::other("the thread that synced it panicked")));
        let took = synced.map_err(StoreError::io(self.store.root(), "sync"))?;
        self.next.set(Instant::now() + GROUP_INTERVAL.max(took * REST_FACTOR));
        self.store.with_state(|state| state.vouch(mark))
    }

    /// Syncs everything that is not synced yet, so that a power cut loses nothing.
    ///
    /// # Errors
    /// When the sync fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.finish_group()?;
        if self.store.state.borrow().has_unsynced() {
            let mark = self.store.state.borrow().mark();
            let root = self.store.root();
            files::sync_all_of(root).map_err(StoreError::io(root, "sync"))?;
            self.store.with_state(|state| state.vouch(mark))?;
        }
        self.clear()?;
        self.store.tidy()
    }

    /// Marks the record of a key as forgotten: the key counts as never run. The tree stays.
    ///
    /// # Errors
    /// When the state log cannot be written.
    pub fn forget(&self, key: &StageKey) -> Result<(), StoreError> {
        self.store.append(&[state::forgotten_line(key)], true)
    }

    /// Stores that an execution of a key failed.
    ///
    /// # Errors
    /// When the state log cannot be written.
    pub fn keep_failure(&self, key: &StageKey, failed: &FailedRun) -> Result<(), StoreError> {
        let log = self.store.root().join(super::STATE);
        let line =
            state::failed_line(key, failed).map_err(|error| StoreError::io(&log, "write")(error.into()))?;
        self.store.append(&[line], false)
    }

    /// Stores the manifest of a project folder that a step has read, so that a later change can be reported by file.
    ///
    /// # Errors
    /// When a write fails.
    pub fn keep_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.store.manifest_file(&manifest.digest());
        if path.exists() {
            return Ok(());
        }
        files::write_whole(&path, manifest.text().as_bytes(), false).map_err(StoreError::io(&path, "write"))
    }

    /// Stores a record of a tree that already exists.
    ///
    /// # Errors
    /// When a write fails.
    pub fn keep_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        let log = self.store.root().join(super::STATE);
        let line =
            state::ran_line(record, false).map_err(|error| StoreError::io(&log, "write")(error.into()))?;
        self.store.append(&[line], true)?;
        self.sync()
    }

    /// Stores records from other machines with the manifests of their trees, but without the bytes.
    ///
    /// # Errors
    /// When a write fails.
    pub fn keep_known<'a>(
        &self,
        known: impl Iterator<Item = (&'a RunRecord, &'a Manifest)>,
    ) -> Result<(), StoreError> {
        let log = self.store.root().join(super::STATE);
        let mut lines = Vec::new();
        for (record, manifest) in known {
            match state::tree_line(&record.tree, manifest) {
                Some(line) => lines.push(line),
                None => self.keep_manifest(manifest)?,
            }
            // There are no bytes to sync.
            let line = state::ran_line(record, true);
            lines.push(line.map_err(|error| StoreError::io(&log, "write")(error.into()))?);
        }
        if lines.is_empty() { Ok(()) } else { self.store.append(&lines, false) }
    }

    /// Clears the work directory of a run; its scratch folder and its log stay.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn discard(&self, work: WorkDir) -> Result<(), StoreError> {
        // One where a job still works is left to it.
        if work.is_job && !job_dir::end(&work.work_dir).map_err(StoreError::io(&work.work_dir, "give up"))? {
            return Ok(());
        }
        self.work_dirs.leave(&self.store, work)
    }

    /// Removes a tree's bytes; its manifest and the records that name it stay. In a cache that a group shares, a tree
    /// of another user is renamed instead, and that user's `gc` removes it.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget_bytes(&self, tree: &Digest) -> Result<(), StoreError> {
        // It is renamed first: a partly removed tree must not look complete.
        let (path, work) = (self.store.tree_folder(tree), self.store.root().join("work"));
        let aside = new_folder(&work, &format!("{tree}{OLD_TREE}"))?;
        match files::move_folder(&path, &aside.join("tree")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                files::remove(&aside).map_err(StoreError::io(&aside, "remove"))?;
                // A move to another parent changes the folder itself, which only its owner may do. A rename within
                // its parent changes the parent alone.
                let trees = self.store.root().join("trees");
                let aside = new_folder(&trees, &format!("{tree}{OLD_TREE}"))?;
                fs::rename(&path, &aside).map_err(StoreError::io(&path, "rename"))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(&path, "move aside")(error))
            }
            _ => files::remove(&aside).map_err(StoreError::io(&aside, "remove")),
        }
    }
}

/// A new empty folder whose name begins with a prefix.
fn new_folder(parent: &Path, prefix: &str) -> Result<PathBuf, StoreError> {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
    folder.map(tempfile::TempDir::keep).map_err(StoreError::io(parent, "create a folder in"))
}

#[cfg(test)]
mod tests;
