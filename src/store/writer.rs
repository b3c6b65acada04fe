//! The writing half of the store. Several processes may each have a [`Writer`]: what they do to one key they do
//! under its claim, and what they append to the log goes there whole.

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
use super::{ContentStore, OLD_TREE, StoreError, files, job_dir, state, verified};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// A run shorter than this is cheaper to repeat than to wait for the disk: such runs are forced there in groups.
const DURABLE_FROM_SECONDS: f64 = 1.0;
/// How long short runs wait for their group; longer where the disk takes long, so that most of the time it is free
/// for them.
const GROUP: Duration = Duration::from_secs(1);
/// How many times as long as the disk took for a group the next one waits at least.
const REST: u32 = 10;
/// Up to so many files of a result are forced to the disk one by one.
const FEW_FILES: usize = 100;

/// The store, open for writing.
#[derive(Debug)]
pub struct Writer {
    pub(super) store: ContentStore,
    lock: Lock,
    pub(super) claims: Claims,
    pub(super) work_dirs: WorkDirs,
    group: RefCell<Option<Group>>,
    /// When the next group may go.
    next: Cell<Instant>,
    /// What the modes of new files may permit, once it was asked for.
    allowed_mode: OnceCell<u32>,
    /// What a person should know of the folders of dead runs, by folder.
    pub(super) warnings: RefCell<BTreeMap<PathBuf, Option<String>>>,
}

/// Short runs on their way to the disk.
#[derive(Debug)]
struct Group {
    /// What of the log the disk then has the bytes of.
    mark: state::Mark,
    /// Ends with how long the disk took.
    disk: JoinHandle<io::Result<Duration>>,
}

impl Writer {
    /// Clears what dead runs left behind.
    pub(super) fn start(store: ContentStore, lock: Lock) -> Result<Self, StoreError> {
        let claims = Claims::new(store.root().join("claims"));
        let writer = Self {
            store,
            lock,
            claims,
            work_dirs: WorkDirs::default(),
            group: RefCell::default(),
            next: Cell::new(Instant::now() + GROUP),
            allowed_mode: OnceCell::new(),
            warnings: RefCell::default(),
        };
        writer.clear()?;
        Ok(writer)
    }

    /// Keeps the desk of a step for a person to look through, as it may hold the only copy of an input; returns where
    /// it is.
    ///
    /// # Errors
    /// When it cannot be moved there.
    pub fn keep_aside(&self, work: WorkDir) -> Result<PathBuf, StoreError> {
        work_dir::keep_aside(&self.store, &work.work_dir)
    }

    /// The store, for reading.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Whether somebody else had the store to themselves when it was opened: what was known before may be gone.
    pub fn has_waited(&self) -> bool {
        self.lock.has_waited
    }

    /// Waits for one's turn to do what only one at a time may do; `name` is the lock's file in the store.
    ///
    /// # Errors
    /// When the lock cannot be written.
    pub fn alone(&self, name: &str) -> Result<Lock, StoreError> {
        Lock::take(&self.store.root().join(name), LockMode::Exclusive, &mut |_| {})
    }

    /// Tries to become the one that runs `key`.
    ///
    /// # Errors
    /// When the claim cannot be written.
    pub fn claim(&self, key: StageKey) -> Result<TryClaim, StoreError> {
        self.claims.try_take(&key.to_string())
    }

    /// A desk for a run of the claimed `key`.
    ///
    /// # Errors
    /// When it cannot be made, or a job elsewhere works on this key.
    pub fn begin(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        job_dir::abandon(&self.store, &key)?;
        self.work_dirs.set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A desk for a job elsewhere that runs the claimed `key`: as an earlier process left it, if one did.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_job(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        job_dir::set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A desk for a run of the claimed `key` of which nothing is kept: its scratch is its own, too.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_aside(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        self.work_dirs.set_up(&self.store, key, claim)
    }

    /// Hashes what a run wrote, after giving its files and folders the modes that stored ones have: a file that only its
    /// owner may read is of no use in a cache that several people share.
    ///
    /// # Errors
    /// When it wrote something that a tree cannot hold, or put something else in place of its output folder.
    pub fn hash(&self, work: &WorkDir) -> Result<Manifest, StoreError> {
        self.hash_announced(work, &mut |_, _| {})
    }

    /// As [`Writer::hash`]; `announce` is called first with the number of files and bytes.
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
            Ok(_) => Some("a file"),
            Err(_) => Some("removed"),
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

    /// Keeps what a run wrote: the tree under its digest, then the record under its key.
    ///
    /// # Errors
    /// When the disk does not take it; then there is no record, and an earlier one of the key still stands.
    pub fn commit(&self, work: WorkDir, manifest: &Manifest, record: &RunRecord) -> Result<(), StoreError> {
        self.keep(work, manifest, record, record.seconds >= DURABLE_FROM_SECONDS)
    }

    /// As [`Writer::commit`], of a result that another machine made: what can be had again is forced to the disk in
    /// groups.
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
            // Where there are many files, one wait for the disk is shorter than a wait for each.
            let sync =
                if manifest.entries().len() > FEW_FILES { files::sync_all_of } else { files::sync_tree };
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
        // A step runs though its tree is there when two keys have one output, or when a person doubts it. Bytes
        // that are not what their name says give way to the fresh ones. Another process may put the same tree
        // there at the same moment.
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
                // What cannot be read may be what it should be.
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

    /// Sends short runs on their way to the disk, from time to time; to be called after a commit. Returns at once.
    ///
    /// # Errors
    /// When the disk did not take an earlier group.
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
            disk.join().unwrap_or_else(|_| Err(io::Error::other("the thread that waited for it ended")));
        let took = synced.map_err(StoreError::io(self.store.root(), "sync"))?;
        self.next.set(Instant::now() + GROUP.max(took * REST));
        self.store.with_state(|state| state.vouch(mark))
    }

    /// Forces to disk what was kept and is not there yet, all at once: then no power cut takes it.
    ///
    /// # Errors
    /// When the disk does not take it.
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

    /// Takes the record of a key back: its step counts as never run with it. The tree stays.
    ///
    /// # Errors
    /// When the state log cannot be written.
    pub fn forget(&self, key: &StageKey) -> Result<(), StoreError> {
        self.store.append(&[state::forgotten_line(key)], true)
    }

    /// Keeps what was in a folder of the project when a step read it, so that a later change can be told by file.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let path = self.store.manifest_file(&manifest.digest());
        if path.exists() {
            return Ok(());
        }
        files::write_whole(&path, manifest.text().as_bytes(), false).map_err(StoreError::io(&path, "write"))
    }

    /// Keeps a record of a tree that is there already.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        let log = self.store.root().join(super::STATE);
        let line =
            state::ran_line(record, false).map_err(|error| StoreError::io(&log, "write")(error.into()))?;
        self.store.append(&[line], true)?;
        self.sync()
    }

    /// Keeps records that other machines made, each with what is in its tree, and none of the bytes.
    ///
    /// # Errors
    /// When the disk does not take it.
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
            // There are no bytes that a power cut could take.
            let line = state::ran_line(record, true);
            lines.push(line.map_err(|error| StoreError::io(&log, "write")(error.into()))?);
        }
        if lines.is_empty() { Ok(()) } else { self.store.append(&lines, false) }
    }

    /// Clears a desk of what a run wrote; its scratch and its log stay.
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

    /// Removes a tree's bytes; its manifest and the records that name it stay. In a cache that users share by their
    /// group, a tree of another user is renamed instead, and `gc` of that user removes it.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget_bytes(&self, tree: &Digest) -> Result<(), StoreError> {
        // Out of its name first: a half-removed tree must not look like a whole one.
        let (path, work) = (self.store.tree_folder(tree), self.store.root().join("work"));
        let aside = new_folder(&work, &format!("{tree}{OLD_TREE}"))?;
        match files::move_folder(&path, &aside.join("tree")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                files::remove(&aside).map_err(StoreError::io(&aside, "remove"))?;
                // Moving a folder to another parent changes the folder itself, which only its owner may do.
                // Renaming it where it is changes the parent alone.
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

/// An empty folder whose name begins with a prefix.
fn new_folder(parent: &Path, prefix: &str) -> Result<PathBuf, StoreError> {
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
    folder.map(tempfile::TempDir::keep).map_err(StoreError::io(parent, "create a folder in"))
}

#[cfg(test)]
mod tests;
