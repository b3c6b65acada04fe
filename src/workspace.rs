//! What the engine knows of the disk in one place: the store, the evidence, the project's files, the reports. What the
//! store does not know the evidence may. It answers what
//! judging asks ([`BuildState`]) and remembers the answers, so that each record and manifest is read once.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::digest::Digest;
use crate::evidence::Evidence;
use crate::key::StageKey;
use crate::lockfile::Lockfile;
use crate::pipeline::{Pipeline, Source, Step};
use crate::plan::BuildState;
use crate::publish::Reports;
use crate::record::RunRecord;
use crate::recorder::Recorder;
use crate::store::{ContentStore, ResultError, Snapshot, StoreError, VerifiedPath};
use crate::tree::{Manifest, TreeError};

/// The disk as one pipeline sees it.
pub struct Workspace {
    store: ContentStore,
    recorder: Recorder,
    evidence: Evidence,
    reports: Reports,
    root: PathBuf,
    profile: String,
    lockfile: RefCell<Lockfile>,
    files: RefCell<BTreeMap<PathBuf, Result<Digest, TreeError>>>,
    /// The step's key that a tree was last found by: its record names the tree's parts.
    owners: RefCell<HashMap<Digest, StageKey>>,
    outputs: RefCell<HashMap<Digest, BTreeMap<String, Digest>>>,
    manifests: RefCell<HashMap<Digest, Option<Rc<Manifest>>>>,
    history: OnceCell<Vec<RunRecord>>,
}

/// An input file of the project that is missing or cannot be read.
#[derive(Debug)]
pub struct UnusableFile {
    /// The step that reads it.
    pub step: String,
    /// As [`Step::file`].
    pub declared_in: Option<PathBuf>,
    /// Where that file names it: line and column.
    pub position: (usize, usize),
    /// The file, as the pipeline names it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl UnusableFile {
    /// Where the step of `pipeline` is declared, what it reads, and what is wrong.
    pub fn message(&self, pipeline: &Path) -> String {
        let declared_in = self.declared_in.as_ref().map(|other| pipeline.with_file_name(other));
        let (line, column) = self.position;
        format!(
            "{}:{line}:{column}: step `{}` reads ./{}: {}",
            declared_in.as_deref().unwrap_or(pipeline).display(),
            self.step,
            self.path.display(),
            self.problem
        )
    }
}

impl Workspace {
    /// Opens the store in `cache`, which is enough to ask whether a request is up to date. Creates nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub fn open(cache: &Path) -> Result<Self, StoreError> {
        let store = ContentStore::open(cache)?;
        Ok(Self {
            recorder: Recorder::new(&store),
            store,
            evidence: Evidence::default(),
            reports: Reports::default(),
            root: PathBuf::new(),
            profile: String::new(),
            lockfile: RefCell::default(),
            files: RefCell::default(),
            owners: RefCell::default(),
            outputs: RefCell::default(),
            manifests: RefCell::default(),
            history: OnceCell::new(),
        })
    }

    /// Reads what a plan of `pipeline` needs in addition to the store: the lock file and, where it counts, the evidence.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load(&mut self, pipeline: &Pipeline, with_evidence: bool) -> Result<(), StoreError> {
        self.root.clone_from(&pipeline.root);
        self.profile.clone_from(&pipeline.profile);
        self.recorder.note_file(&pipeline.absolute_file(), Some(pipeline.text));
        for (path, digest) in &pipeline.other_files {
            self.recorder.note_file(&self.root.join(path), Some(*digest));
        }
        for (path, was_there) in &pipeline.looked_for {
            self.recorder.note_presence(&self.root.join(path), *was_there);
        }
        if with_evidence {
            self.evidence = Evidence::load(&Evidence::folder(pipeline))?;
            if let Some((file, digest)) = self.evidence.file() {
                self.recorder.note_file(&file, digest);
            }
        }
        let lockfile = Lockfile::load(&pipeline.file)?;
        self.recorder.note_file(&pipeline.absolute_file().with_extension("lock"), lockfile.text());
        self.lockfile = RefCell::new(lockfile);
        self.reports = Reports::new(self.root.join("reports"), pipeline, self.store.root());
        Ok(())
    }

    /// The files of the reports that a published step writes, with their digests.
    pub fn published_files(&self, step: &Step, tree: &Digest) -> Option<Vec<(PathBuf, Digest)>> {
        Some(self.reports.files(step.publish.as_ref()?, self.manifest(tree)?.as_ref()))
    }

    /// The store.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// The evidence.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// The bytes of a tree, or those of a path within it, compared with their digest: in the store, or else in the
    /// evidence. Nothing else leads to the bytes of a result.
    ///
    /// # Errors
    /// Why those in the store cannot be used, where the evidence has none.
    pub fn open_result(&self, tree: &Digest, path: Option<&str>) -> Result<VerifiedPath, ResultError> {
        let whole = self.store.open_tree(tree);
        let found = whole.and_then(|whole| match path {
            Some(path) => whole.within(path).ok_or(ResultError::Missing),
            None => Ok(whole),
        });
        found.or_else(|error| self.evidence.open(tree, path).ok_or(error))
    }

    /// The reports.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// What reads files of the project, reports and the environment.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Keeps the digests of files and the versions of tools for the next process.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn save(&self) -> Result<(), StoreError> {
        self.recorder.save(&self.store)
    }

    /// The first file of the project that a step of `steps` reads and that is missing or cannot be hashed.
    pub fn unusable_file<'a>(&self, steps: impl Iterator<Item = &'a Step>) -> Option<UnusableFile> {
        for step in steps {
            for input in &step.inputs {
                if let Source::File(path) = &input.source
                    && self.file(path).is_none()
                {
                    let files = self.files.borrow();
                    let problem = match files.get(path) {
                        Some(Err(error)) => error.to_string(),
                        _ => "it cannot be read".to_owned(),
                    };
                    return Some(UnusableFile {
                        step: step.name.clone(),
                        declared_in: step.file.clone(),
                        position: input.position,
                        path: path.clone(),
                        problem,
                    });
                }
            }
        }
        None
    }

    /// The path of a file of the project.
    pub fn locate(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Whether a file of the project is unchanged since its first use.
    pub fn is_unchanged(&self, path: &Path) -> bool {
        let now = self.recorder.digest(&self.locate(path)).ok();
        now == self.file(path)
    }

    /// How a file or folder of the project is now, by stats alone.
    pub fn snapshot(&self, path: &Path) -> Snapshot {
        Snapshot::of_input(&self.root, path)
    }

    /// What is in a folder of the project; `None` for a file.
    pub fn project_folder(&self, path: &Path) -> Option<Manifest> {
        let folder = self.locate(path);
        if folder.is_dir() { self.recorder.stat_cache().manifest(&folder).ok() } else { None }
    }

    /// Takes note that a tree was just written.
    pub fn learn(&self, tree: &Digest) {
        self.manifests.borrow_mut().remove(tree);
    }

    /// The record of a key.
    pub fn record(&self, key: &StageKey) -> Option<RunRecord> {
        self.store.record(key).or_else(|| self.evidence.record(key).cloned())
    }

    /// Holds the outputs of a step that just ran against what is noted of it, and notes what is not.
    ///
    /// # Errors
    /// A sentence that says what differs, or that it cannot be noted.
    pub fn pin(&self, step: &Step, outputs: &BTreeMap<String, Digest>) -> Result<(), String> {
        let mut lockfile = self.lockfile.borrow_mut();
        // Another run may have noted something since.
        *lockfile = lockfile.reload().map_err(|error| error.to_string())?;
        lockfile.check(&self.profile, &step.name, outputs)?;
        lockfile.add(&self.profile, &step.name, outputs).map_err(|error| {
            format!("the digest of its download cannot be written next to the pipeline file: {error}")
        })
    }

    /// Whether the result of a key is known by the evidence alone.
    pub fn is_from_evidence(&self, key: &StageKey) -> bool {
        self.store.tree_of(key).is_none() && self.evidence.record(key).is_some()
    }

    /// Every record at the time of the first call, those of the evidence too, oldest first.
    pub fn history(&self) -> &[RunRecord] {
        self.history.get_or_init(|| {
            let mut records = self.store.records();
            let of_evidence = self.evidence.records().iter();
            let only_there = of_evidence.filter(|record| self.is_from_evidence(&record.key_text.key()));
            records.extend(only_there.cloned());
            records.sort_by_key(|record| record.started_ms);
            records
        })
    }

    /// What is in a tree.
    pub fn manifest(&self, tree: &Digest) -> Option<Rc<Manifest>> {
        let mut manifests = self.manifests.borrow_mut();
        let find = || self.store.manifest(tree).or_else(|| self.evidence.manifest(tree));
        manifests.entry(*tree).or_insert_with(|| find().map(Rc::new)).clone()
    }
}

impl BuildState for Workspace {
    fn tree(&self, key: &StageKey) -> Option<Digest> {
        let of_evidence = || self.evidence.record(key).map(|record| record.tree);
        let tree = self.store.tree_of(key).or_else(of_evidence)?;
        self.owners.borrow_mut().insert(tree, *key);
        Some(tree)
    }

    fn agrees(&self, step: &Step, tree: &Digest) -> bool {
        if !step.is_pinned() {
            return true;
        }
        // By the record: the bytes may be gone.
        let key = self.owners.borrow().get(tree).copied();
        let record = key.and_then(|key| self.record(&key));
        record.is_none_or(|record| {
            self.lockfile.borrow().check(&self.profile, &step.name, &record.outputs).is_ok()
        })
    }

    fn last(&self, step: &Step) -> Option<RunRecord> {
        let here = self.store.last(&self.profile, &step.name);
        let there = self.evidence.last(&step.name).cloned();
        here.into_iter().chain(there).max_by_key(|record| record.started_ms)
    }

    fn output(&self, tree: &Digest, path: &str) -> Option<Digest> {
        let owner = self.owners.borrow().get(tree).copied();
        if let Some(key) = owner {
            let mut outputs = self.outputs.borrow_mut();
            let find =
                || self.record(&key).filter(|r| r.tree == *tree).map(|r| r.outputs).unwrap_or_default();
            let found = outputs.entry(*tree).or_insert_with(find);
            // The record has everything at the top level, and some of what is deeper.
            if found.contains_key(path) || (!found.is_empty() && !path.contains('/')) {
                return found.get(path).copied();
            }
        }
        self.manifest(tree)?.at(path)
    }

    fn environment(&self, step: &Step) -> Result<Vec<(String, String)>, String> {
        self.recorder.environment(&step.environment)
    }

    fn has_bytes(&self, tree: &Digest, path: Option<&str>) -> bool {
        self.store.has_bytes(tree) || self.evidence.open(tree, path).is_some()
    }

    fn file(&self, path: &Path) -> Option<Digest> {
        let mut files = self.files.borrow_mut();
        let digest = files.entry(path.to_owned()).or_insert_with(|| self.recorder.digest(&self.locate(path)));
        digest.as_ref().ok().copied()
    }

    fn is_published(&self, step: &Step, tree: &Digest) -> bool {
        match (&step.publish, self.manifest(tree)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(below), Some(manifest)) => self.reports.hold(below, &manifest, &self.recorder),
        }
    }
}
