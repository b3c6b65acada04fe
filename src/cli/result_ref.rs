//! `STEP[/FILE]` on the command line: the current result of a step, or a file or folder in it.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::CliError;
use super::status;
use crate::explain::explain;
use crate::pipeline::nearest;
use crate::plan::BuildState;
use crate::project::Project;
use crate::store::{ResultError, VerifiedPath};
use crate::tree::{Entry, Manifest};
use crate::workspace::Workspace;

/// A result whose bytes match their digest.
pub struct FoundResult {
    /// The step.
    pub step: String,
    /// The path within its output; `None` for all of it.
    pub path: Option<String>,
    /// Where it is.
    pub location: VerifiedPath,
    /// The output that it belongs to.
    manifest: Option<Manifest>,
}

impl FoundResult {
    /// Finds what `reference` names.
    ///
    /// # Errors
    /// When there is no such step, when it has no result for its current key, or when the bytes are missing or damaged.
    pub fn find(project: &Project, workspace: &Workspace, reference: &str) -> Result<Self, CliError> {
        let (step, path) = match reference.trim_end_matches('/').split_once('/') {
            Some((step, path)) => (step, Some(path)),
            None => (reference.trim_end_matches('/'), None),
        };
        let node = project.step(step)?;
        let pipeline = project.pipeline()?;
        let plan = project.plan(workspace, vec![node], BTreeSet::new())?;
        let key = plan.of(node).key_text.as_ref().map(|text| text.key());
        // Whether its bytes are needed, for reports for example, does not matter here.
        let Some((key, tree)) = key.and_then(|key| Some((key, workspace.tree(&key)?))) else {
            let reason = status::root_reason(&explain(pipeline, workspace, &plan, node));
            return Err(CliError::Result {
                message: format!("step `{step}` is not up to date: {reason}"),
                hint: Some(format!("`repro make {step}` runs it")),
            });
        };
        let manifest = workspace.manifest(&tree);
        let location = workspace.open_result(&tree, path).map_err(|error| CliError::Result {
            message: match &error {
                ResultError::Missing if workspace.store().tree_of(&key).is_none() => {
                    let what = path.map_or_else(|| "all of its output".to_owned(), |path| format!("`{path}`"));
                    format!(
                        "step `{step}` is known from the evidence alone, which holds its record and not {what}"
                    )
                }
                ResultError::Missing => format!("the result of step `{step}` is no longer in the cache"),
                error => format!("the result of step `{step}` cannot be used: {error}"),
            },
            hint: Some(match &error {
                ResultError::Missing if workspace.store().tree_of(&key).is_none() => format!(
                    "`repro make {step} --no-evidence` runs it here; `repro pull {step}` fetches it from a remote cache"
                ),
                _ => format!(
                    "`repro make {step} --force {step}` runs it again; `repro pull {step}` fetches it from a remote cache"
                ),
            }),
        })?;
        let manifest = manifest.as_deref().cloned();
        if let Some(path) = path.filter(|_| !location.exists()) {
            let names: Vec<&str> =
                manifest.iter().flat_map(Manifest::entries).map(|entry| entry.path.as_str()).collect();
            return Err(CliError::Result {
                message: format!("the result of step `{step}` has no file or folder `{path}`"),
                hint: nearest(path, names).or_else(|| Some(format!("`repro show {step}` lists its files"))),
            });
        }
        Ok(Self { step: step.to_owned(), path: path.map(str::to_owned), location, manifest })
    }

    /// Its files, with paths relative to it; `None` where it is a file itself.
    ///
    /// # Errors
    /// When a part of a folder of the evidence cannot be read.
    pub fn files(&self) -> Result<Option<Vec<Entry>>, CliError> {
        if !self.location.is_dir() {
            return Ok(None);
        }
        let known = match (&self.manifest, &self.path) {
            (Some(manifest), Some(path)) => manifest.below(path),
            (Some(manifest), None) => Some(manifest.clone()),
            (None, _) => None,
        };
        let manifest = match known {
            Some(manifest) => manifest,
            None => Manifest::of_folder(&self.location).map_err(|error| CliError::Result {
                message: format!("the result of step `{}` cannot be read: {error}", self.step),
                hint: None,
            })?,
        };
        Ok(Some(manifest.entries().to_vec()))
    }

    /// The last part of its path: what a file is called where it is copied to.
    pub fn file_name(&self) -> &str {
        let path = self.path.as_deref().unwrap_or(&self.step);
        Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
    }
}
