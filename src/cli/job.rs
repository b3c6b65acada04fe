//! `repro job FOLDER`: one step as a job of a cluster. Not for people; the job's script calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use crate::run::{self, Outcome};

/// Runs the task in a job directory.
#[derive(Args)]
pub struct Job {
    /// The folder.
    job_dir: PathBuf,
}

impl Job {
    pub fn run(&self) -> Result<ExitCode, CliError> {
        let failed =
            |error| CliError::usage(format!("{}: cannot be worked at: {error}", self.job_dir.display()));
        Ok(match run::work_at(&self.job_dir).map_err(failed)? {
            None => {
                print_err!("{}: there is nothing to do any more", self.job_dir.display());
                ExitCode::SUCCESS
            }
            Some(Outcome::Done) => ExitCode::SUCCESS,
            Some(Outcome::Failed(_)) => ExitCode::FAILURE,
            Some(Outcome::NeedsHuman(_)) => ExitCode::from(3),
            Some(Outcome::Cancelled) => ExitCode::from(130),
        })
    }
}
