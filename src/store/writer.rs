//! The writing half of the store. Several processes may each have a [`Writer`]: what they do to one key they do
//! under its claim, and what they append to the log goes there whole.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::desk::{self, Desks, WorkDir};
use super::lock::{Claim, Claimed, Claims, Lock, Share};
use super::{ContentStore, StoreError, away, files, state};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// A run shorter than this is cheaper to repeat than to wait for the disk: such runs are forced there in groups.
const DURABLE_FROM_SECONDS: f64 = 1.0;
/// Trees of more files are forced to the disk with all that it is to take, in one wait.
const MOST_FORCED_ALONE: usize = 64;
/// How long short runs wait for their group; longer where the disk takes long, so that most of the time it is free
/// for them.
const GROUP: Duration = Duration::from_secs(1);
/// How many times as long as the disk took for a group the next one waits at least.
const REST: u32 = 10;

/// The store, open for writing.
#[derive(Debug)]
pub struct Writer {
    store: ContentStore,
    lock: Lock,
    claims: Claims,
    desks: Desks,
    group: RefCell<Option<Group>>,
    /// When the next group may go.
    next: Cell<Instant>,
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
            desks: Desks::default(),
            group: RefCell::default(),
            next: Cell::new(Instant::now() + GROUP),
        };
        writer.clear()?;
        Ok(writer)
    }

    /// Removes what belongs to no running step: whoever runs a key has its claim.
    fn clear(&self) -> Result<(), StoreError> {
        self.desks.forget();
        self.claims.clear();
        for folder in ["work", "claims"] {
            let folder = self.store.root().join(folder);
            for item in fs::read_dir(&folder).map_err(StoreError::io(&folder, "list"))?.flatten() {
                let name = item.file_name();
                let key = name.to_str().and_then(|name| name.split('-').next()?.parse::<Digest>().ok());
                let claim = key.map(|key| self.claim(StageKey(key))).transpose()?;
                if matches!(claim, Some(Claimed::Theirs(_))) {
                    continue;
                }
                if folder.ends_with("work") {
                    if let Some(key) = key {
                        desk::keep_logs(&self.store, &item.path(), &StageKey(key))?;
                    }
                    desk::remove(&item.path())?;
                }
                if let Some(Claimed::Mine(claim)) = claim {
                    claim.remove();
                }
            }
        }
        Ok(())
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
        Lock::take(&self.store.root().join(name), Share::Alone, &mut |_| {})
    }

    /// Tries to become the one that runs `key`.
    ///
    /// # Errors
    /// When the claim cannot be written.
    pub fn claim(&self, key: StageKey) -> Result<Claimed, StoreError> {
        self.claims.try_take(&key.to_string())
    }

    /// A desk for a run of the claimed `key`.
    ///
    /// # Errors
    /// When it cannot be made, or a job elsewhere works on this key.
    pub fn begin(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        away::take_back(&self.store, &key)?;
        self.desks.set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A desk for a job elsewhere that runs the claimed `key`: as an earlier process left it, if one did.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_away(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        away::set_up(&self.store, key, claim).map(|work| work.lasting(&self.store))
    }

    /// A desk for a run of the claimed `key` of which nothing is kept: its scratch is its own, too.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_aside(&self, key: StageKey, claim: Claim) -> Result<WorkDir, StoreError> {
        self.desks.set_up(&self.store, key, claim)
    }

    /// Hashes what a run wrote.
    ///
    /// # Errors
    /// When it wrote something that a tree cannot hold.
    pub fn hash(&self, work: &WorkDir) -> Result<Manifest, StoreError> {
        self.hash_announced(work, &mut |_, _| {})
    }

    /// As [`Writer::hash`]; `announce` first gets the numbers of files and bytes.
    ///
    /// # Errors
    /// As [`Writer::hash`].
    pub fn hash_announced(
        &self,
        work: &WorkDir,
        announce: &mut dyn FnMut(usize, u64),
    ) -> Result<Manifest, StoreError> {
        Ok(Manifest::of_folder_announced(&work.out, announce)?)
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
        // Of many files each would wait for the disk alone.
        let together = durable && manifest.entries().len() > MOST_FORCED_ALONE;
        self.keep_tree(&work, &record.tree, durable && !together)?;
        if together {
            let root = self.store.root();
            files::sync_all_of(root).map_err(StoreError::io(root, "sync"))?;
        }
        lines.push(
            state::ran_line(record, durable).map_err(|error| StoreError::io(&path, "write")(error.into()))?,
        );
        self.store.checked.borrow_mut().own.insert(record.tree);
        self.store.append(&lines, durable)?;
        files::remove(&work.scratch).map_err(StoreError::io(&work.scratch, "remove"))?;
        self.discard(work)
    }

    fn keep_tree(&self, work: &WorkDir, digest: &Digest, durable: bool) -> Result<(), StoreError> {
        let tree = self.store.tree(digest);
        files::seal(&work.out, durable).map_err(StoreError::io(&work.out, "make read-only"))?;
        // A step runs though its tree is there when two keys have one output, or when a person doubts it. Bytes
        // that are not what their name says give way to the fresh ones. Another process may put the same tree
        // there at the same moment.
        let is_whole = || Manifest::of_folder(&tree).is_ok_and(|old| old.digest() == *digest);
        for _ in 0..3 {
            if !tree.is_dir() {
                match fs::rename(&work.out, &tree) {
                    Ok(()) => break,
                    Err(error) if tree.is_dir() => drop(error),
                    Err(error) => return Err(StoreError::io(&tree, "move the output to")(error)),
                }
            }
            if is_whole() {
                break;
            }
            self.forget_bytes(digest)?;
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
        self.desks.leave(&self.store, work)
    }

    /// Removes a tree's bytes; its manifest and the records that name it stay.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget_bytes(&self, tree: &Digest) -> Result<(), StoreError> {
        // Out of its name first: a half-removed tree must not look like a whole one.
        let (path, work) = (self.store.tree(tree), self.store.root().join("work"));
        let aside = tempfile::Builder::new().prefix(&format!("{tree}-old-")).tempdir_in(&work);
        let aside = aside.map_err(StoreError::io(&work, "make a folder in it"))?.keep();
        let moved = fs::rename(&path, aside.join("tree"));
        match moved {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(&path, "move aside")(error))
            }
            _ => files::remove(&aside).map_err(StoreError::io(&aside, "remove")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::files::FORCED;
    use super::*;
    use crate::key::KeyText;
    use crate::record::Machine;

    /// Keeps the result of a step that took so long; returns what was forced to the disk for it, below the store.
    fn forced_for(seconds: f64) -> Vec<PathBuf> {
        let folder = tempfile::tempdir().unwrap();
        let writer = ContentStore::open(folder.path()).unwrap().lock(&mut |_| {}).unwrap();
        let key_text = KeyText::new("join", 1, "()", vec![]);
        let Claimed::Mine(claim) = writer.claim(key_text.key()).unwrap() else { panic!("nobody has it") };
        let work = writer.begin(key_text.key(), claim).unwrap();
        fs::create_dir(work.out.join("inner")).unwrap();
        fs::write(work.out.join("inner/file"), "bytes").unwrap();
        let manifest = writer.hash(&work).unwrap();
        let record = RunRecord {
            key_text,
            step: "a".to_owned(),
            profile: "mini".to_owned(),
            tree: manifest.digest(),
            outputs: manifest.top_level(),
            inputs: Vec::new(),
            bytes: manifest.bytes(),
            started_ms: 1,
            seconds,
            peak_memory: None,
            work: None,
            machine: Machine::default(),
            log: String::new(),
            accepted: None,
        };
        FORCED.take();
        writer.commit(work, &manifest, &record).unwrap();
        let is_here = |path: PathBuf| {
            let path = path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
            // The desk has another name each time.
            PathBuf::from(path.split_once("/out").map_or(path.clone(), |(_, inner)| format!("out{inner}")))
        };
        FORCED.take().into_iter().map(is_here).collect()
    }

    #[test]
    fn a_step_of_a_second_and_more_is_forced_to_the_disk_before_its_record_and_a_short_one_is_not() {
        assert_eq!(forced_for(0.999), [""; 0].map(PathBuf::from));
        let expected = ["out/inner/file", "out/inner", "out", "trees", "state", ""];
        assert_eq!(forced_for(1.0), expected.map(PathBuf::from));
    }
}
