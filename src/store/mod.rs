//! The content store: trees by digest, records by key, and what a run needs around them.
//!
//! ```text
//! cache/
//!   CACHEDIR.TAG, VERSION   marks a cache for backup programs; the version of this layout
//!   lock                    held by the one process that writes; says who that is
//!   trees/<digest>/         the output of a step, immutable, read-only
//!   manifests/<digest>      what is in the tree of that digest; outlives its bytes
//!   records/<key>           what is known of the execution of a key
//!   work/<key>-…/           the folder of a running step; of no worth when nobody runs
//!   scratch/<key>/          survives a failed or interrupted attempt of that key
//!   logs/<key>.log, .jsonl  what the last execution said; its scalars
//!   published/<profile>     which files `reports/` holds from which step
//!   stat-cache              digests of project files by size, times and inode
//! ```
//!
//! Order of a commit: bytes, manifest, tree's name, record. A crash in between leaves a tree that nobody
//! names, never a record of a tree that was not whole. Readers take no lock.

pub mod files;
mod lock;
mod stat_cache;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use lock::Lock;
pub use stat_cache::StatCache;
pub use writer::{WorkDir, Writer};

use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// The layout's version. Another one is refused, not guessed at.
const VERSION: &str = "1\n";
const LOCK: &str = "lock";
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder is a cache of `repro`. It can be deleted; `repro make` fills it again.\n";

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder holds something else, or a cache of another version.
    #[error("{} was written by another version of this program ({found}; this one writes {})", folder.display(), VERSION.trim())]
    Version {
        /// The cache.
        folder: PathBuf,
        /// What its VERSION file says.
        found: String,
    },
    /// The folder holds other things and no store.
    #[error("{} is not a cache of this program: it holds `{found}`; name an empty folder, or one that need not exist", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Something that lies in it.
        found: String,
    },
    /// Something could not be read or written.
    #[error("{}: cannot {act}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        act: &'static str,
        /// Why it did not succeed.
        source: io::Error,
    },
    /// The lock file beside the pipeline holds a line that is no pin.
    #[error("{}:{line}: is not `<profile>/<step>/<path> <digest>`, each name once", file.display())]
    Pins {
        /// The lock file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A step left something in its output folder that cannot be kept.
    #[error("the output cannot be kept: {0}")]
    Output(#[from] crate::tree::TreeError),
}

impl StoreError {
    pub(crate) fn io(path: &Path, act: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, act, source }
    }
}

/// The record of a key, as it lies on disk.
#[derive(Debug, Clone)]
pub enum Found {
    /// There is none.
    Nothing,
    /// A whole one.
    Record(Box<RunRecord>),
    /// One that is not as it was written; it counts as none.
    Damaged(PathBuf),
}

/// The store, open for reading. Opening creates nothing.
#[derive(Debug, Clone)]
pub struct ContentStore {
    root: PathBuf,
}

impl ContentStore {
    /// Opens the store in `root`, which need not exist.
    ///
    /// # Errors
    /// When the folder holds a store of another version or other things, or cannot be read.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        match fs::read_to_string(root.join("VERSION")) {
            Ok(found) if found != VERSION => {
                Err(StoreError::Version { folder: root.to_owned(), found: found.trim().to_owned() })
            }
            // What cannot be looked into must not pass for an empty store.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io(root, "read")(error)),
            Err(_) => match foreign(root) {
                Some(found) => Err(StoreError::Foreign { folder: root.to_owned(), found }),
                None => Ok(Self { root: root.to_owned() }),
            },
            Ok(_) => Ok(Self { root: root.to_owned() }),
        }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until no other process writes, then becomes the one that does. `wait` is told who holds the lock,
    /// once, before waiting.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn lock(&self, wait: &mut dyn FnMut(&str)) -> Result<Writer, StoreError> {
        fs::create_dir_all(&self.root).map_err(StoreError::io(&self.root, "create the folder"))?;
        let lock = Lock::take(&self.root.join(LOCK), wait)?;
        // What the folder is stands in it before anything else does.
        for (name, text) in [("CACHEDIR.TAG", CACHEDIR_TAG), ("VERSION", VERSION)] {
            let path = self.root.join(name);
            if !path.exists() {
                files::write_whole(&path, text.as_bytes(), false).map_err(StoreError::io(&path, "write"))?;
            }
        }
        for folder in ["trees", "manifests", "records", "work", "scratch", "logs", "published"] {
            let folder = self.root.join(folder);
            fs::create_dir_all(&folder).map_err(StoreError::io(&folder, "create the folder"))?;
        }
        Writer::start(self.clone(), lock)
    }

    /// The record of a key.
    pub fn record(&self, key: &StageKey) -> Found {
        read_record(&self.root.join("records").join(key.to_string()))
    }

    /// Every whole record, oldest first.
    pub fn records(&self) -> Vec<RunRecord> {
        let mut found: Vec<RunRecord> = fs::read_dir(self.root.join("records"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|item| match read_record(&item.path()) {
                Found::Record(record) => Some(*record),
                Found::Nothing | Found::Damaged(_) => None,
            })
            .collect();
        found.sort_by(|a, b| (a.started_ms, a.key_text.as_str()).cmp(&(b.started_ms, b.key_text.as_str())));
        found
    }

    /// What is in a tree, whether or not its bytes are there. Where the manifest is lost or damaged the bytes
    /// tell, if they are there and whole.
    pub fn manifest(&self, tree: &Digest) -> Option<Manifest> {
        let is_whole = |manifest: &Manifest| manifest.digest() == *tree;
        let kept = fs::read_to_string(self.manifest_file(tree)).ok().and_then(|text| Manifest::parse(&text));
        kept.filter(is_whole).or_else(|| Manifest::of_folder(&self.tree(tree)).ok().filter(is_whole))
    }

    fn manifest_file(&self, tree: &Digest) -> PathBuf {
        self.root.join("manifests").join(tree.to_string())
    }

    /// Where a tree's bytes lie when they are there.
    pub fn tree(&self, tree: &Digest) -> PathBuf {
        self.root.join("trees").join(tree.to_string())
    }

    /// Whether a tree's bytes are there.
    pub fn has_bytes(&self, tree: &Digest) -> bool {
        self.tree(tree).is_dir()
    }

    /// The log of the last execution of a key.
    pub fn log(&self, key: &StageKey) -> PathBuf {
        self.root.join("logs").join(format!("{key}.log"))
    }
}

/// Something in a folder without VERSION that no store has put there while it began.
fn foreign(root: &Path) -> Option<String> {
    let begun = |name: &str| name == LOCK || name == "CACHEDIR.TAG" || name.starts_with(".tmp");
    let items = fs::read_dir(root).into_iter().flatten().flatten();
    items.map(|item| item.file_name().to_string_lossy().into_owned()).filter(|name| !begun(name)).min()
}

fn read_record(path: &Path) -> Found {
    match fs::read_to_string(path) {
        Ok(text) => match RunRecord::from_text(&text) {
            Some(record) => Found::Record(Box::new(record)),
            None => Found::Damaged(path.to_owned()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(_) => Found::Damaged(path.to_owned()),
    }
}
