//! What most subcommands begin with: the pipeline, the workspace, the targets by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use petgraph::graph::NodeIndex;
use stage_api::Registry;

use super::Global;
use super::error::CliError;
use crate::digest::Digest;
use crate::evidence::Evidence;
use crate::pipeline::{Pipeline, nearest};
use crate::plan::{Plan, Request, judge};
use crate::store::{ContentStore, Facts, StoreError, stamp_of};
use crate::workspace::Workspace;

/// Where a project is, before anything of it was read.
#[derive(Clone)]
pub struct Project {
    file: PathBuf,
    profile: Option<String>,
    root: PathBuf,
    cache: PathBuf,
    /// Whether evidence counts.
    evidence: bool,
    /// What stages there are, and which build of the program this is.
    program: Digest,
}

impl Project {
    /// The project that the options name.
    pub fn locate(global: &Global, registry: &Registry) -> Result<Self, CliError> {
        // Steps run in processes of their own; they get paths that do not depend on a current folder.
        let absolute = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let path = std::path::absolute(path).map_err(|error| {
                CliError::usage(format!("{}: cannot be located: {error}", path.display()))
            })?;
            // Jobs and records are JSON, which holds no other text.
            match path.to_str() {
                Some(_) => Ok(path),
                None => Err(CliError::Usage {
                    message: format!("{}: the name of this folder is not UTF-8", path.display()),
                    hint: Some("rename the folder, or move the project to another one".to_owned()),
                }),
            }
        };
        let root = absolute(global.file.parent().unwrap_or(Path::new(".")))?;
        let cache = match &global.cache {
            Some(cache) => absolute(cache)?,
            None => root.join("cache"),
        };
        Ok(Self {
            file: global.file.clone(),
            // A variable that is set to nothing counts as not set.
            profile: global.profile.clone().filter(|profile| !profile.is_empty()),
            root,
            cache,
            evidence: !global.no_evidence,
            program: program(registry),
        })
    }

    /// Its store.
    pub fn facts(&self) -> Result<Facts, CliError> {
        Ok(Facts::open(&self.cache)?)
    }

    /// What is asked for by asking for these targets, as a name.
    pub fn request(&self, targets: &[String]) -> Digest {
        let file = self.root.join(self.file.file_name().unwrap_or_default());
        Digest::of_kind(
            "repro request v1",
            format!("{file:?} {:?} {} {} {targets:?}", self.profile, self.evidence, self.program).as_bytes(),
        )
    }

    /// What a checked pipeline of this text depends on, as a name.
    fn kept_as(&self, text: &str) -> Digest {
        let text = Digest::of_bytes(text.as_bytes());
        Digest::of_kind("repro pipeline v1", format!("{text} {:?} {}", self.profile, self.program).as_bytes())
    }
}

/// The stages with their versions and the file of this program: another build may have other defaults.
fn program(registry: &Registry) -> Digest {
    let stages: Vec<_> = registry.iter().map(|stage| (stage.name(), stage.version())).collect();
    let stamp = std::env::current_exe().and_then(|file| stamp_of(&file)).ok();
    Digest::of_kind("repro program v1", format!("{stages:?} {stamp:?}").as_bytes())
}

/// A loaded pipeline and where its store is.
pub struct Context {
    /// The pipeline.
    pub pipeline: Pipeline,
    project: Project,
    /// The name to keep the pipeline under, if it was parsed just now.
    parsed: Option<Digest>,
}

impl Context {
    /// Loads the pipeline that the options name.
    pub fn load(global: &Global, registry: &Registry) -> Result<Self, CliError> {
        Self::of(Project::locate(global, registry)?, registry)
    }

    /// Loads the pipeline of a project: as it was kept, or by parsing it.
    pub fn of(project: Project, registry: &Registry) -> Result<Self, CliError> {
        let text = Pipeline::read(&project.file)?;
        let name = project.kept_as(&text);
        let kept = ContentStore::pipeline(&project.cache, &name);
        let kept = kept.and_then(|bytes| Pipeline::from_bytes(&bytes, &project.file));
        let (mut pipeline, parsed) = match kept {
            Some(pipeline) => (pipeline, None),
            None => {
                (Pipeline::parse(&project.file, &text, project.profile.as_deref(), registry)?, Some(name))
            }
        };
        pipeline.root = project.root.clone();
        Ok(Self { pipeline, project, parsed })
    }

    /// Keeps the pipeline for the next time, if it is not kept yet.
    pub fn keep(&self, store: &ContentStore) -> Result<(), StoreError> {
        match (&self.parsed, self.pipeline.to_bytes()) {
            (Some(name), Some(bytes)) => store.keep_pipeline(name, &bytes),
            _ => Ok(()),
        }
    }

    /// What is asked for by asking for these targets, as a name.
    pub fn request(&self, targets: &[String]) -> Digest {
        self.project.request(targets)
    }

    /// The same file with another of its profiles.
    pub fn of_profile(&self, profile: &str, registry: &Registry) -> Result<Self, CliError> {
        Self::of(Project { profile: Some(profile.to_owned()), ..self.project.clone() }, registry)
    }

    /// Its pipeline file, as an absolute path.
    pub fn file(&self) -> PathBuf {
        self.pipeline.root.join(self.pipeline.file.file_name().unwrap_or_default())
    }

    /// The pipeline in another file, an absolute path, with the same cache.
    pub fn of_file(&self, file: PathBuf, registry: &Registry) -> Result<Self, CliError> {
        let root = file.parent().unwrap_or(Path::new("/")).to_owned();
        Self::of(Project { file, root, profile: None, ..self.project.clone() }, registry)
    }

    /// Opens the workspace, with nothing known yet.
    pub fn workspace(&self) -> Result<Workspace, CliError> {
        self.workspace_with(self.project.facts()?)
    }

    /// The workspace, with what the store knows already read.
    pub fn workspace_with(&self, facts: Facts) -> Result<Workspace, CliError> {
        let evidence = if self.project.evidence {
            Evidence::load(&self.evidence_folder())?
        } else {
            Evidence::default()
        };
        Ok(Workspace::with(&self.pipeline, facts, &self.pipeline.root.join("reports"), evidence)?)
    }

    /// Where the cache is, or will be.
    pub fn cache(&self) -> &Path {
        &self.project.cache
    }

    /// Where evidence of this profile lies.
    pub fn evidence_folder(&self) -> PathBuf {
        self.pipeline.root.join("reports/evidence").join(&self.pipeline.profile)
    }

    /// The steps of targets by name. No name at all means the target `all`, or every step where there is no such
    /// target.
    pub fn targets(&self, names: &[String]) -> Result<Vec<NodeIndex>, CliError> {
        if names.is_empty() {
            let all = self.pipeline.targets.get("all").cloned();
            return Ok(all.unwrap_or_else(|| self.pipeline.graph.node_indices().collect()));
        }
        let mut nodes = Vec::new();
        for name in names {
            nodes.extend(self.target(name)?);
        }
        Ok(nodes)
    }

    fn target(&self, name: &str) -> Result<&[NodeIndex], CliError> {
        self.pipeline.targets.get(name).map(Vec::as_slice).ok_or_else(|| CliError::Usage {
            message: format!("{}: there is no target or step `{name}`", self.pipeline.file.display()),
            hint: nearest(name, self.pipeline.targets.keys().map(String::as_str))
                .or_else(|| Some("`repro list` shows them all".to_owned())),
        })
    }

    /// A step by name.
    pub fn step(&self, name: &str) -> Result<NodeIndex, CliError> {
        let names = || self.pipeline.graph.node_weights().map(|step| step.name.as_str());
        self.pipeline.graph.node_indices().find(|node| self.pipeline.graph[*node].name == name).ok_or_else(
            || CliError::Usage {
                message: format!("{}: there is no step `{name}`", self.pipeline.file.display()),
                hint: nearest(name, names()).or_else(|| Some("`repro list` shows them all".to_owned())),
            },
        )
    }

    /// Judges the targets, and refuses when a file of the project that they need cannot be used.
    pub fn judge<'a>(
        &'a self,
        workspace: &'a Workspace,
        targets: Vec<NodeIndex>,
        forced: BTreeSet<NodeIndex>,
    ) -> Result<Plan<'a>, CliError> {
        let plan = judge(&self.pipeline, workspace, &Request { targets, forced });
        match workspace.unusable_file(plan.needed().map(|node| &self.pipeline.graph[node])) {
            Some(file) => Err(CliError::File { pipeline: self.pipeline.file.clone(), file: Box::new(file) }),
            None => Ok(plan),
        }
    }
}
