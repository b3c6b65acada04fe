//! The result of a run, as data. It does not know how steps run.

use std::path::PathBuf;

use crate::store::LockOwner;

/// A step that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct RanStep {
    /// Its name.
    pub step: String,
    /// How long it took.
    pub seconds: f64,
}

/// A step that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub step: String,
    /// What went wrong, or what a person must do.
    pub problem: String,
    /// Its log, when it got as far as having one.
    pub log: Option<PathBuf>,
    /// Whether a person must do something first.
    pub needs_human: bool,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// The steps that ran, in the order in which they ended.
    pub ran: Vec<RanStep>,
    /// The steps that failed, in the order in which they did.
    pub failures: Vec<Failure>,
    /// Steps that another process runs and that were not waited for, and who runs them.
    pub held_by_others: Vec<(String, Option<LockOwner>)>,
    /// Needed steps that are not fresh and did not fail themselves, in the order of the pipeline.
    pub not_reached: Vec<String>,
    /// Whether the run was stopped.
    pub interrupted: bool,
}

impl Summary {
    /// Whether everything that was requested is up to date.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty() && self.not_reached.is_empty() && !self.interrupted
    }
}
