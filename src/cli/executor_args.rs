//! Where steps run, as options: on this machine, or as jobs of a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::error::CliError;
use crate::run::{Backend, Site};

/// Options that say where steps run.
#[derive(Args, Default)]
pub struct ExecutorArgs {
    /// Where to run steps.
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = Place::Local)]
    executor: Place,
    /// The Slurm settings of the cluster: partitions, time limits, flags (docs/slurm.md).
    #[arg(long, value_name = "FILE", env = "REPRO_SLURM_SITE")]
    slurm_site: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Place {
    /// On this machine.
    #[default]
    Local,
    /// As Slurm jobs.
    Slurm,
}

impl ExecutorArgs {
    /// Where steps run.
    ///
    /// # Errors
    /// A site file that cannot be read or is wrong.
    pub fn backend(&self) -> Result<Backend, CliError> {
        match (self.executor, &self.slurm_site) {
            (Place::Local, _) => Ok(Backend::Processes),
            (Place::Slurm, None) => Ok(Backend::Slurm(Site::default())),
            (Place::Slurm, Some(file)) => Site::load(file).map(Backend::Slurm).map_err(CliError::usage),
        }
    }
}
