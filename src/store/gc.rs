//! Garbage collection: results that nothing names any more, and what dead runs have left. The caller passes the named
//! results and the limits; this module does not know pipelines. It reads the log and lists folders, but opens no
//! result.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::{
    ContentStore, JobLock, LOCK, Lock, LockMode, OLD_TREE, StoreError, TryLock, files, job_dir, work_dir,
};
use crate::command::runtime::{self, ENVIRONMENTS};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;

/// What is never garbage.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    /// The digests of results.
    pub trees: HashSet<Digest>,
    /// Keys whose scratch folder the next attempt needs.
    pub keys: HashSet<StageKey>,
    /// The names of environments of commands.
    pub environments: HashSet<String>,
}

/// What is kept in addition to the roots.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// This many of the newest results of each step.
    pub newest: usize,
    /// Everything since this time, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// The newest results, as long as all kept results together have at most this size. Without a value, no result is
    /// kept for this reason.
    pub max_bytes: Option<u64>,
}

/// The kind of garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The output of a step.
    Tree,
    /// What a failed attempt left for the next one.
    Scratch,
    /// The folder of a dead run.
    Work,
    /// The job directory of a job that no run needs, or the program of such jobs.
    Job,
    /// The log of an execution without a record.
    Log,
    /// The environment of commands, built from a lock file.
    Environment,
}

/// A piece of garbage.
#[derive(Debug, Clone, Serialize)]
pub struct Garbage {
    /// Its kind.
    pub kind: Kind,
    /// Its name in the store's folder of that kind.
    pub name: String,
    /// The step that wrote it and its profile, if they are known.
    pub step: Option<(String, String)>,
    /// When it was written, in milliseconds since 1970.
    pub made_ms: u64,
    /// Its size.
    pub bytes: u64,
    #[serde(skip)]
    path: PathBuf,
}

/// The result of a sweep.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sweep {
    /// What can be removed: results first, oldest first.
    pub garbage: Vec<Garbage>,
    /// The number of results that are kept.
    pub kept: usize,
    /// Their size in bytes.
    pub kept_bytes: u64,
}

impl Sweep {
    /// The size of the garbage in bytes.
    pub fn bytes(&self) -> u64 {
        self.garbage.iter().fold(0, |sum, garbage| sum.saturating_add(garbage.bytes))
    }
}

/// The store, held exclusively.
#[derive(Debug)]
pub struct Sweeper {
    store: ContentStore,
    _lock: Lock,
}

impl ContentStore {
    /// Waits until no run uses the store, then blocks new runs. Before it waits, it calls `wait` once with the name
    /// of the owner.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn alone(&self, wait: &mut dyn FnMut(&str)) -> Result<Sweeper, StoreError> {
        let lock = Lock::take(&self.root.join(LOCK), LockMode::Exclusive, wait)?;
        // Includes runs that ended during the wait.
        self.refresh()?;
        Ok(Sweeper { store: self.clone(), _lock: lock })
    }

    /// Finds garbage. The result is valid while no step runs.
    ///
    /// # Errors
    /// When a folder of the store cannot be listed.
    pub fn sweep(&self, roots: &Roots, limits: &Limits) -> Result<Sweep, StoreError> {
        let records = self.records();
        let mut known: HashMap<Digest, &RunRecord> = HashMap::new();
        // From oldest to newest: of several executions with one result, the newest counts.
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
                // A record from another machine may hold any number.
                sweep.kept_bytes = sweep.kept_bytes.saturating_add(bytes);
                continue;
            }
            let step = record.map(|record| (record.step.clone(), record.profile.clone()));
            let made_ms = record.map_or_else(|| modified_ms(&path), |record| record.started_ms);
            loose.push(Garbage { kind: Kind::Tree, name, step, made_ms, bytes, path });
        }
        loose.sort_by(|a, b| (a.made_ms, &a.name).cmp(&(b.made_ms, &b.name)));
        if let Some(max_bytes) = limits.max_bytes {
            // The newest ones are kept while there is room.
            while let Some(newest) = loose.last()
                && sweep.kept_bytes.saturating_add(newest.bytes) <= max_bytes
            {
                sweep.kept += 1;
                sweep.kept_bytes = sweep.kept_bytes.saturating_add(newest.bytes);
                loose.pop();
            }
        }
        sweep.garbage.splice(0..0, loose);
        // A job in the queue of a cluster needs its program.
        let has_jobs = !self.list(job_dir::JOBS)?.is_empty();
        let is_young = |path: &Path| limits.since_ms.is_some_and(|since| modified_ms(path) >= since);
        for (kind, folder) in [
            (Kind::Scratch, "scratch"),
            (Kind::Work, "work"),
            (Kind::Log, "logs"),
            (Kind::Job, job_dir::JOBS),
            (Kind::Job, "programs"),
            (Kind::Environment, ENVIRONMENTS),
        ] {
            for (name, path) in self.list(folder)? {
                let key = name.split(['.', '-']).next().unwrap_or_default();
                let is_root = key.parse().is_ok_and(|key| roots.keys.contains(&StageKey(key)));
                let stays = match kind {
                    Kind::Scratch => is_root || is_young(&path),
                    Kind::Log => is_root || keys.contains(key) || is_young(&path),
                    Kind::Job if folder == job_dir::JOBS => is_root || is_worked_at(&path),
                    Kind::Job => has_jobs,
                    // The next run moves it to `recovered/`.
                    Kind::Work => work_dir::holds_older(&path),
                    // The lock of an environment goes with it.
                    Kind::Environment => {
                        roots.environments.contains(key)
                            || is_young(&path)
                            || self.environment_stays(&path, key)
                    }
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

    /// Whether the environment `name` is used, or `path` is the lock of one that exists.
    fn environment_stays(&self, path: &Path, name: &str) -> bool {
        runtime::is_in_use(&self.root, name) || (path.is_file() && path.with_file_name(name).exists())
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

    /// Removes garbage and calls `on_removed` for each item. Records stay: a step whose result is needed again runs
    /// again.
    ///
    /// # Errors
    /// When an item cannot be removed; the others are removed nevertheless.
    pub fn remove(
        &self,
        garbage: &[Garbage],
        on_removed: &mut dyn FnMut(&Garbage),
    ) -> Result<(), StoreError> {
        let mut result = Ok(());
        for item in garbage {
            match self.remove_one(item) {
                Ok(true) => on_removed(item),
                Ok(false) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Returns whether it was removed; a job may have started there meanwhile.
    fn remove_one(&self, item: &Garbage) -> Result<bool, StoreError> {
        if item.kind == Kind::Tree {
            // It is renamed first: a partly removed tree must not look complete.
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
        if item.kind == Kind::Environment {
            let name = item.name.split('.').next().unwrap_or_default();
            return runtime::remove(&self.store.root, name).map_err(StoreError::io(&item.path, "remove"));
        }
        // Closed before the job directory is removed, so that a job that starts too late does nothing.
        let is_job_dir = item.kind == Kind::Job && item.path.is_dir();
        if is_job_dir && !job_dir::end(&item.path).map_err(StoreError::io(&item.path, "abandon"))? {
            return Ok(false);
        }
        files::remove(&item.path).map_err(StoreError::io(&item.path, "remove"))?;
        Ok(true)
    }
}

/// The results that `limits` keep regardless of their size.
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

/// Whether a job is running in a job directory. If that is unknown, the directory stays.
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
