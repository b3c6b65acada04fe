//! Evidence: records of steps and the small results that reports are made of, kept with the project in
//! `reports/evidence/<profile>/`, so that a fresh clone can make the reports without data and without training.
//!
//! ```text
//! records.jsonl         a record a line, by step; `outputs` also names the deeper paths that other steps read
//! trees/<step>/…        bytes: of a whole result, or of the paths in it that a published step reads
//! ```
//!
//! It is read beside the store and never written by a run. A file in it counts only while its bytes have the digest that
//! the record says. It does not know which steps evidence should hold; [`crate::attest`] does.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::key::StageKey;
use crate::pipeline::Pipeline;
use crate::record::RunRecord;
use crate::store::{StoreError, VerifiedPath, files};
use crate::tree::{Manifest, is_executable};

const RECORDS: &str = "records.jsonl";
const TREES: &str = "trees";

/// What is known without having run here.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Nowhere, where none is asked.
    folder: Option<PathBuf>,
    /// The digest of the file of records, if it is there.
    text: Option<Digest>,
    records: Vec<RunRecord>,
    of_key: HashMap<StageKey, usize>,
    of_tree: HashMap<Digest, Vec<usize>>,
}

/// A result that evidence is to hold.
#[derive(Debug)]
pub struct Proof {
    /// The record, with the digests of all paths that other steps read.
    pub record: RunRecord,
    /// Which paths within its tree are kept, `None` standing for all of it, and where they are now.
    pub parts: BTreeMap<Option<String>, VerifiedPath>,
}

impl Evidence {
    /// Where evidence of the pipeline's profile is.
    pub fn folder(pipeline: &Pipeline) -> PathBuf {
        pipeline.root.join("reports/evidence").join(&pipeline.profile)
    }

    /// Reads the evidence in `folder`, which need not exist.
    ///
    /// # Errors
    /// A file that cannot be read, and a line that is no record (a merge that was left half done, say).
    pub fn load(folder: &Path) -> Result<Self, StoreError> {
        let file = folder.join(RECORDS);
        let text = match files::read_text(&file) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Self { folder: Some(folder.to_owned()), ..Self::default() });
            }
            Err(error) => return Err(StoreError::io(&file, "read")(error)),
        };
        let mut evidence = Self {
            folder: Some(folder.to_owned()),
            text: Some(Digest::of_bytes(text.as_bytes())),
            ..Self::default()
        };
        for (number, line) in (1..).zip(text.lines()) {
            let Ok(record) = serde_json::from_str::<RunRecord>(line) else {
                return Err(StoreError::Evidence { file, line: number });
            };
            let place = evidence.records.len();
            evidence.of_key.insert(record.key_text.key(), place);
            evidence.of_tree.entry(record.tree).or_default().push(place);
            evidence.records.push(record);
        }
        Ok(evidence)
    }

    /// The file of records, where there may be one, and its digest when it was read; `None` when it was not there.
    pub fn file(&self) -> Option<(PathBuf, Option<Digest>)> {
        Some((self.folder.as_ref()?.join(RECORDS), self.text))
    }

    /// The record of a key.
    pub fn record(&self, key: &StageKey) -> Option<&RunRecord> {
        self.of_key.get(key).map(|place| &self.records[*place])
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The newest record of a step.
    pub fn last(&self, step: &str) -> Option<&RunRecord> {
        self.records.iter().filter(|record| record.step == step).max_by_key(|record| record.started_ms)
    }

    /// The bytes of a tree, or those of a path within it, if they are here and are what a record says.
    pub fn open(&self, tree: &Digest, path: Option<&str>) -> Option<VerifiedPath> {
        let trees = self.folder.as_ref()?.join(TREES);
        let records = self.of_tree.get(tree)?.iter().map(|place| &self.records[*place]);
        records.into_iter().find_map(|record| {
            // A record is a file that anybody may have written: its names must not lead elsewhere.
            let whole = files::path_below(&trees, Path::new(&record.step))?;
            let part = path.and_then(|path| Some((path, record.outputs.get(path)?)));
            match (path, part) {
                (None, _) => VerifiedPath::check(&whole, tree).ok(),
                (Some(_), Some((path, digest))) => {
                    VerifiedPath::check(&files::path_below(&whole, Path::new(path))?, digest).ok()
                }
                // What the record does not name is known by the whole.
                (Some(path), None) => VerifiedPath::check(&whole, tree).ok()?.within(path),
            }
        })
    }

    /// What is in a tree whose bytes are all here.
    pub fn manifest(&self, tree: &Digest) -> Option<Manifest> {
        Manifest::of_folder(&self.open(tree, None)?).ok()
    }
}

/// Writes evidence into `folder` in place of what it holds. The same proofs give the same bytes. It is written in the empty
/// folder `stage`, which then holds the old evidence: a process that is killed leaves the old evidence or the new one.
///
/// # Errors
/// When the disk does not take it.
pub fn replace(folder: &Path, proofs: &[Proof], stage: &Path) -> Result<(), StoreError> {
    let sorted: BTreeMap<&str, &Proof> =
        proofs.iter().map(|proof| (proof.record.step.as_str(), proof)).collect();
    let mut text = String::new();
    for (step, proof) in sorted {
        let line = serde_json::to_string(&proof.record).map_err(io::Error::from);
        text.push_str(&line.map_err(StoreError::io(folder, "write a record to"))?);
        text.push('\n');
        let whole = stage.join(TREES).join(step);
        for (part, from) in &proof.parts {
            let to = part.as_ref().map_or(whole.clone(), |part| whole.join(part));
            copy(from, &to).map_err(StoreError::io(&to, "write"))?;
        }
    }
    fs::write(stage.join(RECORDS), text).map_err(StoreError::io(stage, "write in"))?;
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(StoreError::io(parent, "create the folder"))?;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(stage) == device(parent) {
        return put(stage, folder).map_err(StoreError::io(folder, "write"));
    }
    // No rename leads from one file system to another. The name follows from the profile's, so that the next run removes
    // what a killed one left.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let beside = parent.join(format!(".{name}.part"));
    let put = files::remove(&beside).and_then(|()| copy(stage, &beside)).and_then(|()| put(&beside, folder));
    put.and_then(|()| files::remove(&beside)).map_err(StoreError::io(folder, "write"))
}

/// Puts a folder in the place of another one, in one step where the file system can exchange two names. Then the old one
/// has the new one's place.
fn put(new: &Path, folder: &Path) -> io::Result<()> {
    files::sync_all_of(new)?;
    let put = match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(new, folder),
        Err(error) => Err(error),
        Ok(_) => match renameat_with(CWD, new, CWD, folder, RenameFlags::EXCHANGE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let old = new.with_extension("old");
                files::remove(&old)?;
                fs::rename(folder, &old)?;
                fs::rename(new, folder)?;
                files::remove(&old)
            }
            other => Ok(other?),
        },
    };
    put.and_then(|()| files::sync_folder(folder.parent().unwrap_or(Path::new("."))))
}

/// Copies a file or a folder. Results are read-only in the store; a copy is a person's to edit.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
        for item in fs::read_dir(from)? {
            let item = item?;
            copy(&item.path(), &to.join(item.file_name()))?;
        }
        return Ok(());
    }
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mode = if is_executable(&metadata) { 0o777 } else { 0o666 };
    let mut new = File::options().write(true).create(true).truncate(true).mode(mode).open(to)?;
    io::copy(&mut File::open(from)?, &mut new).map(drop)
}
