//! A step as a research object (RO-Crate 1.1, Provenance Run Crate 0.5): its files, those of every published step above it
//! and of the project's that these read, and for every step above it what ran, on what, when and where. Results that are
//! not in the crate are named by their digests: they may be large, and not ours to hand on.
//!
//! ```text
//! <out>/ro-crate-metadata.json
//! <out>/pipeline.ron, paper/runs.csv, …   the pipeline and files of the project, at their places
//! <out>/results/STEP/…                    what steps wrote
//! ```

mod entities;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stage_api::{Results, RunView, StageError, StepView, ToolContext};

use super::tracked::with_times;
use super::write;

/// The text where the project has no file of this name.
const NO_LICENSE: &str = "No licence is given: ask the authors before you use it.";
const LICENSE: &str = "LICENSE";

/// Signs of a path that need no escape in an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A step that ran.
struct Ran {
    step: StepView,
    run: RunView,
    /// The digest of what it wrote.
    tree: String,
}

/// A crate under construction.
struct Crate<'a> {
    results: &'a dyn Results,
    out: &'a Path,
    entities: Vec<Value>,
    /// Ids of the files and folders that lie in it.
    parts: BTreeSet<String>,
}

/// Writes the crate of the step `name` into the folder `out`.
///
/// # Errors
/// A step above it that is not up to date; a folder that holds something; files that cannot be copied.
pub(super) fn export(context: &ToolContext, name: &str, out: &Path) -> Result<(), StageError> {
    let steps = above(context.results, name)?;
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let problem = format!("--out {}: the folder is not empty; name another or remove it", out.display());
        return Err(StageError::Params(problem));
    }
    let mut package = Crate { results: context.results, out, entities: Vec::new(), parts: BTreeSet::new() };
    let places = package.copy_files(&steps, name)?;
    package.describe(&steps, name, &places);
    let graph = json!({
        "@context": ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}],
        "@graph": package.entities,
    });
    write(&out.join("ro-crate-metadata.json"), format!("{graph:#}\n").as_bytes())
}

/// The step `name` and all steps above it, each after all that it reads.
fn above(results: &dyn Results, name: &str) -> Result<Vec<Ran>, StageError> {
    let steps = results.steps();
    let mut included = BTreeSet::from([name.to_owned()]);
    if !steps.iter().any(|step| step.name == name) {
        return Err(StageError::Params(format!("there is no step `{name}`; see `repro list`")));
    }
    for step in steps.iter().rev() {
        if included.contains(&step.name) {
            included.extend(step.inputs.iter().filter_map(|input| input.step().map(ToOwned::to_owned)));
        }
    }
    let ran = |step: StepView| match (step.run.clone(), step.tree.clone()) {
        (Some(run), Some(tree)) => Ok(Ran { run: with_times(run, &step.name)?, step, tree }),
        _ => {
            let problem = format!("step `{}` is not up to date; run `repro make {name}` first", step.name);
            Err(StageError::failed(problem))
        }
    };
    steps.into_iter().filter(|step| included.contains(&step.name)).map(ran).collect()
}

impl Crate<'_> {
    /// Copies what belongs into the crate; gives the ids of what is there, by source.
    fn copy_files(&mut self, steps: &[Ran], name: &str) -> Result<BTreeMap<String, String>, StageError> {
        let mut places = BTreeMap::new();
        let file = self.results.file().to_owned();
        // The pipeline has an entity of its own, with more to say.
        let text = fs::read(&file).map_err(|error| file_error(&file, error))?;
        write(&self.out.join(self.workflow()), &text)?;
        for other in self.results.other_files() {
            self.copy(&self.results.root().join(&other), &other.to_string_lossy())?;
        }
        let license = self.results.root().join(LICENSE);
        if license.is_file() {
            self.copy(&license, LICENSE)?;
        }
        for Ran { step, .. } in steps.iter().filter(|ran| ran.step.name == name || ran.step.publish.is_some())
        {
            let id = self.copy(&self.results.output(&step.name)?, &format!("results/{}", step.name))?;
            places.insert(step.name.clone(), id);
            for source in step.inputs.iter().map(|input| &input.source) {
                let Some(path) = source.strip_prefix("./") else { continue };
                let is_within = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
                if is_within && !places.contains_key(source) {
                    let id = self.copy(&self.results.root().join(path), path)?;
                    places.insert(source.clone(), id);
                }
            }
        }
        Ok(places)
    }

    /// Copies a file or folder to `to` within the crate and tells of it; gives its id.
    fn copy(&mut self, from: &Path, to: &str) -> Result<String, StageError> {
        let id = utf8_percent_encode(to, PLAIN).to_string();
        if !from.is_dir() {
            let bytes = fs::read(from).map_err(|error| file_error(from, error))?;
            let copy = self.out.join(to);
            write(&copy, &bytes)?;
            keep_executable(from, &copy).map_err(|error| file_error(&copy, error))?;
            let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            self.entities.push(json!({
                "@id": id,
                "@type": "File",
                "name": to,
                "contentSize": bytes.len().to_string(),
                "sha256": sum,
                "encodingFormat": format_of(to),
            }));
            self.parts.insert(id.clone());
            return Ok(id);
        }
        fs::create_dir_all(self.out.join(to)).map_err(|error| file_error(&self.out.join(to), error))?;
        let mut inner = Vec::new();
        for entry in fs::read_dir(from).map_err(|error| file_error(from, error))? {
            inner.push(entry.map_err(|error| file_error(from, error))?.path());
        }
        inner.sort();
        let mut parts = Vec::new();
        for path in inner {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            parts.push(self.copy(&path, &format!("{to}/{name}"))?);
        }
        let id = format!("{id}/");
        self.entities.push(json!({"@id": id, "@type": "Dataset", "name": to, "hasPart": refs(parts)}));
        self.parts.insert(id.clone());
        Ok(id)
    }

    /// The id of the pipeline file.
    fn workflow(&self) -> String {
        let name = self.results.file().file_name().unwrap_or_default();
        utf8_percent_encode(&name.to_string_lossy(), PLAIN).to_string()
    }
}

/// Lets every reader of a copy execute it, where the owner of the original may.
fn keep_executable(from: &Path, to: &Path) -> std::io::Result<()> {
    if fs::metadata(from)?.permissions().mode() & 0o100 == 0 {
        return Ok(());
    }
    let mode = fs::metadata(to)?.permissions().mode();
    fs::set_permissions(to, Permissions::from_mode(mode | (mode & 0o444) >> 2))
}

fn file_error(path: &Path, error: std::io::Error) -> StageError {
    StageError::failed(format!("{}: {error}", path.display()))
}

/// References to entities; a single one is not a list, as the specification asks.
fn refs(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    let mut found: Vec<Value> = ids.into_iter().map(|id| json!({"@id": id.as_ref()})).collect();
    if found.len() == 1 { found.remove(0) } else { Value::Array(found) }
}

fn format_of(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "csv" => "text/csv",
        "html" => "text/html",
        "json" => "application/json",
        "md" => "text/markdown",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "tex" => "text/x-tex",
        "ron" | "txt" => "text/plain",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests;
