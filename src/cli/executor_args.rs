//! Where steps run, as options: on this machine, or as jobs of a cluster.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::error::CliError;
use crate::run::{Executor, Site, Slurm, Subprocess};

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
    /// What is known of the cluster, if steps go to one.
    pub fn site(&self) -> Result<Option<Site>, CliError> {
        match (self.executor, &self.slurm_site) {
            (Place::Local, _) => Ok(None),
            (Place::Slurm, None) => Ok(Some(Site::default())),
            (Place::Slurm, Some(file)) => Site::load(file).map(Some).map_err(CliError::usage),
        }
    }

    /// What starts steps, with results in `store`.
    pub fn executor(site: Option<&Site>, store: &std::path::Path) -> Result<Box<dyn Executor>, CliError> {
        match site {
            Some(site) => {
                Ok(Box::new(Slurm::new(store, site.clone()).map_err(|problem| CliError::Usage {
                    message: format!("--executor slurm: {problem}"),
                    hint: Some("without it the steps run on this machine".to_owned()),
                })?))
            }
            None => {
                let program = Subprocess::this_program().map_err(|error| {
                    CliError::usage(format!("this program's file cannot be found: {error}"))
                })?;
                Ok(Box::new(program))
            }
        }
    }
}
