//! Running what is stale: the scheduler decides what starts when, an executor starts it, events report it.

pub mod child;
mod damage;
mod descendants;
mod direct;
mod event;
mod executor;
mod guard;
mod in_process;
mod inputs;
pub mod machine;
pub mod rerun;
mod resources;
mod scheduler;
mod slurm;
mod subprocess;
mod summary;

pub use child::running_job;
pub use damage::doubt_unpublished;
pub use event::{Event, Observer};
pub use executor::{Execution, Executor, Message, Outcome, Report, Reporter, Running, Task};
pub use guard::guard;
pub use in_process::InProcess;
pub use resources::{Allocation, Cluster, Gpu, Resources};
pub use scheduler::{Options, chains, run};
pub use slurm::{Rule, Site, Slurm, work_at};
pub use subprocess::Subprocess;
pub use summary::{Failure, RanStep, Summary};
