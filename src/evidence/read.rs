//! Reads evidence: records of steps and small results in `reports/evidence/<profile>/`. With it a fresh clone can
//! build the reports without data and without training.
//!
//! ```text
//! records.jsonl         one record per line, sorted by step; `outputs` also lists deeper paths that other steps read
//! trees/<step>/…        a complete result, or the paths in it that a published step reads
//! ```
//!
//! A file counts only while its bytes match the digest in the record. Runs read evidence along with the store and
//! never write it. This module does not know which steps evidence must hold; [`super::write`] does.

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

/// Results that are known from committed files.
#[derive(Debug, Default)]
pub struct Evidence {
    /// `None` if there is no evidence.
    folder: Option<PathBuf>,
    /// The digest of the file of records, if it exists.
    text: Option<Digest>,
    records: Vec<RunRecord>,
    of_key: HashMap<StageKey, usize>,
    of_tree: HashMap<Digest, Vec<usize>>,
}

/// A result that evidence must hold.
#[derive(Debug)]
pub struct Proof {
    /// The record, with the digests of all paths that other steps read.
    pub record: RunRecord,
    /// The paths within its tree that are stored (`None`: the complete tree), with their current locations.
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
    /// When a file is unreadable or a line is not a record, for example after an incomplete merge.
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

    /// The file of records, if there is evidence, and its digest when it was read; `None` if it was missing.
    pub fn file(&self) -> Option<(PathBuf, Option<Digest>)> {
        Some((self.folder.as_ref()?.join(RECORDS), self.text))
    }

    /// The record of a key.
    pub fn record(&self, key: &StageKey) -> Option<&RunRecord> {
        self.of_key.get(key).map(|place| &self.records[*place])
    }

    /// All records.
    pub fn records(&self) -> &[RunRecord] {
        &self.records
    }

    /// Where the bytes of a record are, as far as it holds them; `None` if it holds none.
    pub fn location(&self, record: &RunRecord) -> Option<PathBuf> {
        let trees = self.folder.as_ref()?.join(TREES);
        files::path_below(&trees, Path::new(&record.step)).filter(|folder| folder.is_dir())
    }

    /// The outputs of a record whose bytes it holds, by their paths.
    pub fn held(&self, record: &RunRecord) -> Vec<(String, VerifiedPath)> {
        let open = |path: &String| Some((path.clone(), self.open(&record.tree, Some(path))?));
        record.outputs.keys().filter_map(open).collect()
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The newest record of a step.
    pub fn last(&self, step: &str) -> Option<&RunRecord> {
        self.records.iter().filter(|record| record.step == step).max_by_key(|record| record.started_ms)
    }

    /// The bytes of a tree, or of a path within it, if they are present and match the record.
    pub fn open(&self, tree: &Digest, path: Option<&str>) -> Option<VerifiedPath> {
        let trees = self.folder.as_ref()?.join(TREES);
        let records = self.of_tree.get(tree)?.iter().map(|place| &self.records[*place]);
        records.into_iter().find_map(|record| {
            // The record comes from a file that anybody may have edited, so its paths must not leave the folder.
            let whole = files::path_below(&trees, Path::new(&record.step))?;
            let part = path.and_then(|path| Some((path, record.outputs.get(path)?)));
            match (path, part) {
                (None, _) => VerifiedPath::check(&whole, tree).ok(),
                (Some(_), Some((path, digest))) => {
                    VerifiedPath::check(&files::path_below(&whole, Path::new(path))?, digest).ok()
                }
                // A path that the record does not list is verified with the complete tree.
                (Some(path), None) => VerifiedPath::check(&whole, tree).ok()?.within(path),
            }
        })
    }

    /// The files of a tree whose bytes are all present.
    pub fn manifest(&self, tree: &Digest) -> Option<Manifest> {
        Manifest::of_folder(&self.open(tree, None)?).ok()
    }
}

/// Replaces the evidence in `folder`. Equal proofs give equal bytes. It is written to the empty folder `stage`, which
/// receives the old evidence: after a kill, the old or the new evidence is complete.
///
/// # Errors
/// When a write fails.
pub fn replace(folder: &Path, proofs: &[Proof], stage: &Path) -> Result<(), StoreError> {
    let sorted: BTreeMap<&str, &Proof> =
        proofs.iter().map(|proof| (proof.record.step.as_str(), proof)).collect();
    let mut text = String::new();
    for (step, proof) in sorted {
        let line = serde_json::to_string(&proof.record).map_err(io::Error::from);
        text.push_str(&line.map_err(StoreError::io(folder, "write the records of"))?);
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
    // A rename cannot cross file systems. The name is derived from the profile's, so that the next run removes what a
    // killed one left.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let part_folder = parent.join(format!(".{name}.part"));
    let put = files::remove(&part_folder)
        .and_then(|()| copy(stage, &part_folder))
        .and_then(|()| put(&part_folder, folder));
    put.and_then(|()| files::remove(&part_folder)).map_err(StoreError::io(folder, "write"))
}

/// Replaces a folder by another one, in one operation if the file system can exchange two names. The old folder gets
/// the name of the new one.
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
