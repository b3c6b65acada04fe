//! Failed executions: the newest of each step, until its key succeeds. A run that is up to date asks for none of them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Line, Log, State, place};
use crate::digest::Digest;
use crate::key::StageKey;

/// An execution that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// The step's name at that time.
    pub step: String,
    /// The profile.
    pub profile: String,
    /// When it failed, in milliseconds since 1970.
    pub failed_ms: u64,
    /// What went wrong.
    pub problem: String,
}

/// The key and the line of the newest failure, by profile and step.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<String, (Digest, Line)>);

impl Failures {
    /// Takes note of a line `failed <key> {…}`.
    pub fn add(&mut self, log: &Log, line: &Line) {
        if let Some((key, failed)) = decode(log.text(line)) {
            self.0.insert(place(&failed.profile, &failed.step), (key, line.clone()));
        }
    }

    /// Takes note that an execution of the key in a line `record <key> …` succeeded.
    pub fn forget(&mut self, text: &str) {
        // Most runs have no failure, so most lines are not parsed for it.
        if !self.0.is_empty()
            && let Some(Ok(key)) = text.split(' ').nth(1).map(str::parse::<Digest>)
        {
            self.0.retain(|_, (failed, _)| *failed != key);
        }
    }

    /// All their lines.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.0.values().map(|(_, line)| line)
    }
}

impl State {
    /// The newest failure of a step, if it was an execution of `key` and none of that key has succeeded since.
    pub fn failure(&self, profile: &str, step: &str, key: &StageKey) -> Option<FailedRun> {
        let (failed, line) = self.failures.0.get(&place(profile, step))?;
        let (_, run) = decode(self.log.text(line)).filter(|_| *failed == key.0)?;
        Some(run)
    }
}

fn decode(text: &str) -> Option<(Digest, FailedRun)> {
    let (key, json) = text.strip_prefix("failed ")?.split_once(' ')?;
    Some((key.parse().ok()?, serde_json::from_str(json).ok()?))
}

/// The line for a failed execution.
pub(in crate::store) fn failed_line(key: &StageKey, failed: &FailedRun) -> serde_json::Result<String> {
    Ok(format!("failed {key} {}", serde_json::to_string(failed)?))
}
