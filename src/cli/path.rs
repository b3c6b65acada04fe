//! `repro path STEP[/FILE]`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;

use super::error::CliError;
use super::result_ref::FoundResult;
use super::{Global, print_data, print_json};

/// Print where a step's result is, or a file in it.
///
/// The bytes are verified. They are shared and read-only: `repro get` copies them.
#[derive(Args)]
pub struct Path {
    /// The step, or a file or folder of its output: `hmd-pe/metrics.json`.
    #[arg(value_name = "STEP[/FILE]")]
    result: String,
}

impl Path {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let found = FoundResult::find(&project, &project.workspace()?, &self.result)?;
        let location = std::path::absolute(&found.location).unwrap_or_else(|_| found.location.to_path_buf());
        if global.json {
            print_json(&json!({"step": found.step, "file": found.path, "path": location}))?;
        } else {
            print_data(&format!("{}\n", location.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
