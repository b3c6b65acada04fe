//! `repro log STEP`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::{Global, format, from_evidence, print, print_bytes, print_json, values};
use crate::escape::escaped_bytes;
use crate::key::StageKey;
use crate::pipeline::Step;
use crate::plan::{BuildState, Request, plan};
use crate::record::RunRecord;
use crate::run::{machine, running_job};
use crate::workspace::Workspace;

/// How often a followed log is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// Print the log of a step's current or last run, and the values that it measured.
#[derive(Args)]
pub struct Log {
    /// The step.
    step: String,
    /// Follow the log until the step ends.
    #[arg(short, long)]
    follow: bool,
    /// Show the values of every update, not only of 20.
    #[arg(long)]
    all: bool,
}

impl Log {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let node = project.step(&self.step)?;
        let workspace = project.workspace()?;
        let request = Request { targets: vec![node], forced: BTreeSet::new() };
        let plan = plan(pipeline, &workspace, &request);
        let key = plan.of(node).key_text.as_ref().map(|text| text.key());
        let running_log = || running(&workspace, &self.step, key.as_ref());
        let running = running_log();
        let found = running.clone().or_else(|| last(&workspace, &pipeline.graph[node], key.as_ref()));
        let record = record(&workspace, &pipeline.graph[node], key.as_ref());
        let mut values = found.as_deref().map(values::next_to).unwrap_or_default();
        if values.is_empty()
            && running.is_none()
            && let Some(record) = &record
        {
            values = values::of_result(registry, &workspace, &pipeline.graph[node], record)?;
        }
        let log = found.filter(|log| log.exists());
        if log.is_none() && record.is_none() && values.is_empty() {
            return Err(CliError::Usage {
                message: format!("step `{}` has no log", self.step),
                hint: Some(
                    "it has not run yet, wrote nothing, or its log was removed from the cache".to_owned(),
                ),
            });
        }
        if global.json {
            let text = log.as_ref().map(|log| fs::read(log).unwrap_or_default()).unwrap_or_default();
            print_json(&json!({
                "step": self.step,
                "running": running.is_some(),
                "from_evidence": record.as_ref().is_some_and(|record| is_from_evidence(&workspace, record)),
                "log": log,
                "text": String::from_utf8_lossy(&text),
                "values": values::json(&values),
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        match (&log, &record) {
            (Some(log), _) => self.print(log, running.is_some(), &running_log)?,
            (None, Some(record)) => self.print_without_log(&workspace, record, !values.is_empty()),
            (None, None) => {}
        }
        // `watch` follows the values of a running step.
        let is_followed = self.follow && running.is_some();
        if !values.is_empty() && !is_followed {
            let (table, shown, total) = values::table(&values, self.all);
            let gap = if log.is_some() { "\n" } else { "" };
            print(&format!("{gap}{table}"))?;
            if shown < total {
                print_err!("{shown} of {}; --all shows every one", format::count(total, "update"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a log, and what is added to it until the step ends, if that is requested.
    fn print(
        &self,
        path: &Path,
        mut is_running: bool,
        running_log: &dyn Fn() -> Option<PathBuf>,
    ) -> Result<(), CliError> {
        // Held open: at the end of the step the file is moved.
        let mut log = Tail::of(path)?;
        log.print()?;
        if !self.follow {
            return Ok(());
        }
        if !is_running {
            print_err!("`{}` is not running; this was its last log", self.step);
        }
        while is_running {
            std::thread::sleep(EVERY);
            // Asked before reading, so that nothing written before the end is missed.
            is_running = running_log().is_some_and(|log| log == path);
            log.print()?;
        }
        Ok(())
    }

    /// Prints why there is no log: the step printed nothing, or it ran on another machine.
    fn print_without_log(&self, workspace: &Workspace, record: &RunRecord, has_values: bool) {
        let ran = from_evidence::ran(record);
        if is_from_evidence(workspace, record) {
            print_err!("`{}` is from the evidence: it {ran}, and its log stayed there", self.step);
            let fast = from_evidence::throughput(record);
            if let Some(fast) = fast.filter(|_| has_values) {
                print_err!("it did {fast}; the evidence holds these values:");
            }
        } else if record.machine.name != machine::name() {
            print_err!("`{}` {ran}, and its log stayed there", self.step);
        } else if !has_values {
            print_err!("`{}` has run and said nothing", self.step);
        }
    }
}

fn is_from_evidence(workspace: &Workspace, record: &RunRecord) -> bool {
    workspace.is_from_evidence(&record.key_text.key())
}

/// The record of a step's key, or of its last execution under another key.
pub fn record(workspace: &Workspace, step: &Step, key: Option<&StageKey>) -> Option<RunRecord> {
    key.and_then(|key| workspace.record(key)).or_else(|| workspace.last(step))
}

/// The log of an execution of a step that is under way.
pub fn running(workspace: &Workspace, step: &str, key: Option<&StageKey>) -> Option<PathBuf> {
    // It may be found by its job, whatever its key, or by the claim on the step's key.
    let store = workspace.store();
    match running_job(store.root(), step) {
        Some(job) => Some(job.task.log),
        None => key.filter(|key| store.is_claimed(key)).and_then(|key| store.open_log(key)),
    }
}

/// The log of a step's last execution: of one that was killed; of its key; of the last one under another key. The file is
/// not there when the step wrote only scalars, which are in the file next to it.
pub fn last(workspace: &Workspace, step: &Step, key: Option<&StageKey>) -> Option<PathBuf> {
    let store = workspace.store();
    let is_there = |log: &PathBuf| log.exists() || log.with_extension("jsonl").exists();
    let left = key.and_then(|key| store.open_log(key));
    let of_key = || key.map(|key| store.log(key)).filter(is_there);
    let of_last = || workspace.last(step).and_then(|record| store.recorded_log(&record));
    left.or_else(of_key).or_else(of_last).filter(is_there)
}

/// A file of which what is new is printed.
struct Tail<'a> {
    path: &'a Path,
    file: File,
    /// Up to where it was printed.
    at: u64,
}

impl<'a> Tail<'a> {
    fn of(path: &'a Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(unreadable(path))?;
        Ok(Self { path, file, at: 0 })
    }

    fn print(&mut self) -> Result<(), CliError> {
        let failed = unreadable(self.path);
        let length = self.file.metadata().map_err(&failed)?.len();
        // A file that became shorter was started again.
        self.at = if length < self.at { 0 } else { self.at };
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| self.file.read_to_end(&mut bytes))
            .map_err(&failed)?;
        if std::io::stdout().is_terminal() {
            // A character of which only a part is there yet is left for the next time.
            let half = std::str::from_utf8(&bytes).err().filter(|error| error.error_len().is_none());
            bytes.truncate(half.map_or(bytes.len(), |half| half.valid_up_to()));
            print_bytes(escaped_bytes(&bytes).as_bytes())?;
        } else {
            print_bytes(&bytes)?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> CliError {
    move |error| CliError::usage(format!("{}: cannot be read: {error}", path.display()))
}
