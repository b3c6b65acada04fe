//! `repro guard`: ends what a run has started when the run is gone. Not for people; `make` calls it.

use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use crate::run;

/// Watches the process groups of a run.
#[derive(Args)]
pub struct Guard;

impl Guard {
    pub fn run(&self) -> Result<ExitCode, CliError> {
        // However the input ended: the run is gone.
        let _ = run::guard(std::io::stdin().lock());
        Ok(ExitCode::SUCCESS)
    }
}
