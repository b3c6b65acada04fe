//! Runs what is stale: the scheduler decides what starts when, an executor starts it, events report it.

pub mod child;
mod descendants;
mod direct;
mod event;
mod executor;
mod guard;
mod in_process;
mod inputs;
pub mod machine;
mod metrics_poller;
mod process_group;
pub mod rerun;
mod resource_limits;
mod resources;
mod results;
mod scheduler;
mod slurm;
mod subprocess;
mod summary;

use std::path::Path;
use std::sync::Arc;

use stage_api::Registry;

pub use child::running_job;
pub use event::{Event, Observer};
pub use executor::{Execution, Executor, Message, Outcome, Report, Reporter, Running, Task};
pub use guard::guard;
pub use in_process::InProcess;
pub use resource_limits::{LimitError, ResourceLimits};
pub use resources::{Allocation, Cluster, Gpu, Resources};
pub use results::verify_unpublished;
pub use scheduler::{Session, chains, run};
pub use slurm::{Rule, Site, Slurm, work_at};
pub use subprocess::Subprocess;
pub use summary::{Failure, RanStep, Summary};

/// Where steps run.
#[derive(Clone, Default)]
pub enum Backend {
    /// On this machine, each in a process of its own.
    #[default]
    Processes,
    /// As threads of this process, with these stages.
    Threads(Arc<Registry>),
    /// As jobs of Slurm on this site.
    Slurm(Site),
}

impl Backend {
    /// The cluster, if steps go to one.
    pub fn site(&self) -> Option<&Site> {
        match self {
            Self::Slurm(site) => Some(site),
            Self::Processes | Self::Threads(_) => None,
        }
    }

    /// What starts steps, with results in the store in `cache`.
    ///
    /// # Errors
    /// A sentence: this program's file cannot be found, or Slurm cannot be used.
    pub fn executor(&self, cache: &Path) -> Result<Box<dyn Executor>, String> {
        match self {
            Self::Threads(registry) => Ok(Box::new(InProcess::new(Arc::clone(registry)))),
            Self::Processes => match Subprocess::this_program() {
                Ok(program) => Ok(Box::new(program)),
                Err(error) => Err(format!("this program's file cannot be found: {error}")),
            },
            Self::Slurm(site) => match Slurm::new(cache, site.clone()) {
                Ok(slurm) => Ok(Box::new(slurm)),
                Err(problem) => Err(format!("--executor slurm: {problem}")),
            },
        }
    }
}
