//! The history of a training run: loss, learning rate and validation metrics by update. No times and no rates:
//! those differ from run to run and would change the tree's digest; they go to the step's log.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stage_api::Scalars;

use super::{Result, read_json, scalars, write_json};

/// What identifies a run in tables and curves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunInfo {
    /// Short name of the data set: `hmd`, `mmh`.
    pub dataset: String,
    /// The model; not written where it is the paper's first.
    #[serde(default = "visual_bert", skip_serializing_if = "is_visual_bert")]
    pub model: String,
    /// Training mode: `fc`, `pe`, `full`.
    pub mode: String,
    /// Seed of the run.
    pub seed: u64,
    /// Updates the run was trained for.
    pub updates: u64,
}

fn visual_bert() -> String {
    "visualbert".to_owned()
}

fn is_visual_bert(model: &str) -> bool {
    model == visual_bert()
}

/// In place of the mode of what was not trained here: predictions of others.
pub const PREDICTIONS: &str = "predictions";

impl RunInfo {
    /// Predictions of others for `dataset`, which tables call `name`.
    pub fn for_predictions(dataset: &str, name: &str) -> Self {
        Self {
            dataset: dataset.to_owned(),
            model: name.to_owned(),
            mode: PREDICTIONS.to_owned(),
            seed: 0,
            updates: 0,
        }
    }

    /// The run of a [`kind`](RunInfo::kind).
    #[cfg(test)]
    pub fn from_kind(dataset: &str, kind: &str, seed: u64, updates: u64) -> Self {
        let (model, mode) = kind.rsplit_once('-').unwrap_or(("visualbert", kind));
        Self { dataset: dataset.to_owned(), model: model.to_owned(), mode: mode.to_owned(), seed, updates }
    }

    /// What was trained in which way, as the names of steps have it: `pe`, `vilbert-pe`.
    pub fn kind(&self) -> String {
        if is_visual_bert(&self.model) { self.mode.clone() } else { format!("{}-{}", self.model, self.mode) }
    }
}

/// Parameter counts of the trained model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterCounts {
    /// All parameters.
    pub total: u64,
    /// Those that are trained.
    pub trained: u64,
    /// Those that sit in adapters.
    pub adapters: u64,
}

/// What a log line of training holds (as MMF logs it).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainPoint {
    /// Updates done.
    pub update: u64,
    /// Lower median of the last 20 sampled batch losses.
    #[serde(with = "number")]
    pub loss: f64,
    /// Mean of all sampled batch losses, weighted by batch size.
    #[serde(with = "number")]
    pub loss_average: f64,
    /// Learning rate the next update will use, as the original logs it.
    pub lr: f64,
}

/// One validation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ValPoint {
    /// Updates done.
    pub update: u64,
    /// Mean cross-entropy over the split.
    #[serde(with = "number")]
    pub loss: f64,
    /// ROC-AUC, from 0 to 1.
    #[serde(with = "number")]
    pub roc_auc: f64,
    /// Accuracy, from 0 to 1.
    #[serde(with = "number")]
    pub accuracy: f64,
    /// F1 of class 1.
    #[serde(with = "number")]
    pub f1: f64,
}

/// A number that may be none: JSON has no NaN and says `null`.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        Some(*value).filter(|value| value.is_finite()).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// A run from first to last update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Which run.
    pub run: RunInfo,
    /// Its model.
    pub parameters: ParameterCounts,
    /// Rows of the training and the validation split.
    pub rows: (u64, u64),
    /// Training, by update.
    pub train: Vec<TrainPoint>,
    /// Validation, by update.
    pub val: Vec<ValPoint>,
    /// The validation whose weights were kept: the first with the strictly greatest ROC-AUC.
    pub best: ValPoint,
}

impl History {
    /// The file's name within a train step's tree.
    pub const FILE: &'static str = "history.json";

    /// Writes `history.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(Self::FILE), self)
    }

    /// Reads the `history.json` of a train step's tree, or that file itself: who reads nothing else of the tree names it
    /// alone.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_dir() { read_json(&path.join(Self::FILE)) } else { read_json(path) }
    }

    /// The values by update, under the names that a training run reports them by, and the other metrics of its validations;
    /// an imported run has neither.
    pub fn scalars(&self) -> Vec<Scalars> {
        let train = |name: &str, value: fn(&TrainPoint) -> f64| {
            Scalars::new(name, self.train.iter().map(|point| (point.update, value(point))))
        };
        let val = |name: &str, value: fn(&ValPoint) -> f64| {
            Scalars::new(name, self.val.iter().map(|point| (point.update, value(point))))
        };
        let mut all = vec![
            train(scalars::LOSS, |point| point.loss),
            train(scalars::LEARNING_RATE, |point| point.lr),
            val("val loss", |point| point.loss),
            val(scalars::ROC_AUC, |point| point.roc_auc),
            val("val accuracy", |point| point.accuracy),
            val("val f1", |point| point.f1),
        ];
        all.retain(|scalars| !scalars.points.is_empty());
        all
    }
}
