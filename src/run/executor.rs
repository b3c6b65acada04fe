//! How a step is started and how it reports its end. An executor knows one task at a time; it knows
//! neither the pipeline nor the store.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

use petgraph::graph::NodeIndex;
use serde::{Deserialize, Serialize};
use stage_api::{Host, Inputs, StageError, Unit};

use crate::pipeline::Needs;
use crate::record::Machine;

/// One execution of a stage: plain data, so that it can cross a process border.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// The step, for messages.
    pub step: String,
    /// The stage.
    pub stage: String,
    /// Its params, canonical.
    pub params: String,
    /// What it reads.
    pub inputs: Inputs,
    /// The empty folder it fills.
    pub out: PathBuf,
    /// The folder that survives a failed attempt.
    pub scratch: PathBuf,
    /// The current directory of a program, with the project's files that it reads.
    pub folder: PathBuf,
    /// The log of notes and errors; scalars go to the same name with `.jsonl`.
    pub log: PathBuf,
    /// The hardware it may use.
    pub host: Host,
    /// The GPUs it may see, as `CUDA_VISIBLE_DEVICES` names them; `None` on a machine without any.
    pub gpus: Option<Vec<String>>,
    /// What it asks for, for an executor that finds it a machine.
    pub needs: Needs,
}

impl Task {
    /// The GPUs it may see, as the environment names them.
    pub fn visible_gpus(&self) -> Option<String> {
        self.gpus.as_ref().map(|gpus| gpus.join(","))
    }
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Well: the output folder holds the result.
    Done,
    /// It failed.
    Failed(String),
    /// A person must do something first.
    NeedsHuman(String),
    /// It stopped on request.
    Cancelled,
}

impl Outcome {
    /// How a stage that returned this ended.
    pub fn of(result: Result<(), StageError>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(StageError::Cancelled) => Self::Cancelled,
            Err(StageError::NeedsHuman { what }) => Self::NeedsHuman(what),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Where and how long a task ran that ran on another machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// The machine, and what of it the task was given.
    pub machine: Machine,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What a running step says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// It is so far.
    Progress {
        /// Units of work done.
        done: u64,
        /// Units of work in all.
        total: u64,
        /// What is counted.
        unit: Unit,
    },
    /// A value.
    Scalar {
        /// What it is.
        name: String,
        /// At which unit of work.
        step: u64,
        /// The value; absent when it is not a number, which JSON cannot write.
        value: Option<f64>,
    },
    /// It says something that a person should know.
    Warned(String),
    /// The most memory that its process held so far, in bytes.
    Memory(u64),
    /// Where it waits or runs, when that is not this machine.
    Placed(String),
    /// How it ran on another machine; comes before its end.
    Ran(Execution),
    /// It has ended. The last report of a step, exactly one.
    Ended(Outcome),
}

/// What reaches the scheduler.
#[derive(Debug)]
pub enum Message {
    /// From a running step.
    Step {
        /// Which one.
        node: NodeIndex,
        /// What it says.
        report: Report,
    },
    /// Stop: politely the first time, at once the second time.
    Stop,
}

/// The line from one running step to the scheduler.
#[derive(Debug, Clone)]
pub struct Reporter {
    sender: Sender<Message>,
    node: NodeIndex,
}

impl Reporter {
    /// A line for the step `node`.
    pub fn new(sender: Sender<Message>, node: NodeIndex) -> Self {
        Self { sender, node }
    }

    /// Sends. A scheduler that has ended is not an error.
    pub fn send(&self, report: Report) {
        let _ = self.sender.send(Message::Step { node: self.node, report });
    }
}

/// A way to run a task.
pub trait Executor {
    /// Starts a task and returns at once. Called on the scheduler's thread, which outlives all tasks.
    ///
    /// # Errors
    /// When it cannot be started; then nothing is reported.
    fn start(&self, task: Task, reporter: Reporter) -> io::Result<Box<dyn Running>>;
}

/// A started task.
pub trait Running {
    /// Asks it to stop.
    fn stop(&self);
    /// Ends it, where that is possible, whether it likes it or not.
    fn kill(&self);
}
