//! The content store: trees by digest, records by key, and what a run needs around them.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG, VERSION   marks a cache for backup programs; the version of this layout
//!   lock                    shared by runs, exclusive for commands that remove results
//!   trees/<digest>/         the output of a step, immutable, read-only
//!   manifests/<digest>      the files of a large tree; stays when the bytes are removed
//!   claims/<key>            locked by the one process that runs that key; names it
//!   state, state.lock       executions by key, digests of project files; the lock to append
//!   work/<key>-…/           the work directory of a running step
//!   recovered/<key>-…/      a work directory that may hold the only copy of an input; only people remove it
//!   jobs/<key>/             the job directory of a step on a cluster; outlives the run that submitted the job
//!   programs/<digest>       the program that such jobs run
//!   scratch/<key>/          survives a failed or interrupted attempt of that key
//!   logs/<key>.log, .jsonl  the output of the last execution; its scalars
//!   pipelines/              checked pipelines, so that a run need not parse again
//!   environments/<digest>/  the environment of commands, built from a lock file
//!   verdicts/<key>          the result of the last rerun of that key
//!   users/<digest>          a pipeline file that uses this store
//!   published/<profile>     which files `reports/` holds from which step
//! ```
//!
//! A commit writes in this order: bytes, manifest, tree's name, line in the log. After a crash in between, an unnamed
//! tree may be left, but never a record of an incomplete tree. Readers take no lock.

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
pub use state::FailedRun;
pub use verified::{ResultError, VerifiedPath};
pub use verify::{DamagedTree, RerunOutcome, RerunVerdict, Verified};
pub use work_dir::WorkDir;
pub use writer::Writer;

use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::{self, Manifest};
use state::State;

/// The layout's version. Any other version is an error.
const VERSION: &str = "4\n";
const LOCK: &str = "lock";
const STATE: &str = "state";
const STATE_LOCK: &str = "state.lock";
/// Part of the names of replaced trees that this user may not remove.
const OLD_TREE: &str = "-old-";
const PIPELINES: &str = "pipelines";
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of `repro`. It can be deleted; `repro make` fills it again.\n";

/// The store, open for reading. Opening creates nothing.
#[derive(Debug, Clone)]
pub struct ContentStore {
    root: PathBuf,
    state: Rc<RefCell<State>>,
    /// The file that is locked to append to the state log, once it is open.
    appending: Rc<OnceCell<fs::File>>,
    checked: Rc<RefCell<Checked>>,
}

/// What this process has found out about trees.
#[derive(Debug, Default)]
struct Checked {
    /// Trees that this process wrote itself, so no power cut came in between.
    own: HashSet<Digest>,
    /// Trees whose bytes do not match their digest; they count as missing.
    damaged: HashSet<Digest>,
    /// Keys whose record does not count because their tree is missing or damaged.
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
            // An unreadable folder must not count as an empty store.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io(root, "read")(error));
            }
            Err(_) => {
                // Another process may have created the store since the check for VERSION.
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

    /// Opens the store for writing; other processes may write at the same time. While another process removes
    /// results, this call waits, and it calls `wait` once with the name of that process.
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

    /// Turns the folder into a store. CACHEDIR.TAG and VERSION are written before anything else.
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

    /// Calls `act` on the current state while it holds the lock to append.
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

    /// Reads what other processes have appended. Returns whether there was anything.
    ///
    /// # Errors
    /// When the state log cannot be read.
    pub fn refresh(&self) -> Result<bool, StoreError> {
        let refreshed = self.state.borrow_mut().refresh();
        refreshed.map_err(StoreError::io(&self.root.join(STATE), "read"))
    }

    /// The tree of a key's newest execution. If a power cut may have taken its bytes, the tree is hashed first.
    ///
    /// `None` also if that tree is missing or damaged.
    pub fn tree_of(&self, key: &StageKey) -> Option<Digest> {
        let ran = self.state.borrow_mut().ran(key)?;
        if ran.is_synced || self.checked.borrow().own.contains(&ran.tree) {
            return Some(ran.tree);
        }
        match self.open_tree(&ran.tree) {
            // Unreadable does not mean lost.
            Ok(_) | Err(ResultError::Unreadable(_)) => Some(ran.tree),
            Err(ResultError::Missing | ResultError::Damaged(_)) => {
                self.checked.borrow_mut().lost.insert(*key, ran.tree);
                None
            }
        }
    }

    /// The bytes of a tree, compared with its digest. A file that this process has hashed is read again only if its
    /// stamp has changed.
    ///
    /// # Errors
    /// When the bytes are missing, do not match the digest, or cannot be read. Damaged ones count as missing from now
    /// on.
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

    /// The newest failure of a step, if it was an execution of `key` and none of that key has succeeded since.
    pub fn failure(&self, profile: &str, step: &str, key: &StageKey) -> Option<FailedRun> {
        self.state.borrow().failure(profile, step, key)
    }

    /// All valid records, oldest first.
    pub fn records(&self) -> Vec<RunRecord> {
        self.state.borrow_mut().records()
    }

    /// The damaged parts of the state log. Their content is lost.
    pub fn damaged(&self) -> Vec<Damage> {
        self.state.borrow().damaged().to_vec()
    }

    /// The steps whose record does not count because a power cut took their bytes. Covers the keys that were looked
    /// up.
    pub fn lost(&self) -> Vec<String> {
        let lost: Vec<StageKey> = self.checked.borrow().lost.keys().copied().collect();
        let mut state = self.state.borrow_mut();
        let mut steps: Vec<String> = lost.iter().filter_map(|key| Some(state.record(key)?.step)).collect();
        steps.sort_unstable();
        steps
    }

    /// Rewrites the state log if much of it is superseded or a part is damaged.
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

    /// The files of a tree, whether or not its bytes are present. If the manifest is lost or damaged, it is rebuilt
    /// from intact bytes.
    pub fn manifest(&self, tree: &Digest) -> Option<Manifest> {
        let is_intact = |manifest: &Manifest| manifest.digest() == *tree;
        let of_bytes = || verified::manifest(&self.tree_folder(tree), &mut |_, _| {}).ok().filter(is_intact);
        self.recorded_manifest(tree).or_else(of_bytes)
    }

    /// The files of a tree as recorded at its commit, if that record is intact.
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

    /// The path of a tree, for messages only. [`ContentStore::open_tree`] reads it.
    pub fn tree_location(&self, tree: &Digest) -> String {
        tree::shown(&self.tree_folder(tree))
    }

    fn tree_folder(&self, tree: &Digest) -> PathBuf {
        self.root.join("trees").join(tree.to_string())
    }

    /// Whether a tree's folder exists, by a stat. Trees known to be damaged do not count.
    pub fn has_bytes(&self, tree: &Digest) -> bool {
        !self.checked.borrow().damaged.contains(tree) && is_folder(&self.tree_folder(tree))
    }

    /// Whether a process is running a key now.
    pub fn is_claimed(&self, key: &StageKey) -> bool {
        let file = fs::File::open(self.root.join("claims").join(key.to_string()));
        // The lock is released at once: a process that needs the claim tries again.
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    /// The log of a running execution of a key, or of one that was killed.
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

    /// The log that a record names, if it is in this store. A record may come from another machine.
    pub fn recorded_log(&self, record: &RunRecord) -> Option<PathBuf> {
        let name = record.log.strip_prefix("logs/")?.strip_suffix(".log")?;
        Some(self.log(&StageKey(name.parse().ok()?)))
    }

    /// The log of the last execution of a key. The file is missing if the step printed nothing.
    pub fn log(&self, key: &StageKey) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }
}

/// Whether `path` is a folder and not a link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// A file in a folder without VERSION that no store creates while it is set up.
fn foreign(root: &Path) -> Option<String> {
    let begun =
        |name: &str| [LOCK, STATE, STATE_LOCK, "CACHEDIR.TAG"].contains(&name) || name.starts_with(".tmp");
    let items = fs::read_dir(root).into_iter().flatten().flatten();
    items.map(|item| item.file_name().to_string_lossy().into_owned()).filter(|name| !begun(name)).min()
}
