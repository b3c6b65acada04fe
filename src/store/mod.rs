//! The content store: trees by digest, records by key, and what a run needs around them.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG, VERSION   marks a cache for backup programs; the version of this layout
//!   lock                    shared by all that run steps, held alone by what removes results
//!   trees/<digest>/         the output of a step, immutable, read-only
//!   manifests/<digest>      what is in the tree of that digest, if that is much; outlives its bytes
//!   claims/<key>            held by the one process that runs that key; says who that is
//!   state, state.lock       the log of what is known: executions by key, digests of project files; held to append
//!   work/<key>-…/           the desk of a running step; of no worth when nobody runs
//!   recovered/<key>-…/      a desk that holds, or may hold, the only copy of an input; removed by people only
//!   jobs/<key>/             the desk of a step that a job on a cluster does; outlives the run that submitted it
//!   programs/<digest>       the program that such jobs run
//!   scratch/<key>/          survives a failed or interrupted attempt of that key
//!   logs/<key>.log, .jsonl  what the last execution said; its scalars
//!   pipelines/              checked pipelines, so that none is parsed twice
//!   verdicts/<key>          what running that key again has shown
//!   users/<digest>          a pipeline file that uses this store
//!   published/<profile>     which files `reports/` holds from which step
//! ```
//!
//! Order of a commit: bytes, manifest, tree's name, line in the log. A crash in between leaves a tree that nobody
//! names, never a record of a tree that was not whole. Readers take no lock.

mod error;
pub mod files;
mod gc;
mod job_dir;
mod leftovers;
mod lock;
mod log;
mod metadata;
mod snapshot;
mod stat_cache;
mod state;
mod verified;
mod verify;
mod work_dir;
mod writer;

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use error::StoreError;
pub use gc::{Garbage, Kind, Limits, Roots, Sweep, Sweeper};
pub use job_dir::{ENDED, JobLock, TryLock, has_ended, notes};
pub use lock::{Claim, Lock, LockMode, LockOwner, TryClaim};
pub use log::Damage;
pub use snapshot::{Change, Gone, Snapshot};
pub use stat_cache::{Stamp, StatCache, stamp_of};
pub use verified::{ResultError, VerifiedPath};
pub use verify::{DamagedTree, RerunOutcome, RerunVerdict, Verified};
pub use work_dir::WorkDir;
pub use writer::Writer;

use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::{self, Manifest};
use state::State;

/// The layout's version. Another one is refused, not guessed at.
const VERSION: &str = "4\n";
const LOCK: &str = "lock";
const STATE: &str = "state";
const STATE_LOCK: &str = "state.lock";
/// In the names of trees that gave way to others and that this user may not remove.
const OLD_TREE: &str = "-old-";
const PIPELINES: &str = "pipelines";
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of `repro`. It can be deleted; `repro make` fills it again.\n";

/// The store, open for reading. Opening creates nothing.
#[derive(Debug, Clone)]
pub struct ContentStore {
    root: PathBuf,
    state: Rc<RefCell<State>>,
    /// The file whose lock is held to append to the state log, once it was needed.
    appending: Rc<OnceCell<fs::File>>,
    checked: Rc<RefCell<Checked>>,
}

/// What was found out about trees.
#[derive(Debug, Default)]
struct Checked {
    /// Trees that this process wrote itself: a power cut has not taken them.
    own: HashSet<Digest>,
    /// Trees whose bytes are not what their name says; they count as gone.
    damaged: HashSet<Digest>,
    /// Steps whose record is not believed because their tree is not whole.
    lost: HashMap<StageKey, Digest>,
}

impl ContentStore {
    /// Opens the store in `root`, which need not exist.
    ///
    /// # Errors
    /// When the folder holds a store of another version or other things, or cannot be read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        match fs::read_to_string(root.join("VERSION")) {
            Ok(found) if found != VERSION => {
                return Err(StoreError::Version { folder: root.to_owned(), found: found.trim().to_owned() });
            }
            Ok(_) => {}
            // What cannot be looked into must not pass for an empty store.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io(root, "read")(error));
            }
            Err(_) => {
                // Another process may have made it a store since VERSION was looked for.
                if let Some(found) = foreign(root).filter(|_| !root.join("VERSION").exists()) {
                    return Err(StoreError::Foreign { folder: root.to_owned(), found });
                }
            }
        }
        let log = root.join(STATE);
        let state = State::open(&log).map_err(StoreError::io(&log, "read"))?;
        let state = Rc::new(RefCell::new(state));
        Ok(Self { root: root.to_owned(), state, appending: Rc::default(), checked: Rc::default() })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the store for writing, beside others that write. `wait` is told, once, whom there is to wait for: one
    /// who has the store alone, to remove results.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn lock(&self, wait: &mut dyn FnMut(&str)) -> Result<Writer, StoreError> {
        self.prepare()?;
        let lock = Lock::take(&self.root.join(LOCK), LockMode::Shared, wait)?;
        for folder in ["trees", "manifests", "claims", "work", job_dir::JOBS, "scratch", "logs", "published"]
        {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(StoreError::io(&folder, "create the folder"))?;
        }
        Writer::start(self.clone(), lock)
    }

    /// Makes the folder a store: what it is stands in it before anything else does.
    fn prepare(&self) -> Result<(), StoreError> {
        if self.root.join("VERSION").exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.root).map_err(StoreError::io(&self.root, "create the folder"))?;
        for (name, text) in [("CACHEDIR.TAG", CACHEDIR_TAG), ("VERSION", VERSION)] {
            let path = self.root.join(name);
            files::write_whole(&path, text.as_bytes(), false).map_err(StoreError::io(&path, "write"))?;
        }
        Ok(())
    }

    /// Calls `act` on the state as it is now, while nobody else appends.
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T, StoreError> {
        let (path, log) = (self.root.join(STATE_LOCK), self.root.join(STATE));
        let file = match self.appending.get() {
            Some(file) => file,
            None => {
                self.prepare()?;
                let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
                let file = file.map_err(StoreError::io(&path, "lock"))?;
                self.appending.get_or_init(|| file)
            }
        };
        file.lock().map_err(StoreError::io(&path, "lock"))?;
        let result = act(&mut self.state.borrow_mut()).map_err(StoreError::io(&log, "write"));
        file.unlock().map_err(StoreError::io(&path, "unlock"))?;
        result
    }

    /// Appends lines to the state log.
    fn append(&self, lines: &[String], durable: bool) -> Result<(), StoreError> {
        self.with_state(|state| state.append(lines, durable))
    }

    /// Reads what other processes appended since; says whether that was anything.
    ///
    /// # Errors
    /// When the state log cannot be read.
    pub fn refresh(&self) -> Result<bool, StoreError> {
        let refreshed = self.state.borrow_mut().refresh();
        refreshed.map_err(StoreError::io(&self.root.join(STATE), "read"))
    }

    /// The tree of a key's newest execution. An execution whose bytes were perhaps not on the disk when the power
    /// went is believed once its tree was hashed and is what it should be.
    pub fn tree_of(&self, key: &StageKey) -> Option<Digest> {
        let ran = self.state.borrow_mut().ran(key)?;
        if ran.is_synced || self.checked.borrow().own.contains(&ran.tree) {
            return Some(ran.tree);
        }
        match self.open_tree(&ran.tree) {
            // What cannot be read is not lost.
            Ok(_) | Err(ResultError::Unreadable(_)) => Some(ran.tree),
            Err(ResultError::Missing | ResultError::Damaged(_)) => {
                self.checked.borrow_mut().lost.insert(*key, ran.tree);
                None
            }
        }
    }

    /// The bytes of a tree, compared with its digest. Files that this process hashed before are read again only where
    /// their stamps have changed.
    ///
    /// # Errors
    /// When they are not here, are not what the tree's name says, or cannot be read. Damaged ones count as gone from now on.
    pub fn open_tree(&self, tree: &Digest) -> Result<VerifiedPath, ResultError> {
        let folder = self.tree_folder(tree);
        let opened = VerifiedPath::check(&folder, tree);
        let mut checked = self.checked.borrow_mut();
        match opened {
            Ok(opened) => {
                checked.damaged.remove(tree);
                Ok(opened)
            }
            Err(ResultError::Damaged(mut problems)) => {
                checked.damaged.insert(*tree);
                if problems.is_empty() {
                    let found =
                        verified::manifest(&folder, &mut |_, _| {}).map_err(ResultError::Unreadable)?;
                    problems = verified::problems(&found, self.recorded_manifest(tree).as_ref());
                }
                Err(ResultError::Damaged(problems))
            }
            Err(other) => Err(other),
        }
    }

    /// The record of a key.
    pub fn record(&self, key: &StageKey) -> Option<RunRecord> {
        self.tree_of(key)?;
        self.state.borrow_mut().record(key)
    }

    /// The newest record of a step in a profile.
    pub fn last(&self, profile: &str, step: &str) -> Option<RunRecord> {
        self.state.borrow_mut().last(profile, step)
    }

    /// Every record that counts, oldest first.
    pub fn records(&self) -> Vec<RunRecord> {
        self.state.borrow_mut().records()
    }

    /// Stretches of the state log that are not as they were written. What they said is lost.
    pub fn damaged(&self) -> Vec<Damage> {
        self.state.borrow().damaged().to_vec()
    }

    /// The steps, as far as asked about, whose execution is not believed because its bytes did not get to the
    /// disk before the power went.
    pub fn lost(&self) -> Vec<String> {
        let lost: Vec<StageKey> = self.checked.borrow().lost.keys().copied().collect();
        let mut state = self.state.borrow_mut();
        let mut steps: Vec<String> = lost.iter().filter_map(|key| Some(state.record(key)?.step)).collect();
        steps.sort_unstable();
        steps
    }

    /// Writes the state log anew where much of it is superseded or some of it damaged.
    fn tidy(&self) -> Result<(), StoreError> {
        if !self.state.borrow().may_compact() {
            return Ok(());
        }
        let mut seen = HashSet::new();
        self.with_state(|state| {
            state.compact(&mut |line| {
                let path = stat_cache::path_of(line);
                path.is_some_and(|path| seen.insert(path.to_owned()) && Path::new(path).exists())
            })
        })
    }

    /// What is in a tree, whether or not its bytes are there. Where the manifest is lost or damaged the bytes
    /// tell, if they are there and whole.
    pub fn manifest(&self, tree: &Digest) -> Option<Manifest> {
        let is_intact = |manifest: &Manifest| manifest.digest() == *tree;
        let of_bytes = || verified::manifest(&self.tree_folder(tree), &mut |_, _| {}).ok().filter(is_intact);
        self.recorded_manifest(tree).or_else(of_bytes)
    }

    /// What was in a tree when it was kept, if that is still known.
    fn recorded_manifest(&self, tree: &Digest) -> Option<Manifest> {
        let is_intact = |manifest: &Manifest| manifest.digest() == *tree;
        let logged = self.state.borrow_mut().manifest(tree).filter(is_intact);
        let filed =
            || Manifest::parse(&files::read_text(&self.manifest_file(tree)).ok()?).ok().filter(is_intact);
        logged.or_else(filed)
    }

    fn manifest_file(&self, tree: &Digest) -> PathBuf {
        self.root.join("manifests").join(tree.to_string())
    }

    /// Where a tree's bytes are kept, to be shown. To read them, [`ContentStore::open_tree`].
    pub fn tree_location(&self, tree: &Digest) -> String {
        tree::shown(&self.tree_folder(tree))
    }

    fn tree_folder(&self, tree: &Digest) -> PathBuf {
        self.root.join("trees").join(tree.to_string())
    }

    /// Whether a tree's bytes seem to be there, by a stat. Those that were found damaged are not.
    pub fn has_bytes(&self, tree: &Digest) -> bool {
        !self.checked.borrow().damaged.contains(tree) && is_folder(&self.tree_folder(tree))
    }

    /// Whether a process runs a key at this moment.
    pub fn is_claimed(&self, key: &StageKey) -> bool {
        let file = fs::File::open(self.root.join("claims").join(key.to_string()));
        // Dropped at once: whoever wants the claim meanwhile asks again.
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    /// The log of an execution of a key that is under way, or that was when its run was killed.
    pub fn open_log(&self, key: &StageKey) -> Option<PathBuf> {
        let job = job_dir::path(self, key).join(work_dir::LOG);
        if job.exists() {
            return Some(job);
        }
        let key = key.to_string();
        let work_dirs = fs::read_dir(self.root.join("work")).ok()?.flatten();
        let mut of_key =
            work_dirs.filter(|work_dir| work_dir.file_name().to_string_lossy().starts_with(&key));
        of_key.find_map(|work_dir| Some(work_dir.path().join(work_dir::LOG)).filter(|log| log.exists()))
    }

    /// The log that a record names, if it names one of this store: a record may come from another machine.
    pub fn recorded_log(&self, record: &RunRecord) -> Option<PathBuf> {
        let name = record.log.strip_prefix("logs/")?.strip_suffix(".log")?;
        Some(self.log(&StageKey(name.parse().ok()?)))
    }

    /// The log of the last execution of a key. There is none when it said nothing.
    pub fn log(&self, key: &StageKey) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }
}

/// Whether a folder is there: the folder itself, not a link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Something in a folder without VERSION that no store has put there while it began.
fn foreign(root: &Path) -> Option<String> {
    let begun =
        |name: &str| [LOCK, STATE, STATE_LOCK, "CACHEDIR.TAG"].contains(&name) || name.starts_with(".tmp");
    let items = fs::read_dir(root).into_iter().flatten().flatten();
    items.map(|item| item.file_name().to_string_lossy().into_owned()).filter(|name| !begun(name)).min()
}
