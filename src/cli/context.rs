//! What most subcommands begin with: the pipeline, the workspace, the targets by name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use petgraph::graph::NodeIndex;
use stage_api::Registry;

use super::Global;
use super::error::CliError;
use crate::pipeline::{Pipeline, nearest};
use crate::plan::{Plan, Request, judge};
use crate::workspace::Workspace;

/// A loaded pipeline and where its store is.
pub struct Context {
    /// The pipeline.
    pub pipeline: Pipeline,
    cache: PathBuf,
}

impl Context {
    /// Loads the pipeline that the options name.
    pub fn load(global: &Global, registry: &Registry) -> Result<Self, CliError> {
        // A variable that is set to nothing counts as not set.
        let profile = global.profile.as_deref().filter(|profile| !profile.is_empty());
        let mut pipeline = Pipeline::load(&global.file, profile, registry)?;
        // Steps run in processes of their own; they get paths that do not depend on a current folder.
        let absolute = |path: &PathBuf| {
            let path = if path.as_os_str().is_empty() { std::path::Path::new(".") } else { path };
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
        pipeline.root = absolute(&pipeline.root)?;
        let cache = match &global.cache {
            Some(cache) => absolute(cache)?,
            None => pipeline.root.join("cache"),
        };
        Ok(Self { pipeline, cache })
    }

    /// The same file with another of its profiles.
    pub fn of_profile(&self, profile: &str, registry: &Registry) -> Result<Self, CliError> {
        let mut pipeline = Pipeline::load(&self.pipeline.file, Some(profile), registry)?;
        pipeline.root.clone_from(&self.pipeline.root);
        Ok(Self { pipeline, cache: self.cache.clone() })
    }

    /// Opens the workspace, with nothing known yet.
    pub fn workspace(&self) -> Result<Workspace, CliError> {
        Ok(Workspace::open(&self.pipeline, &self.cache, &self.pipeline.root.join("reports"))?)
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
            Some(file) => Err(CliError::File { pipeline: self.pipeline.file.clone(), file }),
            None => Ok(plan),
        }
    }
}
