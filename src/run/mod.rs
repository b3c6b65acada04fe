//! Running what is stale: the scheduler decides what starts when, an executor starts it, events tell of it.

pub mod child;
mod descendants;
mod direct;
mod event;
mod executor;
mod guard;
mod host;
mod in_process;
mod inputs;
pub mod machine;
mod process_group;
pub mod rerun;
mod results;
mod scheduler;
mod slurm;
mod subprocess;
mod summary;

pub use child::running_job;
pub use event::{Event, Observer};
pub use executor::{Execution, Executor, Message, Outcome, Report, Reporter, Running, Task};
pub use guard::guard;
pub use host::{Capacity, Cluster, Gpu, Share};
pub use in_process::InProcess;
pub use results::verify_unpublished;
pub use scheduler::{Session, chains, run};
pub use slurm::{Rule, Site, Slurm, work_at};
pub use subprocess::Subprocess;
pub use summary::{Failure, RanStep, Summary};
