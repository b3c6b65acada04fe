//! A project: where it is, which stages its pipeline may use, and the pipeline itself, which is read at its first
//! use. It knows no results.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use petgraph::graph::NodeIndex;
use stage_api::Registry;

use crate::digest::Digest;
use crate::pipeline::{Experiment, ExperimentError, Pipeline, PipelineError, nearest};
use crate::plan::{Plan, Request, plan};
use crate::store::{ContentStore, StoreError, stamp_of};
use crate::workspace::{UnusableFile, Workspace};

/// What a person says about a project.
#[derive(Debug, Clone)]
pub struct Location {
    /// The pipeline file.
    pub file: PathBuf,
    /// The profile; `None` for the default one of the file.
    pub profile: Option<String>,
    /// The folder of results; `None` for `cache` next to the pipeline file.
    pub cache: Option<PathBuf>,
    /// Whether `reports/evidence` is ignored.
    pub no_evidence: bool,
    /// What is changed of the pipeline file.
    pub experiment: Experiment,
}

impl Location {
    /// The pipeline `file` with everything else as it is by default.
    pub fn of(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            profile: None,
            cache: None,
            no_evidence: false,
            experiment: Experiment::default(),
        }
    }
}

/// A project on the disk. Its pipeline is that of its first use.
pub struct Project<'r> {
    registry: &'r Registry,
    file: PathBuf,
    profile: Option<String>,
    root: PathBuf,
    cache: PathBuf,
    with_evidence: bool,
    experiment: Experiment,
    /// The stages and which build of the program this is.
    program: Digest,
    pipeline: OnceCell<Loaded>,
}

/// The pipeline, and what to keep of it, with its name, if it was parsed just now.
struct Loaded {
    pipeline: Pipeline,
    parsed: Option<(Digest, Vec<u8>)>,
}

/// Why a project cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The pipeline file is wrong.
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such folder, target or step.
    #[error("{message}")]
    Name {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file of the project that a step reads cannot be used.
    #[error("{}", file.message(pipeline))]
    File {
        /// The pipeline file.
        pipeline: PathBuf,
        /// The file, and the step that reads it.
        file: Box<UnusableFile>,
    },
}

impl From<PipelineError> for ProjectError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}

impl<'r> Project<'r> {
    /// The project at `location`. Reads nothing of it.
    ///
    /// # Errors
    /// When the folder cannot be located or its name is not UTF-8.
    pub fn locate(location: &Location, registry: &'r Registry) -> Result<Self, ProjectError> {
        let root = absolute(location.file.parent().unwrap_or(Path::new(".")))?;
        let cache = match &location.cache {
            Some(cache) => absolute(cache)?,
            None => root.join("cache"),
        };
        Ok(Self {
            registry,
            file: location.file.clone(),
            // A variable that is set to nothing counts as not set.
            profile: location.profile.clone().filter(|profile| !profile.is_empty()),
            root,
            cache,
            with_evidence: !location.no_evidence,
            experiment: location.experiment.clone(),
            program: program(registry),
            pipeline: OnceCell::new(),
        })
    }

    /// The same file with another of its profiles.
    pub fn with_profile(&self, profile: &str) -> Self {
        Self { profile: Some(profile.to_owned()), ..self.unread(self.file.clone(), self.root.clone()) }
    }

    /// The pipeline in another file, an absolute path, with the same cache.
    pub fn with_file(&self, file: PathBuf) -> Self {
        let root = file.parent().unwrap_or(Path::new("/")).to_owned();
        Self { profile: None, ..self.unread(file, root) }
    }

    fn unread(&self, file: PathBuf, root: PathBuf) -> Self {
        Self {
            registry: self.registry,
            file,
            profile: self.profile.clone(),
            root,
            cache: self.cache.clone(),
            with_evidence: self.with_evidence,
            experiment: self.experiment.clone(),
            program: self.program,
            pipeline: OnceCell::new(),
        }
    }

    /// The stages.
    pub fn registry(&self) -> &'r Registry {
        self.registry
    }

    /// Where the cache is, or will be.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether the pipeline is not that of the file; then nothing is published.
    pub fn is_experiment(&self) -> bool {
        !self.experiment.is_empty()
    }

    /// The folder of the pipeline file.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pipeline: as it was kept when it was last parsed, or by parsing the file.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    pub fn pipeline(&self) -> Result<&Pipeline, ProjectError> {
        if let Some(loaded) = self.pipeline.get() {
            return Ok(&loaded.pipeline);
        }
        let text = Pipeline::read(&self.file)?;
        let name = self.parsed_name(&Digest::of_bytes(text.as_bytes()));
        let kept = ContentStore::pipeline(&self.cache, &name);
        let kept = kept.and_then(|bytes| Pipeline::from_bytes(&bytes, &self.file));
        let (mut pipeline, parsed) = match kept {
            Some(pipeline) => (pipeline, None),
            None => {
                let pipeline = Pipeline::parse(&self.file, &text, self.profile.as_deref(), self.registry)?;
                let parsed = pipeline.to_bytes().map(|bytes| (name, bytes));
                (pipeline, parsed)
            }
        };
        pipeline.root.clone_from(&self.root);
        if !self.experiment.is_empty() {
            let varied = pipeline.vary(&self.experiment, self.registry);
            varied.map_err(|ExperimentError { message, hint }| ProjectError::Name { message, hint })?;
        }
        Ok(&self.pipeline.get_or_init(|| Loaded { pipeline, parsed }).pipeline)
    }

    /// Keeps the parsed pipeline for the next process, and that this project uses the store.
    ///
    /// # Errors
    /// When the pipeline was not read, or the store cannot be written.
    pub fn save(&self, store: &ContentStore) -> Result<(), ProjectError> {
        self.pipeline()?;
        if let Some((name, bytes)) = self.pipeline.get().and_then(|loaded| loaded.parsed.as_ref()) {
            store.keep_pipeline(name, bytes)?;
        }
        Ok(store.register(&self.absolute_file())?)
    }

    /// What a parsed pipeline of this text depends on, as a name.
    fn parsed_name(&self, text: &Digest) -> Digest {
        let depends_on = format!("{text} {:?} {}", self.profile, self.program);
        Digest::of_kind("repro pipeline v1", depends_on.as_bytes())
    }

    /// The pipeline file, as an absolute path.
    pub fn absolute_file(&self) -> PathBuf {
        self.root.join(self.file.file_name().unwrap_or_default())
    }

    /// The digest that names a request for these targets.
    pub fn request(&self, targets: &[String]) -> Digest {
        let file = self.absolute_file();
        let request = format!(
            "{file:?} {:?} {} {} {targets:?} {:?}",
            self.profile, self.with_evidence, self.program, self.experiment
        );
        Digest::of_kind("repro request v2", request.as_bytes())
    }

    /// Opens the workspace.
    ///
    /// # Errors
    /// When the pipeline is wrong or the store cannot be used.
    pub fn workspace(&self) -> Result<Workspace, ProjectError> {
        let mut workspace = Workspace::open(&self.cache)?;
        self.load(&mut workspace)?;
        Ok(workspace)
    }

    /// Reads into an open workspace what planning needs.
    ///
    /// # Errors
    /// As [`Project::workspace`].
    pub fn load(&self, workspace: &mut Workspace) -> Result<(), ProjectError> {
        Ok(workspace.load(self.pipeline()?, self.with_evidence)?)
    }

    /// The steps of targets by name. No name at all means the target `all`, or every step where there is no such
    /// target.
    ///
    /// # Errors
    /// When the pipeline is wrong or has no such target.
    pub fn targets(&self, names: &[String]) -> Result<Vec<NodeIndex>, ProjectError> {
        let pipeline = self.pipeline()?;
        if names.is_empty() {
            let all = pipeline.targets.get("all").cloned();
            return Ok(all.unwrap_or_else(|| pipeline.graph.node_indices().collect()));
        }
        let mut nodes = Vec::new();
        for name in names {
            let target = pipeline.targets.get(name).ok_or_else(|| {
                self.unknown("target or step", name, pipeline.targets.keys().map(String::as_str))
            })?;
            nodes.extend(target);
        }
        Ok(nodes)
    }

    /// A step by name.
    ///
    /// # Errors
    /// When the pipeline is wrong or has no such step.
    pub fn step(&self, name: &str) -> Result<NodeIndex, ProjectError> {
        let graph = &self.pipeline()?.graph;
        let found = graph.node_indices().find(|node| graph[*node].name == name);
        let names = graph.node_weights().map(|step| step.name.as_str());
        found.ok_or_else(|| self.unknown("step", name, names))
    }

    fn unknown<'a>(&self, what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> ProjectError {
        ProjectError::Name {
            message: format!("{}: there is no {what} `{name}`", self.file.display()),
            hint: nearest(name, known).or_else(|| Some("`repro list` shows them all".to_owned())),
        }
    }

    /// Plans the targets, and refuses when a file of the project that they need cannot be used.
    ///
    /// # Errors
    /// When the pipeline is wrong, or such a file is missing or cannot be read.
    pub fn plan<'a>(
        &'a self,
        workspace: &'a Workspace,
        targets: Vec<NodeIndex>,
        forced: BTreeSet<NodeIndex>,
    ) -> Result<Plan<'a>, ProjectError> {
        let pipeline = self.pipeline()?;
        let plan = plan(pipeline, workspace, &Request { targets, forced });
        match workspace.unusable_file(plan.needed().map(|node| &pipeline.graph[node])) {
            Some(file) => Err(ProjectError::File { pipeline: self.file.clone(), file: Box::new(file) }),
            None => Ok(plan),
        }
    }
}

/// Steps run in processes of their own: they get paths that do not depend on a current folder.
fn absolute(path: &Path) -> Result<PathBuf, ProjectError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let path = std::path::absolute(path).map_err(|error| ProjectError::Name {
        message: format!("{}: cannot be located: {error}", path.display()),
        hint: None,
    })?;
    // Jobs and records are JSON, which holds no other text.
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(ProjectError::Name {
            message: format!("{}: the name of this folder is not UTF-8", path.display()),
            hint: Some("rename the folder, or move the project to another one".to_owned()),
        }),
    }
}

/// The stages with their versions and the file of this program: another build may have other defaults.
fn program(registry: &Registry) -> Digest {
    let stages: Vec<_> = registry.iter().map(|stage| (stage.name(), stage.version())).collect();
    let stamp = std::env::current_exe().and_then(|file| stamp_of(&file)).ok();
    Digest::of_kind("repro program v1", format!("{stages:?} {stamp:?}").as_bytes())
}
