//! `repro log STEP`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::context::Context;
use super::error::CliError;
use super::{Global, print_bytes, print_json};
use crate::plan::{Known, Request, judge};
use crate::run::running_job;

/// How often a followed log is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// Prints the log of a step's last run, or of the one that is running.
#[derive(Args)]
pub struct Log {
    /// The step.
    step: String,
    /// Go on with what a running step writes until it ends.
    #[arg(short, long)]
    follow: bool,
}

impl Log {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let context = Context::load(global, registry)?;
        let node = context.step(&self.step)?;
        let workspace = context.workspace()?;
        let store = workspace.store();
        let running = running_job(store.root(), &self.step);
        let found = match &running {
            Some(job) => Some(job.task.log.clone()),
            None => {
                let request = Request { targets: vec![node], forced: BTreeSet::new() };
                let plan = judge(&context.pipeline, &workspace, &request);
                let of_key = plan.of(node).key_text.as_ref().map(|text| store.log(&text.key()));
                let of_last =
                    || workspace.last(&context.pipeline.graph[node]).map(|r| store.root().join(r.log));
                of_key.filter(|log| log.exists()).or_else(of_last).filter(|log| log.exists())
            }
        };
        let Some(path) = found else {
            return Err(CliError::Usage {
                message: format!("step `{}` has no log", self.step),
                hint: Some("it has not run yet, or its log was removed from the cache".to_owned()),
            });
        };
        if global.json {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
            let scalars = Some(path.with_extension("jsonl")).filter(|path| path.exists());
            print_json(&json!({
                "step": self.step, "running": running.is_some(), "log": path, "scalars": scalars, "text": text,
            }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut at = tail(&path, 0)?;
        if self.follow {
            if running.is_none() {
                tell!("`{}` is not running; this was its last log", self.step);
            }
            let mut is_running = running.is_some();
            while is_running {
                std::thread::sleep(EVERY);
                // Asked before reading, so that nothing written before the end is missed.
                is_running = running_job(store.root(), &self.step).is_some_and(|job| job.task.log == path);
                at = tail(&path, at)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what a file holds from `at` on; returns where it ends now. A file that became shorter was begun anew.
fn tail(path: &Path, at: u64) -> Result<u64, CliError> {
    let failed =
        |error: std::io::Error| CliError::usage(format!("{}: cannot be read: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let from = if length < at { 0 } else { at };
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    print_bytes(&bytes)?;
    Ok(from + bytes.len() as u64)
}
