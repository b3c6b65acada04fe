//! `repro schema`.

use std::process::ExitCode;

use clap::Args;
use stage_api::Registry;

use super::error::CliError;
use super::print_json;
use crate::pipeline::schema::schema;

/// Print the JSON Schema of pipeline files.
#[derive(Args)]
pub struct Schema {}

impl Schema {
    pub fn run(&self, registry: &Registry) -> Result<ExitCode, CliError> {
        print_json(&schema(registry))?;
        Ok(ExitCode::SUCCESS)
    }
}
