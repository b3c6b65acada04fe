//! The contract between the engine and the stages it runs.
//!
//! A **stage** is a kind of work (`tokens`, `train`, …). Its author implements [`Stage`]; the engine holds
//! [`AnyStage`], the same thing with the params' type erased, and runs it on a [`Job`]: folders to read, an
//! empty folder to fill, and a place to say how far it is. A [`Tool`] is a subcommand that comes with the stages.
//!
//! This crate knows neither the pipeline, the cache and the terminal on one side nor tensors on the other.

mod allowed_env;
mod error;
mod host_check;
mod job;
mod params;
pub mod secrets;
mod stage;
pub mod testing;
mod tool;

pub use allowed_env::AllowedEnv;
pub use error::{ParamsError, StageError};
pub use host_check::{HostCheck, HostError};
pub use job::{Host, Input, Inputs, Job, Progress, Unit};
pub use stage::{AnyStage, Environment, NoParams, Port, Registry, Stage, schema_of};
pub use tool::{Answer, Arg, Count, Desk, InputView, Results, RunView, StepView, Tool, ToolArgs};
