//! Checks where steps publish: below the reports folder, and without conflicts. Declared outputs are checked here;
//! the rest is checked before the first report is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stage_api::Stage;

use super::{Checker, Unwired, normal};
use crate::command::{Command, CommandParams};
use crate::pipeline::Step;
use crate::pipeline::error::PipelineError;
use crate::pipeline::expand::{Vars, string};
use crate::pipeline::file::Raw;
use crate::publish::UNFINISHED;

impl<'a> Checker<'_, 'a> {
    pub(super) fn publish_folder(&self, raw: Raw, vars: &Vars) -> Result<PathBuf, PipelineError> {
        let folder = string(raw, vars, self.text)?;
        match normal(&folder) {
            None => Err(self.error(raw, format!("`{folder}` leads out of the reports folder"))),
            Some(path) if path.split('/').next().is_some_and(|first| folded(first) == UNFINISHED) => {
                Err(self.error(raw, format!("the name {UNFINISHED} is reserved in the reports folder")))
            }
            Some(path) if path.is_empty() => Ok(PathBuf::from(".")),
            Some(path) => Ok(PathBuf::from(path)),
        }
    }

    /// Rejects folders that some file systems treat as equal, a folder inside that of another step, and declared
    /// outputs that overwrite each other.
    pub(super) fn refuse_clashing_reports(&self, steps: &[Unwired<'_, 'a, '_>]) -> Result<(), PipelineError> {
        let published: Vec<(&Step, &Path, Raw)> = steps
            .iter()
            .filter_map(|unwired| {
                let step = &self.graph[unwired.node];
                Some((step, step.publish.as_deref()?, unwired.entry.publish?))
            })
            .collect();
        let hint = "give one of them another `publish` folder";
        let mut folders: BTreeMap<String, (&Step, &Path)> = BTreeMap::new();
        for (step, folder, at) in &published {
            let (first, other) = *folders.entry(folded_path(folder)).or_insert((step, folder));
            if other != *folder {
                let message = format!(
                    "`{}` publishes to `{}` and `{}` to `{}`, which some file systems treat as equal",
                    first.name,
                    other.display(),
                    step.name,
                    folder.display()
                );
                return Err(self.error(*at, message).hint(hint));
            }
        }
        // Only declared outputs at the top of the reports folder, next to the folders, can conflict.
        let mut outputs: BTreeMap<String, &Step> = BTreeMap::new();
        for (step, folder, at) in &published {
            for output in declared(step) {
                let path = folded_path(&folder.join(output));
                let path = path.trim_start_matches("./").to_owned();
                if let Some(first) = outputs.insert(path.clone(), step) {
                    let message = format!("`{}` and `{}` both publish `{path}`", first.name, step.name);
                    return Err(self.error(*at, message).hint(hint));
                }
            }
        }
        for (step, folder, at) in &published {
            let path = PathBuf::from(folded_path(folder));
            for outer in path.ancestors().filter(|outer| !outer.as_os_str().is_empty()) {
                let outer = outer.to_string_lossy();
                let inside = folders.get(&*outer).filter(|_| *outer != *path.to_string_lossy());
                let output = outputs.get(&*outer).filter(|other| other.name != step.name);
                if let Some(other) = inside.map(|(other, _)| other).or(output) {
                    let message = format!(
                        "`{}` publishes `{outer}`, and `{}` a folder inside it, `{}`: a file of one could \
                         replace a file of the other",
                        other.name,
                        step.name,
                        folder.display()
                    );
                    return Err(self.error(*at, message).hint(hint));
                }
            }
        }
        Ok(())
    }
}

/// The files and folders that a step declares as outputs.
fn declared(step: &Step) -> Vec<String> {
    if step.stage != Command::NAME {
        return Vec::new();
    }
    let params = CommandParams::parse(&step.params).unwrap_or_default();
    let mut outputs: Vec<String> = params.outputs.into_iter().chain(params.stdout).collect();
    outputs.sort_unstable();
    outputs.dedup();
    outputs
}

fn folded(name: &str) -> String {
    name.to_lowercase()
}

fn folded_path(path: &Path) -> String {
    folded(&path.to_string_lossy())
}
