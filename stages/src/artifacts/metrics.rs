//! Metrics of an evaluated run on one split.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::history::{ParameterCounts, RunInfo};
use super::samples::Split;
use super::{Result, read_json, write_json};
use crate::metrics::bootstrap::Intervals;

/// What `evaluate` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Which run.
    pub run: RunInfo,
    /// Its model.
    pub parameters: ParameterCounts,
    /// The data set it was evaluated on: the run's own, or another.
    pub dataset: String,
    /// What that data set calls its classes, by label; nothing where label 1 is hateful and 0 is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// The split it was evaluated on.
    pub split: Split,
    /// Labelled rows of the split.
    pub rows: u64,
    /// Rows of class 1 among them.
    pub positives: u64,
    /// Rows that were predicted to be of class 1.
    pub predicted_positives: u64,
    /// The update whose weights were evaluated.
    pub best_update: u64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Accuracy, from 0 to 1.
    pub accuracy: f64,
    /// F1 of class 1; 0 when undefined.
    pub f1: f64,
    /// ROC-AUC, from 0 to 1.
    pub roc_auc: f64,
    /// Average precision, from 0 to 1.
    pub average_precision: f64,
    /// Mean of the recalls of both classes.
    pub balanced_accuracy: f64,
    /// Expected calibration error of P(class 1), 15 bins of equal width.
    pub calibration_error: f64,
    /// Stratified bootstrap resamples behind the intervals, and the generator's seed.
    pub resamples: (usize, u64),
    /// 95% intervals.
    pub intervals: Intervals,
}

impl Metrics {
    /// The file's name within an evaluate step's tree.
    pub const FILE: &'static str = "metrics.json";

    /// Writes `metrics.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(Self::FILE), self)
    }

    /// Reads `metrics.json` of `dir`.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() { read_json(&path.join(Self::FILE)) } else { read_json(path) }
    }
}
