//! `repro step JOBFILE`: one step in a process of its own. Not for people; `make` calls it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use crate::run::{Outcome, child};

/// Runs one step as described by a job file.
#[derive(Args)]
pub struct Step {
    /// The job.
    job: PathBuf,
}

impl Step {
    pub fn run(&self, registry: &Registry) -> Result<ExitCode, CliError> {
        let failed = |error| CliError::usage(format!("{}: cannot be run: {error}", self.job.display()));
        // Not locked for good: a library that prints must not wait for ever.
        let outcome = child::run_job(registry, &self.job, Unlocked).map_err(failed)?;
        Ok(match outcome {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Failed(_) => ExitCode::FAILURE,
            Outcome::NeedsHuman(_) => ExitCode::from(3),
            Outcome::Cancelled => ExitCode::from(130),
        })
    }
}

/// Standard output, locked for each line only.
struct Unlocked;

impl Write for Unlocked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::stdout().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}
