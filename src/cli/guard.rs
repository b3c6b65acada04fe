//! `repro guard`: ends what a run has started when the run is gone. Not for people; `make` calls it.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Args;

use super::error::CliError;
use crate::run;

/// Watches the process groups of a run.
#[derive(Args)]
pub struct Guard {
    /// The first mark of the run's processes.
    first_mark: u64,
}

impl Guard {
    pub fn run(&self) -> Result<ExitCode, CliError> {
        // However the input ended: the run is gone.
        if let Ok(watched) = std::io::stdout().as_fd().try_clone_to_owned() {
            let _ = run::guard(&mut std::io::stdin().lock(), &File::from(watched), self.first_mark);
        }
        Ok(ExitCode::SUCCESS)
    }
}
