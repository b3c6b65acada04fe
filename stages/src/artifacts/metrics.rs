//! Metrics of an evaluated run on one split.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::history::{ParameterCounts, RunInfo};
use super::labels::Classes;
use super::samples::Split;
use super::{Result, read_json, write_json};
use crate::metrics::bootstrap::Intervals;
use crate::metrics::multiclass::{ClassIntervals, ClassMetrics};

/// What `evaluate` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Which run.
    pub run: RunInfo,
    /// Its model.
    pub parameters: ParameterCounts,
    /// The data set it was evaluated on: the run's own, or another.
    pub dataset: String,
    /// The classes of that data set.
    #[serde(flatten)]
    pub classes: Classes,
    /// The split it was evaluated on.
    pub split: Split,
    /// Labelled rows of the split.
    pub rows: u64,
    /// Rows of class 1 among them, where there are two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positives: Option<u64>,
    /// Rows that were predicted to be of class 1, where there are two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_positives: Option<u64>,
    /// The update whose weights were evaluated.
    pub best_update: u64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Accuracy, from 0 to 1: where a row may have several classes, the share of rows with exactly the right ones.
    pub accuracy: f64,
    /// F1 of class 1, where there are two classes; 0 when undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Where there are more classes than two, the mean of their F1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// The F1 of all pairs of a row and a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_micro: Option<f64>,
    /// ROC-AUC, from 0 to 1; of more classes than two the mean of each against the rest.
    pub roc_auc: f64,
    /// Average precision, from 0 to 1; of more classes than two the mean over them.
    pub average_precision: f64,
    /// Mean of the recalls of the classes, where a row has exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balanced_accuracy: Option<f64>,
    /// Expected calibration error of P(class 1), 15 bins of equal width, where there are two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_error: Option<f64>,
    /// By class, where there are more than two.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_class: Vec<ClassMetrics>,
    /// 95% intervals of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_intervals: Vec<ClassIntervals>,
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
