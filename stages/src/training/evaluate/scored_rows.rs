//! Scored rows: how a run scores them, and what is written of them, by a run or not.

use std::path::Path;

use stage_api::{Job, StageError};

use super::EvaluateParams;
use crate::artifacts::history::{History, ParameterCounts, RunInfo};
use crate::artifacts::metrics::Metrics;
use crate::artifacts::predictions::{self, Prediction};
use crate::artifacts::samples::Split;
use crate::artifacts::scores::{self, Score};
use crate::host::device;
use crate::metrics::bootstrap::{self, Resamples};
use crate::metrics::{self, argmax};
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
    pub classes: Vec<String>,
    /// The rows, in the order of the data set.
    pub scores: Vec<Score>,
    /// The class each is taken for.
    pub guesses: Vec<u8>,
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

        let scored = inference::score(job, &memes, &rows, params.batch, &device)?;

        let id = |&row: &usize| memes.tokens.rows[row].id.clone();
        let scores = rows.iter().zip(scored.probabilities()).zip(&labels);
        Ok(Self {
            run: history.run,
            parameters: history.parameters,
            best_update: history.best.update,
            dataset: dataset.clone(),
            classes: memes.tokens.info.classes.clone(),
            scores: scores.map(|((row, [p0, p1]), &label)| Score { id: id(row), label, p0, p1 }).collect(),
            guesses: scored.logits.iter().map(|&pair| argmax(pair)).collect(),
            loss: scored.summary(&labels).loss,
        })
    }

    /// Writes predictions, scores and metrics into `out`.
    ///
    /// # Errors
    /// A metric that is undefined on these rows; a disk that takes no more.
    pub(super) fn write(self, params: &EvaluateParams, split: Split, out: &Path) -> Result<(), StageError> {
        let labels: Vec<u8> = self.scores.iter().map(|score| score.label).collect();
        let probabilities: Vec<[f32; 2]> = self.scores.iter().map(|score| [score.p0, score.p1]).collect();
        let Some(roc_auc) = metrics::roc_auc(&probabilities, &labels) else {
            let problem = format!(
                "ROC-AUC is undefined on split `{}`: one class only, or logits that are not numbers",
                split.as_str()
            );
            return Err(StageError::failed(problem));
        };
        let predicted = self.scores.iter().map(|score| Prediction {
            id: score.id.clone(),
            proba: score.p1,
            label: argmax([score.p0, score.p1]),
        });
        predictions::write(&out.join("predictions.csv"), &predicted.collect::<Vec<_>>())?;
        scores::write(out, &self.scores)?;

        let undefined = |name: &str| StageError::failed(format!("{name} is undefined on these rows"));
        let ones: Vec<f32> = probabilities.iter().map(|pair| pair[1]).collect();
        let resamples = Resamples { labels: &labels, count: params.resamples, seed: params.seed };
        let count = |classes: &[u8]| classes.iter().filter(|class| **class == 1).count() as u64;
        Metrics {
            run: self.run,
            parameters: self.parameters,
            dataset: self.dataset,
            classes: self.classes,
            split,
            rows: labels.len() as u64,
            positives: count(&labels),
            predicted_positives: count(&self.guesses),
            best_update: self.best_update,
            loss: self.loss,
            accuracy: metrics::accuracy(&self.guesses, &labels),
            f1: metrics::binary_f1(&self.guesses, &labels),
            roc_auc,
            average_precision: metrics::average_precision(&ones, &labels)
                .ok_or_else(|| undefined("average precision"))?,
            balanced_accuracy: metrics::balanced_accuracy(&self.guesses, &labels)
                .ok_or_else(|| undefined("balanced accuracy"))?,
            calibration_error: metrics::calibration_error(&ones, &labels)
                .ok_or_else(|| undefined("the calibration error"))?,
            resamples: (params.resamples, params.seed),
            intervals: bootstrap::intervals(&probabilities, &self.guesses, &resamples),
        }
        .write(out)?;
        Ok(())
    }
}
