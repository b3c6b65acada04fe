//! What the engine knows of the disk in one place: the store, the project's files, the reports. It answers what
//! judging asks ([`Known`]) and remembers the answers, so that each record and manifest is read once.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::digest::Digest;
use crate::key::StageKey;
use crate::pins::Pins;
use crate::pipeline::{Pipeline, Source, Step};
use crate::plan::Known;
use crate::publish::Reports;
use crate::record::RunRecord;
use crate::store::{ContentStore, Found, StatCache, StoreError};
use crate::tree::{Manifest, TreeError};

/// The disk as one pipeline sees it.
pub struct Workspace {
    store: ContentStore,
    reports: Reports,
    root: PathBuf,
    profile: String,
    pins: RefCell<Pins>,
    files: RefCell<BTreeMap<PathBuf, Result<Digest, TreeError>>>,
    digests: RefCell<StatCache>,
    records: RefCell<HashMap<StageKey, Option<RunRecord>>>,
    outputs: RefCell<HashMap<Digest, BTreeMap<String, Digest>>>,
    manifests: RefCell<HashMap<Digest, Option<Rc<Manifest>>>>,
    history: OnceCell<Vec<RunRecord>>,
    damaged: RefCell<BTreeSet<PathBuf>>,
}

/// An input file of the project that is missing or cannot be read.
#[derive(Debug)]
pub struct UnusableFile {
    /// The step that reads it.
    pub step: String,
    /// Where the pipeline file names it: line and column.
    pub position: (usize, usize),
    /// The file, as the pipeline names it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Workspace {
    /// The workspace of `pipeline` with its store in `cache` and its reports in `reports` (a folder per profile
    /// below it). Creates nothing.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub fn open(pipeline: &Pipeline, cache: &Path, reports: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            store: ContentStore::open(cache)?,
            reports: Reports::new(reports.join(&pipeline.profile), &pipeline.profile),
            root: pipeline.root.clone(),
            profile: pipeline.profile.clone(),
            pins: RefCell::new(Pins::load(&pipeline.file)?),
            files: RefCell::default(),
            digests: RefCell::new(StatCache::open(&cache.join("stat-cache"))),
            records: RefCell::default(),
            outputs: RefCell::default(),
            manifests: RefCell::default(),
            history: OnceCell::new(),
            damaged: RefCell::default(),
        })
    }

    /// The store.
    pub fn store(&self) -> &ContentStore {
        &self.store
    }

    /// The reports.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// The stat cache of project and report files.
    pub fn digests(&self) -> std::cell::RefMut<'_, StatCache> {
        self.digests.borrow_mut()
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
                        position: input.position,
                        path: path.clone(),
                        problem,
                    });
                }
            }
        }
        None
    }

    /// Where a file of the project lies.
    pub fn locate(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Whether a file of the project still is what it was when it was first asked about.
    pub fn is_unchanged(&self, path: &Path) -> bool {
        let now = self.digests.borrow_mut().digest(&self.locate(path)).ok();
        now == self.file(path)
    }

    /// Takes note of a record that was just written.
    pub fn learn(&self, key: StageKey, record: RunRecord) {
        self.outputs.borrow_mut().insert(record.tree, record.outputs.clone());
        self.manifests.borrow_mut().remove(&record.tree);
        self.records.borrow_mut().insert(key, Some(record));
    }

    /// Holds the outputs of a step that just ran against what is noted of it, and notes what is not.
    ///
    /// # Errors
    /// A sentence that says what differs, or that it cannot be noted.
    pub fn pin(&self, step: &Step, outputs: &BTreeMap<String, Digest>) -> Result<(), String> {
        let mut pins = self.pins.borrow_mut();
        pins.check(&self.profile, &step.name, outputs)?;
        pins.add(&self.profile, &step.name, outputs)
            .map_err(|error| format!("what it brought cannot be noted beside the pipeline file: {error}"))
    }

    /// Every record that was there when first asked, oldest first.
    pub fn history(&self) -> &[RunRecord] {
        self.history.get_or_init(|| self.store.records())
    }

    /// What is in a tree.
    pub fn manifest(&self, tree: &Digest) -> Option<Rc<Manifest>> {
        let mut manifests = self.manifests.borrow_mut();
        manifests.entry(*tree).or_insert_with(|| self.store.manifest(tree).map(Rc::new)).clone()
    }

    /// Records that were found damaged and count as absent.
    pub fn damaged(&self) -> Vec<PathBuf> {
        self.damaged.borrow().iter().cloned().collect()
    }
}

impl Known for Workspace {
    fn record(&self, key: &StageKey) -> Option<RunRecord> {
        if let Some(known) = self.records.borrow().get(key) {
            return known.clone();
        }
        let found = match self.store.record(key) {
            Found::Nothing => None,
            Found::Damaged(path) => {
                self.damaged.borrow_mut().insert(path);
                None
            }
            // A record under another key's name is as good as none.
            Found::Record(record) if record.key_text.key() != *key => None,
            Found::Record(record) => Some(*record),
        };
        if let Some(record) = &found {
            self.outputs.borrow_mut().insert(record.tree, record.outputs.clone());
        }
        self.records.borrow_mut().insert(*key, found.clone());
        found
    }

    fn agrees(&self, step: &Step, record: &RunRecord) -> bool {
        !step.is_pinned() || self.pins.borrow().check(&self.profile, &step.name, &record.outputs).is_ok()
    }

    fn last(&self, step: &Step) -> Option<RunRecord> {
        self.history().iter().rev().find(|r| r.step == step.name && r.profile == self.profile).cloned()
    }

    fn output(&self, tree: &Digest, path: &str) -> Option<Digest> {
        if let Some(outputs) = self.outputs.borrow().get(tree)
            && !path.contains('/')
        {
            return outputs.get(path).copied();
        }
        self.manifest(tree)?.at(path)
    }

    fn has_bytes(&self, tree: &Digest) -> bool {
        self.store.has_bytes(tree)
    }

    fn file(&self, path: &Path) -> Option<Digest> {
        let mut files = self.files.borrow_mut();
        let digest = files
            .entry(path.to_owned())
            .or_insert_with(|| self.digests.borrow_mut().digest(&self.locate(path)));
        digest.as_ref().ok().copied()
    }

    fn is_published(&self, step: &Step, tree: &Digest) -> bool {
        match (&step.publish, self.manifest(tree)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(below), Some(manifest)) => {
                self.reports.hold(below, &manifest, &mut self.digests.borrow_mut())
            }
        }
    }
}
