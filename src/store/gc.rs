//! What a store may let go: results that nobody names any more, and what dead runs left. It is told which results are
//! named and how much may stay beside them; it does not know pipelines. One reading of the log and a listing of
//! the folders decide; no result is opened.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::{
    ContentStore, JobLock, LOCK, Lock, LockMode, OLD_TREE, StoreError, TryLock, files, job_dir, work_dir,
};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;

/// What stays in any case.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// Results.
    pub trees: HashSet<Digest>,
    /// Keys: their scratch stays for the attempt that goes on with it.
    pub keys: HashSet<StageKey>,
}

/// What stays beside the roots.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// So many of the newest results of each step.
    pub newest: usize,
    /// What was made at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// As much as fits into so many bytes, all that stays counted, newest first. Nothing where no number is given.
    pub max_bytes: Option<u64>,
}

/// What kind of thing may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The output of a step.
    Tree,
    /// What an attempt left for the next one to go on with.
    Scratch,
    /// The folder of a run that is dead.
    Work,
    /// The folder of a job on a cluster, or the program that such jobs ran, that nobody will come back to.
    Job,
    /// The log of an execution that no record speaks of.
    Log,
}

/// Something that may go.
#[derive(Debug, Clone, Serialize)]
pub struct Garbage {
    /// What it is.
    pub kind: Kind,
    /// Its name in the store's folder of that kind.
    pub name: String,
    /// The step that made it, where that is known, and in which profile.
    pub step: Option<(String, String)>,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// How large it is.
    pub bytes: u64,
    #[serde(skip)]
    path: PathBuf,
}

/// What may go and what stays.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sweep {
    /// What may go; results first, the oldest first.
    pub garbage: Vec<Garbage>,
    /// How many results stay.
    pub kept: usize,
    /// The bytes of the results that stay.
    pub kept_bytes: u64,
}

impl Sweep {
    /// The bytes that may go.
    pub fn bytes(&self) -> u64 {
        self.garbage.iter().fold(0, |sum, garbage| sum.saturating_add(garbage.bytes))
    }
}

/// The store while nobody else writes in it.
#[derive(Debug)]
pub struct Sweeper {
    store: ContentStore,
    _lock: Lock,
}

impl ContentStore {
    /// Waits until no run uses the store, then keeps runs out of it. `wait` is told, once, whom there is to wait for.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn alone(&self, wait: &mut dyn FnMut(&str)) -> Result<Sweeper, StoreError> {
        let lock = Lock::take(&self.root.join(LOCK), LockMode::Exclusive, wait)?;
        // What ended meanwhile is known as well.
        self.refresh()?;
        Ok(Sweeper { store: self.clone(), _lock: lock })
    }

    /// What may go. What it says holds for as long as nobody runs a step.
    ///
    /// # Errors
    /// When a folder of the store cannot be listed.
    pub fn sweep(&self, roots: &Roots, limits: &Limits) -> Result<Sweep, StoreError> {
        let records = self.records();
        let mut known: HashMap<Digest, &RunRecord> = HashMap::new();
        // From old to new: of several executions with one result the newest counts.
        known.extend(records.iter().map(|record| (record.tree, record)));
        let keys: HashSet<String> = records.iter().map(|record| record.key_text.key().to_string()).collect();
        let named = kept_by_limits(&records, limits);
        let (mut sweep, mut loose) = (Sweep::default(), Vec::new());
        for (name, path) in self.list("trees")? {
            let Ok(digest) = name.parse::<Digest>() else {
                if name.contains(OLD_TREE) {
                    let (made_ms, bytes) = (modified_ms(&path), size(&path));
                    sweep.garbage.push(Garbage { kind: Kind::Work, name, step: None, made_ms, bytes, path });
                }
                continue;
            };
            let record = known.get(&digest);
            let bytes = match record {
                Some(record) => record.bytes,
                None => self.manifest(&digest).map_or_else(|| size(&path), |manifest| manifest.bytes()),
            };
            if roots.trees.contains(&digest) || named.contains(&digest) {
                sweep.kept += 1;
                // What a record from another machine says is not to be believed.
                sweep.kept_bytes = sweep.kept_bytes.saturating_add(bytes);
                continue;
            }
            let step = record.map(|record| (record.step.clone(), record.profile.clone()));
            let made_ms = record.map_or_else(|| modified_ms(&path), |record| record.started_ms);
            loose.push(Garbage { kind: Kind::Tree, name, step, made_ms, bytes, path });
        }
        loose.sort_by(|a, b| (a.made_ms, &a.name).cmp(&(b.made_ms, &b.name)));
        if let Some(max_bytes) = limits.max_bytes {
            // The newest ones stay for as long as there is room.
            while let Some(newest) = loose.last()
                && sweep.kept_bytes.saturating_add(newest.bytes) <= max_bytes
            {
                sweep.kept += 1;
                sweep.kept_bytes = sweep.kept_bytes.saturating_add(newest.bytes);
                loose.pop();
            }
        }
        sweep.garbage.splice(0..0, loose);
        // A job that waits in the queue of a cluster for its turn needs its program.
        let has_jobs = !self.list(job_dir::JOBS)?.is_empty();
        let is_young = |path: &Path| limits.since_ms.is_some_and(|since| modified_ms(path) >= since);
        for (kind, folder) in [
            (Kind::Scratch, "scratch"),
            (Kind::Work, "work"),
            (Kind::Log, "logs"),
            (Kind::Job, job_dir::JOBS),
            (Kind::Job, "programs"),
        ] {
            for (name, path) in self.list(folder)? {
                let key = name.split(['.', '-']).next().unwrap_or_default();
                let is_root = key.parse().is_ok_and(|key| roots.keys.contains(&StageKey(key)));
                let stays = match kind {
                    Kind::Scratch => is_root || is_young(&path),
                    Kind::Log => is_root || keys.contains(key) || is_young(&path),
                    Kind::Job if folder == job_dir::JOBS => is_root || is_worked_at(&path),
                    Kind::Job => has_jobs,
                    // The next run keeps it for a person.
                    Kind::Work => work_dir::holds_older(&path),
                    Kind::Tree => false,
                };
                if !stays {
                    let (made_ms, bytes) = (modified_ms(&path), size(&path));
                    sweep.garbage.push(Garbage { kind, name, step: None, made_ms, bytes, path });
                }
            }
        }
        Ok(sweep)
    }

    /// Names and paths in a folder of the store, which need not exist.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let folder = self.root.join(folder);
        let items = match fs::read_dir(&folder) {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io(&folder, "list")(error)),
        };
        let named =
            items.map(|item| item.map(|item| (item.file_name().to_string_lossy().into_owned(), item.path())));
        named.collect::<io::Result<_>>().map_err(StoreError::io(&folder, "list"))
    }
}

impl Sweeper {
    /// The store.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// Removes what a sweep found; `told` hears of each thing that is gone. Records stay: they say what was, and a
    /// step whose result is wanted again runs again.
    ///
    /// # Errors
    /// When something cannot be removed; everything else is removed all the same.
    pub fn remove(&self, garbage: &[Garbage], told: &mut dyn FnMut(&Garbage)) -> Result<(), StoreError> {
        let mut result = Ok(());
        for item in garbage {
            match self.remove_one(item) {
                Ok(true) => told(item),
                Ok(false) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Whether it is gone now; a job may have begun to work there.
    fn remove_one(&self, item: &Garbage) -> Result<bool, StoreError> {
        if item.kind == Kind::Tree {
            // Out of its name first: a half-removed tree must not look like a whole one.
            let aside = self.store.root.join("work").join(format!("{}-old", item.name));
            files::remove(&aside).map_err(StoreError::io(&aside, "remove"))?;
            fs::create_dir_all(self.store.root.join("work"))
                .and_then(|()| files::move_folder(&item.path, &aside))
                .and_then(|()| files::remove(&aside))
                .map_err(StoreError::io(&item.path, "remove"))?;
            if item.step.is_none() {
                let manifest = self.store.root.join("manifests").join(&item.name);
                files::remove(&manifest).map_err(StoreError::io(&manifest, "remove"))?;
            }
            return Ok(true);
        }
        // Before its desk goes, so that a job which begins too late knows.
        let is_job_dir = item.kind == Kind::Job && item.path.is_dir();
        if is_job_dir && !job_dir::end(&item.path).map_err(StoreError::io(&item.path, "give up"))? {
            return Ok(false);
        }
        files::remove(&item.path).map_err(StoreError::io(&item.path, "remove"))?;
        Ok(true)
    }
}

/// The results that `limits` keep whatever their size.
fn kept_by_limits(records: &[RunRecord], limits: &Limits) -> HashSet<Digest> {
    let mut kept: HashSet<Digest> = HashSet::new();
    let mut of_step: BTreeMap<(&str, &str), Vec<Digest>> = BTreeMap::new();
    for record in records.iter().rev() {
        if limits.since_ms.is_some_and(|since| record.started_ms >= since) {
            kept.insert(record.tree);
        }
        let trees = of_step.entry((&record.profile, &record.step)).or_default();
        if trees.len() < limits.newest && !trees.contains(&record.tree) {
            trees.push(record.tree);
        }
    }
    kept.extend(of_step.into_values().flatten());
    kept
}

/// Whether a job works at a desk now; one that cannot be told stays.
fn is_worked_at(work_dir: &Path) -> bool {
    matches!(JobLock::try_take(work_dir), Ok(TryLock::Held) | Err(_))
}

fn modified_ms(path: &Path) -> u64 {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |time| time.as_millis() as u64)
}

fn size(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|item| size(&item.path())).sum()
}
