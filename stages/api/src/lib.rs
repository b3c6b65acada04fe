//! The contract between the engine and the stages it runs.
//!
//! A **stage** is a kind of work (`tokens`, `train`, …). Its author implements [`Stage`]; the engine holds an
//! [`AnyStage`], the same thing with the params' type erased. It loads params into it once ([`LoadedStage`]) and runs
//! that on a [`Job`]: folders to read, an empty folder to fill, and a place to report progress. A [`Tool`] is a
//! subcommand that comes with the stages; its arguments are a type that derives [`clap::Args`].
//!
//! This crate knows neither the pipeline, the cache and the terminal on one side nor tensors on the other.

mod allowed_env;
mod error;
mod host_check;
mod job;
mod params;
mod registry;
mod scalars;
pub mod secrets;
mod stage;
pub mod testing;
mod tool;

pub use allowed_env::AllowedEnv;
pub use error::{ParamsError, StageError};
pub use host_check::{HostCheck, HostError};
pub use job::{Host, Input, Inputs, Job, Progress, Unit};
pub use params::quoted_or_not;
pub use registry::Registry;
pub use scalars::Scalars;
pub use stage::{AnyStage, Environment, LoadedStage, NoParams, Port, ProjectFile, Stage, schema_of};
pub use stage_api_derive::ParamEnum;
pub use tool::{
    Answer, AnyTool, InputView, LoadedTool, ReportPage, Results, RunView, StepView, Tool, ToolContext,
};
