//! Events of a run: for the console, for a file of JSON lines, for tests.

use serde::Serialize;
use stage_api::Unit;

use crate::digest::Digest;
use crate::remote::RemoteEvent;

/// Something that happened. Steps are named as in the pipeline.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// The plan is complete; the run begins.
    Planned {
        /// Steps that are needed.
        needed: usize,
        /// Steps that must run for sure.
        stale: usize,
        /// Steps that may have to run, depending on others.
        waiting: usize,
        /// How long all these would take by earlier runs, in seconds; absent when a step has none.
        estimated_seconds: Option<f64>,
    },
    /// A step began.
    Started {
        /// The step.
        step: &'a str,
        /// The device it was given.
        device: &'a str,
        /// The threads it was given.
        threads: usize,
        /// The GPUs it was given, as `CUDA_VISIBLE_DEVICES` names them.
        gpus: &'a [String],
        /// How many steps have begun, this one included.
        number: usize,
        /// How many steps will have run at most, as known now.
        of: usize,
    },
    /// A step is run by another process; its result will be taken from there.
    HeldByOther {
        /// The step.
        step: &'a str,
        /// The process, where that is known.
        by: Option<&'a str>,
    },
    /// The bytes of a step's result came from the remote cache.
    Fetched {
        /// The step.
        step: &'a str,
        /// How many.
        bytes: u64,
    },
    /// A step that another machine does waits or runs there.
    Placed {
        /// The step.
        step: &'a str,
        /// Where.
        place: &'a str,
    },
    /// A step is so far.
    Progress {
        /// The step.
        step: &'a str,
        /// Units of work done.
        done: u64,
        /// Units of work in all.
        total: u64,
        /// What is counted.
        unit: Unit,
    },
    /// A step reported a value.
    Scalar {
        /// The step.
        step: &'a str,
        /// What the value is.
        name: &'a str,
        /// At which unit of work.
        at: u64,
        /// The value; absent when it is not a number.
        value: Option<f64>,
    },
    /// What a step wrote is hashed and kept, which takes a while.
    Keeping {
        /// The step.
        step: &'a str,
        /// How many files it is.
        files: usize,
        /// How many bytes.
        bytes: u64,
    },
    /// A step ended well and its tree is kept.
    Finished {
        /// The step.
        step: &'a str,
        /// How long it took.
        seconds: f64,
        /// What it wrote.
        tree: Digest,
        /// Whether its last run had written the same.
        same: bool,
    },
    /// What a step wrote is damaged; it runs again.
    Damaged {
        /// The step.
        step: &'a str,
    },
    /// A step says something that a person should know.
    Warned {
        /// The step.
        step: &'a str,
        /// What it says.
        text: &'a str,
    },
    /// A step failed; nothing of it is kept.
    Failed {
        /// The step.
        step: &'a str,
        /// What went wrong, or what a person must do.
        problem: &'a str,
        /// Whether a person must do something first.
        needs_human: bool,
    },
    /// The run waits for a process that has the cache to itself.
    Waiting {
        /// That process.
        owner: &'a str,
    },
    /// A person should know something of the cache or the reports.
    Notice {
        /// What.
        text: &'a str,
    },
    /// The run was interrupted; running steps receive the request to stop.
    Stopping,
}

impl<'a> From<RemoteEvent<'a>> for Event<'a> {
    fn from(news: RemoteEvent<'a>) -> Self {
        match news {
            RemoteEvent::Fetched { step, bytes } => Self::Fetched { step, bytes },
            RemoteEvent::Trouble { step, text } => Self::Warned { step, text },
        }
    }
}

/// Hears what happens.
pub trait Observer {
    /// Called on the scheduler's thread, in order.
    fn on(&mut self, event: &Event);
}
