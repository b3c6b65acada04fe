//! What a stage gets to work with: inputs to read, a folder to fill, scratch that survives an interruption,
//! the hardware it may use, and a way to tell how far it is. Plain data, so that it can cross a process border.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{AllowedEnv, StageError};

/// One input: a file or a folder of an earlier step, or a file of the project. Read only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The port it comes in by.
    pub port: String,
    /// Its path.
    pub path: PathBuf,
    /// Its path in the project, if it is a file or folder of the project.
    pub in_project: Option<PathBuf>,
}

impl Input {
    /// A result of a step.
    pub fn new(port: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { port: port.into(), path: path.into(), in_project: None }
    }
}

/// All inputs of a job, in the order in which the pipeline names them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs(pub Vec<Input>);

impl Inputs {
    /// The single input of `port`.
    ///
    /// # Errors
    /// When there is none or more than one: the engine checks this on load, so it points at a stage that asks
    /// for another port than it declares.
    pub fn one(&self, port: &str) -> Result<&Path, StageError> {
        let mut found = self.0.iter().filter(|input| input.port == port);
        match (found.next(), found.next()) {
            (Some(input), None) => Ok(&input.path),
            (None, _) => Err(StageError::Failed(format!("no input came in by port `{port}`"))),
            (Some(_), Some(_)) => Err(StageError::Failed(format!("port `{port}` holds more than one input"))),
        }
    }

    /// The single input of an optional `port`, or `None` when the pipeline connects nothing to it.
    pub fn optional(&self, port: &str) -> Option<&Path> {
        self.0.iter().find(|input| input.port == port).map(|input| input.path.as_path())
    }

    /// All inputs of `port`, in the order of the pipeline.
    pub fn all(&self, port: &str) -> Vec<&Path> {
        self.0.iter().filter(|input| input.port == port).map(|input| input.path.as_path()).collect()
    }
}

/// The hardware a job may use. Not part of any key: it may change speed, never the meaning of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `cpu`, `cuda:0`, `metal`, …
    pub device: String,
    /// How many threads the job may keep busy, at least 1.
    pub threads: usize,
}

/// What a stage counts its work in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Things: samples, pictures, updates.
    Items,
    /// Bytes of a file.
    Bytes,
}

/// How a running stage tells the outside how far it is. Everything that differs from run to run (rates,
/// times) goes here and never into the output folder, where it would change the tree's digest.
pub trait Progress: Sync {
    /// `done` of `total` units of work are finished.
    fn advance(&self, done: u64, total: u64, unit: Unit);
    /// A named value at a step of the work: a loss at an update, a rate.
    fn scalar(&self, name: &str, step: u64, value: f64);
    /// A line for the step's log.
    fn note(&self, text: &str);
    /// A line for the step's log that a person should see at once.
    fn warn(&self, text: &str) {
        self.note(text);
    }
    /// Whether the engine asked the stage to stop; to be polled between units of work.
    fn cancelled(&self) -> bool;
}

/// One execution of a stage.
pub struct Job<'a> {
    /// What to read.
    pub inputs: &'a Inputs,
    /// Where the output goes: an empty folder.
    pub out: &'a Path,
    /// A folder that survives a failed or interrupted attempt of the same key.
    pub scratch: &'a Path,
    /// The hardware to use.
    pub host: &'a Host,
    /// What the stage asked for in [`crate::Stage::OUTSIDE`].
    pub allowed_env: &'a AllowedEnv,
    /// Where to say how far the work is.
    pub progress: &'a dyn Progress,
}

impl Job<'_> {
    /// Returns early with [`StageError::Cancelled`] when the engine asked to stop: `job.check_cancelled()?`.
    pub fn check_cancelled(&self) -> Result<(), StageError> {
        if self.progress.cancelled() { Err(StageError::Cancelled) } else { Ok(()) }
    }
}
