//! `repro show STEP`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use stage_api::{Registry, secrets};

use super::error::CliError;
use super::{Global, format, print, print_json};
use crate::digest::Digest;
use crate::explain::{State, explain};
use crate::pipeline::needs::bytes;
use crate::pipeline::{Source, Step};
use crate::plan::{BuildState, plan};
use crate::record::{RunRecord, source_name};
use crate::store::{RerunVerdict, ResultError, VerifiedPath};
use crate::tree::{self, Entry};
use crate::workspace::Workspace;

/// Show a step: params, needs, inputs, key, and its result with files, time and machine.
#[derive(Args)]
pub struct Show {
    /// The step.
    step: String,
}

/// What is shown, as `--json` writes it.
#[derive(Serialize)]
struct Shown {
    step: String,
    stage: String,
    version: u32,
    profile: String,
    file: PathBuf,
    line: usize,
    params: String,
    needs: String,
    publish: Option<PathBuf>,
    state: State,
    /// Whether the result of the key is known by the evidence alone.
    from_evidence: bool,
    inputs: Vec<ShownInput>,
    key: Option<String>,
    result: Option<ShownResult>,
}

#[derive(Serialize)]
struct ShownInput {
    port: String,
    source: String,
    digest: Option<Digest>,
}

#[derive(Serialize)]
struct ShownResult {
    /// Whether it is the result of the key above, or of an earlier one.
    current: bool,
    /// Whether it is known by the evidence alone.
    from_evidence: bool,
    /// The folder of its bytes.
    folder: String,
    /// Whether all of its bytes are there.
    bytes_there: bool,
    /// What is wrong with its bytes; absent where they are right, or not there.
    problem: Option<String>,
    files: Vec<ShownFile>,
    record: RunRecord,
    /// What running it again on the same has shown, if that was tried.
    verified: Option<RerunVerdict>,
}

#[derive(Serialize)]
struct ShownFile {
    path: String,
    /// Absent where neither the file nor a list of files is here.
    bytes: Option<u64>,
    /// Absent for an empty folder.
    digest: Option<Digest>,
}

impl Show {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let node = project.step(&self.step)?;
        let workspace = project.workspace()?;
        let request = crate::plan::Request { targets: vec![node], forced: BTreeSet::new() };
        // A missing file of the project does not hide what is known.
        let plan = plan(pipeline, &workspace, &request);
        let step = &pipeline.graph[node];
        let key_text = plan.of(node).key_text.as_ref();
        let digests: Vec<Digest> = key_text.map(|text| text.input_digests().collect()).unwrap_or_default();
        let input_digest = |at: usize, source: &Source| match source {
            Source::File(path) => workspace.file(path),
            Source::Step { .. } => digests.get(at).copied(),
        };
        let inputs = step.inputs.iter().enumerate().map(|(at, input)| ShownInput {
            port: input.port.clone(),
            source: source_name(pipeline, &input.source),
            digest: input_digest(at, &input.source),
        });
        let current = key_text.and_then(|text| workspace.record(&text.key()));
        let is_current = current.is_some();
        let shown = Shown {
            step: step.name.clone(),
            stage: step.stage.clone(),
            version: step.version,
            profile: pipeline.profile.clone(),
            file: pipeline.file_of(step),
            line: step.line,
            params: secrets::shown(&step.params),
            needs: step.needs.to_string(),
            publish: step.publish.clone(),
            state: explain(pipeline, &workspace, &plan, node).state,
            from_evidence: key_text.is_some_and(|text| workspace.is_from_evidence(&text.key())),
            inputs: inputs.collect(),
            key: key_text.map(|text| text.key().to_string()),
            result: current.or_else(|| workspace.last(step)).map(|r| result(&workspace, r, is_current)),
        };
        if global.json {
            print_json(&shown)?;
        } else {
            print(&text(&shown, step))?;
        }
        match shown.result.and_then(|result| result.problem) {
            Some(problem) => {
                print_err!("error: the result of step `{}` cannot be used: {problem}", self.step);
                print_err!("hint: `repro make {} --force {0}` builds it again", self.step);
                Ok(ExitCode::FAILURE)
            }
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

fn result(workspace: &Workspace, record: RunRecord, current: bool) -> ShownResult {
    let key = record.key_text.key();
    let from_evidence = workspace.is_from_evidence(&key);
    let opened = workspace.open_result(&record.tree, None);
    ShownResult {
        verified: workspace.store().verdict(&key),
        current,
        from_evidence,
        bytes_there: workspace.has_bytes(&record.tree, None),
        folder: match (&opened, workspace.evidence().location(&record)) {
            (Ok(folder), _) => tree::shown(folder),
            (Err(_), Some(folder)) if from_evidence => tree::shown(&folder),
            (Err(_), _) => workspace.store().tree_location(&record.tree),
        },
        problem: opened.err().filter(|e| !matches!(e, ResultError::Missing)).map(|e| e.to_string()),
        files: match workspace.manifest(&record.tree) {
            Some(manifest) => manifest.entries().iter().map(ShownFile::from).collect(),
            None => outputs(workspace, &record),
        },
        record,
    }
}

impl From<&Entry> for ShownFile {
    fn from(entry: &Entry) -> Self {
        Self { path: entry.path.clone(), bytes: Some(entry.size), digest: entry.digest }
    }
}

/// The outputs that a record lists, with the size of the files that evidence holds.
fn outputs(workspace: &Workspace, record: &RunRecord) -> Vec<ShownFile> {
    let held: BTreeMap<String, VerifiedPath> = workspace.evidence().held(record).into_iter().collect();
    let bytes =
        |path: &str| held.get(path)?.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
    let outputs = record.outputs.iter();
    outputs
        .map(|(path, digest)| ShownFile { path: path.clone(), bytes: bytes(path), digest: Some(*digest) })
        .collect()
}

fn text(shown: &Shown, step: &Step) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:8} {value}");
    };
    let place = format!("{}:{}, profile {}", shown.file.display(), shown.line, shown.profile);
    line("step", &format!("{} ({place})", shown.step));
    line("stage", &format!("{} {}", shown.stage, shown.version));
    let origin = if shown.state == State::Fresh && shown.from_evidence { ", from evidence" } else { "" };
    line("state", &format!("{}{origin}", format::state(shown.state)));
    line("params", &shown.params);
    line("needs", &shown.needs);
    if let Some(below) = &step.publish {
        line("publish", &below.display().to_string());
    }
    for input in &shown.inputs {
        let digest = input.digest.as_ref().map_or_else(|| "not known yet".to_owned(), format::short);
        line("input", &format!("{} <- {} {digest}", input.port, input.source));
    }
    line("key", shown.key.as_deref().unwrap_or("not known before what it reads has run"));
    let Some(result) = &shown.result else {
        line("result", "none: it has not run yet");
        return text;
    };
    let record = &result.record;
    if !result.current {
        line("result", "none for this key; the last one, of another key, is");
    }
    let there = match &result.problem {
        Some(_) => ", its bytes cannot be used",
        None if result.bytes_there => "",
        None if result.from_evidence => ", not all of it in the evidence",
        None => ", bytes gone from the cache",
    };
    line("tree", &format!("{}{there}", record.tree));
    line("folder", &result.folder);
    if let Some(accepted) = &record.accepted {
        let when = format::ago(record.started_ms);
        line("accepted", &format!("{when} by {}: {}", accepted.who, accepted.because));
        line("from", &format!("the result of key {}", accepted.from));
    } else {
        let (ago, took) = (format::ago(record.started_ms), format::duration(record.seconds));
        let memory = record.peak_memory.map(|peak| format!(", at most {} of memory", bytes(peak)));
        line("ran", &format!("{ago}, took {took}{}", memory.unwrap_or_default()));
    }
    let machine = &record.machine;
    let threads = format::count(machine.threads, "thread");
    line("host", &format!("{} ({}, {threads})", machine.name, machine.device));
    if let Some(verified) = &result.verified {
        line("again", &format::verdict(verified));
    }
    match result.from_evidence {
        true => line("log", &format!("stayed on {}", machine.name)),
        false => line("log", &record.log),
    }
    line("files", &format!("{}, {}", format::count(result.files.len(), "file"), bytes(record.bytes)));
    let sizes = result.files.iter().map(|file| file.bytes.map_or_else(|| "not here".to_owned(), bytes));
    let sizes: Vec<String> = sizes.collect();
    let width = sizes.iter().map(String::len).max().unwrap_or(0);
    for (file, size) in result.files.iter().zip(&sizes) {
        let _ = writeln!(text, "  {size:>width$}  {}", tree::shown(Path::new(&file.path)));
    }
    text
}
