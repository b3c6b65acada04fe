//! The result of rerunning a step, stored next to its log while its result is known.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{ContentStore, StoreError, files};
use crate::compare::Difference;
use crate::key::StageKey;

/// A comparison of two runs of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// When the comparison ended, in milliseconds since 1970.
    pub when_ms: u64,
    /// The result.
    pub outcome: Outcome,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Outcome {
    /// The bytes are equal.
    Same,
    /// The numbers are equal within the declared tolerance.
    Within {
        /// That tolerance.
        tolerance: f64,
    },
    /// The results differ.
    Differs {
        /// The declared tolerance, if there is one.
        tolerance: Option<f64>,
        /// The files that differ.
        files: Vec<Difference>,
    },
}

impl ContentStore {
    /// The last verdict on a key.
    pub fn verdict(&self, key: &StageKey) -> Option<Verdict> {
        let text = fs::read_to_string(self.root.join("verdicts").join(key.to_string())).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Stores a verdict and replaces an earlier one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_verdict(&self, key: &StageKey, verdict: &Verdict) -> Result<(), StoreError> {
        let folder = self.root.join("verdicts");
        let path = folder.join(key.to_string());
        fs::create_dir_all(&folder)
            .and_then(|()| Ok(serde_json::to_vec(verdict)?))
            .and_then(|text| files::write_whole(&path, &text, false))
            .map_err(StoreError::io(&path, "write"))
    }
}
