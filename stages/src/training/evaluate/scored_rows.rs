//! Scored rows: how a run scores them, and what is written of them, by a run or not.

use std::path::Path;

use stage_api::{Job, StageError};

use super::EvaluateParams;
use crate::artifacts::history::{History, ParameterCounts, RunInfo};
use crate::artifacts::labels::{self, Classes, Label, numbers, predicted_label};
use crate::artifacts::metrics::Metrics;
use crate::artifacts::predictions::{self, Prediction};
use crate::artifacts::samples::Split;
use crate::artifacts::scores::{self, Score};
use crate::artifacts::weights;
use crate::host::device;
use crate::metrics;
use crate::metrics::bootstrap::{self, Intervals, Resamples};
use crate::metrics::multiclass::{ClassIntervals, ClassMetrics};
use crate::models::Config;
use crate::nn::tune_allocator;
use crate::training::dataset::TOKENS;
use crate::training::inference::{self, RUN};

/// The rows of a split with the probabilities that a run or another system gave them.
pub(super) struct Scored {
    /// What gave them.
    pub run: RunInfo,
    /// Its model.
    pub parameters: ParameterCounts,
    /// The update whose weights gave them.
    pub best_update: u64,
    /// The data set of the rows.
    pub dataset: String,
    /// What it calls its classes.
    pub classes: Classes,
    /// The rows, in the order of the data set.
    pub scores: Vec<Score>,
    /// Their predictions.
    pub predicted: Vec<Label>,
    /// Mean cross-entropy.
    pub loss: f64,
}

impl Scored {
    /// The rows of `split`, scored by the run that came in.
    ///
    /// # Errors
    /// Inputs that cannot be read or do not fit each other; a request to stop.
    pub(super) fn by_run(params: &EvaluateParams, split: Split, job: &Job) -> Result<Self, StageError> {
        tune_allocator();
        let device = device::open(&job.host.device)?;
        let run = job.inputs.one(RUN)?;
        let history = History::read(run)?;
        let memes = inference::memes(job)?;
        let dataset = &memes.tokens.info.dataset;
        if params.shift == (*dataset == history.run.dataset) {
            let (trained, way) = (&history.run.dataset, if params.shift { "without" } else { "with" });
            let problem = format!(
                "holds `{dataset}`, the run was trained on `{trained}`; to evaluate there, do it {way} `shift: true`"
            );
            return Err(StageError::input(TOKENS, job.inputs.one(TOKENS)?, problem));
        }
        let rows = memes.rows_of(split)?;
        let labels = memes.labels(&rows)?;
        memes.check_head(weights::read_config::<Config>(run)?.dimensions().head)?;

        let scored = inference::score(job, &memes, &rows, params.batch, &device)?;

        let id = |&row: &usize| memes.tokens.rows[row].id.clone();
        let scores = rows.iter().zip(scored.probabilities()).zip(&labels);
        Ok(Self {
            run: history.run,
            parameters: history.parameters,
            best_update: history.best.update,
            dataset: dataset.clone(),
            classes: memes.tokens.info.classes.clone(),
            scores: scores
                .map(|((row, probabilities), &label)| Score { id: id(row), label, probabilities })
                .collect(),
            predicted: scored.predicted(),
            loss: scored.summary(&labels).loss,
        })
    }

    /// Writes predictions, scores and metrics into `out`.
    ///
    /// # Errors
    /// A metric that is undefined on these rows; a disk that takes no more.
    pub(super) fn write(self, params: &EvaluateParams, split: Split, out: &Path) -> Result<(), StageError> {
        let predicted = self.scores.iter().map(|score| Prediction {
            id: score.id.clone(),
            probabilities: score.probabilities.clone(),
            label: predicted_label(&score.probabilities, self.classes.multi_label),
        });
        let predicted: Vec<Prediction> = predicted.collect();
        let measured = match self.classes.is_binary() {
            true => Measured::of_two_classes(&self, params),
            false => Measured::of_classes(&self, params),
        };
        let measured = measured.map_err(|name| {
            let split = split.as_str();
            StageError::failed(format!(
                "{name} is undefined on split `{split}`: one class only, or logits that are not numbers"
            ))
        })?;
        predictions::write(&out.join("predictions.csv"), &predicted)?;
        scores::write(out, &self.scores)?;
        Metrics {
            run: self.run,
            parameters: self.parameters,
            dataset: self.dataset,
            classes: self.classes,
            split,
            rows: self.scores.len() as u64,
            positives: measured.positives,
            predicted_positives: measured.predicted_positives,
            best_update: self.best_update,
            loss: self.loss,
            accuracy: measured.accuracy,
            f1: measured.f1,
            f1_macro: measured.f1_macro,
            f1_micro: measured.f1_micro,
            roc_auc: measured.roc_auc,
            average_precision: measured.average_precision,
            balanced_accuracy: measured.balanced_accuracy,
            calibration_error: measured.calibration_error,
            by_class: measured.by_class,
            class_intervals: measured.class_intervals,
            resamples: (params.resamples, params.seed),
            intervals: measured.intervals,
        }
        .write(out)?;
        Ok(())
    }
}

/// What scores say of their rows.
struct Measured {
    positives: Option<u64>,
    predicted_positives: Option<u64>,
    accuracy: f64,
    f1: Option<f64>,
    f1_macro: Option<f64>,
    f1_micro: Option<f64>,
    roc_auc: f64,
    average_precision: f64,
    balanced_accuracy: Option<f64>,
    calibration_error: Option<f64>,
    by_class: Vec<ClassMetrics>,
    class_intervals: Vec<ClassIntervals>,
    intervals: Intervals,
}

impl Measured {
    /// Of rows that have one of two classes.
    ///
    /// # Errors
    /// The name of a metric that is undefined.
    fn of_two_classes(scored: &Scored, params: &EvaluateParams) -> Result<Self, &'static str> {
        let labels = numbers(&scored.scores.iter().map(|score| score.label).collect::<Vec<_>>());
        let predicted = numbers(&scored.predicted);
        let pairs: Vec<[f32; 2]> = scored.scores.iter().map(|score| [score.of(0), score.of(1)]).collect();
        let ones: Vec<f32> = pairs.iter().map(|pair| pair[1]).collect();
        let resamples = Resamples { labels: &labels, count: params.resamples, seed: params.seed };
        let count = |classes: &[u8]| classes.iter().filter(|class| **class == 1).count() as u64;
        let roc_auc = metrics::roc_auc(&pairs, &labels).ok_or("ROC-AUC")?;
        let balanced = metrics::balanced_accuracy(&predicted, &labels).ok_or("balanced accuracy")?;
        let calibration = metrics::calibration_error(&ones, &labels).ok_or("the calibration error")?;
        Ok(Self {
            positives: Some(count(&labels)),
            predicted_positives: Some(count(&predicted)),
            accuracy: metrics::accuracy(&predicted, &labels),
            f1: Some(metrics::binary_f1(&predicted, &labels)),
            f1_macro: None,
            f1_micro: None,
            roc_auc,
            average_precision: metrics::average_precision(&ones, &labels).ok_or("average precision")?,
            balanced_accuracy: Some(balanced),
            calibration_error: Some(calibration),
            by_class: Vec::new(),
            class_intervals: Vec::new(),
            intervals: bootstrap::intervals(&pairs, &predicted, &resamples),
        })
    }

    /// Of rows that have one of more classes, or any number of them.
    ///
    /// # Errors
    /// The name of a metric that is undefined.
    fn of_classes(scored: &Scored, params: &EvaluateParams) -> Result<Self, &'static str> {
        let labels: Vec<Label> = scored.scores.iter().map(|score| score.label).collect();
        let scores: Vec<f32> = scored.scores.iter().flat_map(|score| score.probabilities.clone()).collect();
        let rows = labels::scored(scored.classes.count(), &labels, &scored.predicted, &scores);
        let found = rows.metrics();
        let intervals = rows.intervals(params.resamples, params.seed);
        Ok(Self {
            positives: None,
            predicted_positives: None,
            accuracy: found.accuracy,
            f1: None,
            f1_macro: found.f1_macro,
            f1_micro: found.f1_micro,
            roc_auc: found.roc_auc.ok_or("ROC-AUC")?,
            average_precision: found.average_precision.ok_or("average precision")?,
            balanced_accuracy: found.balanced_accuracy,
            calibration_error: None,
            by_class: found.by_class,
            class_intervals: intervals.by_class,
            intervals: Intervals {
                accuracy: intervals.accuracy,
                f1_macro: intervals.f1_macro,
                f1_micro: intervals.f1_micro,
                roc_auc: intervals.roc_auc,
                average_precision: intervals.average_precision,
                balanced_accuracy: intervals.balanced_accuracy,
                ..Intervals::default()
            },
        })
    }
}
