//! The ledger of a pipeline: what it has published, in the file `published/<digest>` of the cache. It separates
//! reports that nothing publishes any longer from a person's own files. Its paths are checked before use, because
//! they come from a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::recorder::Recorder;
use crate::store::files;

/// The files of a step, below the folder of its profile, with digests of their bytes and executable bit.
pub(super) type Files = BTreeMap<PathBuf, Digest>;

/// What one pipeline has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The pipeline file; relative to the parent of the cache if it is below that, so that a project can be moved.
    pipeline: PathBuf,
    /// By profile and step.
    pub profiles: BTreeMap<String, BTreeMap<String, Files>>,
}

/// The ledgers of a cache.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledgers {
    folder: PathBuf,
    /// The parent folder of the cache.
    base: PathBuf,
    /// The pipeline file of this ledger, an absolute path.
    pipeline: PathBuf,
}

/// A ledger of another pipeline in the same folder.
#[derive(Debug)]
pub(super) struct Other {
    /// Its pipeline file, an absolute path.
    pub pipeline: PathBuf,
    /// Whether that is there.
    pub is_there: bool,
    /// The file of the ledger.
    pub file: PathBuf,
    pub ledger: Ledger,
}

impl Ledgers {
    pub fn new(cache: &Path, pipeline: PathBuf) -> Self {
        let base = cache.parent().unwrap_or(Path::new("/")).to_owned();
        Self { folder: cache.join("published"), base, pipeline }
    }

    fn named(&self) -> &Path {
        self.pipeline.strip_prefix(&self.base).unwrap_or(&self.pipeline)
    }

    /// The file of this pipeline's ledger.
    pub fn own_file(&self) -> PathBuf {
        self.folder.join(Digest::of_bytes(self.named().as_os_str().as_encoded_bytes()).to_string())
    }

    /// The ledger of this pipeline. It is empty if the file is missing or unreadable; then files of earlier steps
    /// stay.
    pub fn own(&self, recorder: &Recorder) -> Ledger {
        self.note(recorder);
        let empty = || Ledger { pipeline: self.named().to_owned(), profiles: BTreeMap::new() };
        read(&self.own_file()).filter(|ledger| ledger.pipeline == self.named()).unwrap_or_else(empty)
    }

    /// The ledgers of other pipelines in the same folder.
    pub fn others(&self, recorder: &Recorder) -> Vec<Other> {
        self.note(recorder);
        let (own, mut found) = (self.own_file(), Vec::new());
        for item in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let file = item.path();
            let Some(ledger) = Some(&file).filter(|file| **file != own).and_then(|file| read(file)) else {
                continue;
            };
            let pipeline = self.base.join(&ledger.pipeline);
            if pipeline.parent() == self.pipeline.parent() {
                let is_there = recorder.exists(&pipeline);
                found.push(Other { pipeline, is_there, file, ledger });
            }
        }
        found.sort_by(|a, b| a.file.cmp(&b.file));
        found
    }

    /// Notes that the ledgers are read. Where they cannot be, that shows as ledgers that are not there.
    fn note(&self, recorder: &Recorder) {
        let _ = recorder.digest(&self.folder);
    }

    /// Writes the ledger of this pipeline.
    ///
    /// # Errors
    /// When the write fails.
    pub fn keep(&self, ledger: &Ledger) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let text = serde_json::to_string_pretty(ledger)?;
        files::write_whole(&self.own_file(), text.as_bytes(), false)
    }
}

fn read(file: &Path) -> Option<Ledger> {
    let ledger: Ledger = serde_json::from_str(&files::read_text(file).ok()?).ok()?;
    let is_inside = |path: &Path| {
        path.components().next().is_some()
            && path.components().all(|part| matches!(part, Component::Normal(_)))
    };
    // A path outside of the reports was not written by a publish.
    let profiles = || ledger.profiles.keys().map(Path::new);
    let files = ledger.profiles.values().flat_map(|steps| steps.values().flat_map(BTreeMap::keys));
    let are_inside = profiles().chain(files.map(PathBuf::as_path)).all(is_inside);
    (are_inside && profiles().all(|profile| profile.components().count() == 1)).then_some(ledger)
}
