//! Evaluates a finished run on one split: predictions as MMF exports them, and the metrics over the whole split.
//!
//! ```text
//! <tree>/predictions.csv   id, P(class 1), predicted class
//! <tree>/scores.csv        id, true class, P(class 0), P(class 1)
//! <tree>/metrics.json      loss and metrics with 95% intervals
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::history::History;
use crate::artifacts::metrics::Metrics;
use crate::artifacts::predictions;
use crate::artifacts::samples::Split;
use crate::artifacts::scores::{self, Score};
use crate::device;
use crate::learning::finished::{self, RUN};
use crate::learning::memes::{self, REGIONS, TOKENS};
use crate::metrics;
use crate::metrics::bootstrap::{self, Resamples};
use crate::nn::tune_allocator;

/// The stage.
pub(crate) struct Evaluate;

/// What to evaluate on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluateParams {
    /// `"train"`, `"val"` or `"test"`.
    #[serde(default = "val")]
    split: String,
    /// Rows a batch.
    #[serde(default = "sixteen")]
    batch: usize,
    /// Whether the run is scored on another data set than it was trained on (data shift).
    #[serde(default)]
    shift: bool,
    /// Stratified bootstrap resamples for the 95% intervals.
    #[serde(default = "thousand")]
    resamples: usize,
    /// Seed of the resamples; runs with the same one have paired intervals.
    #[serde(default = "one")]
    seed: u64,
}

fn val() -> String {
    memes::name(Split::Val).to_owned()
}

fn sixteen() -> usize {
    16
}

fn thousand() -> usize {
    1000
}

fn one() -> u64 {
    1
}

impl Stage for Evaluate {
    type Params = EvaluateParams;
    const NAME: &'static str = "evaluate";
    const ABOUT: &'static str = "Predictions and metrics of a trained run on one split";
    const VERSION: u32 = 5;
    const INPUTS: &'static [Port] = &[Port::one(RUN), Port::one(TOKENS), Port::one(REGIONS)];

    fn check(&self, params: &EvaluateParams) -> Result<(), String> {
        if params.batch == 0 {
            return Err("batch must be at least 1".to_owned());
        }
        if !(100..=1_000_000).contains(&params.resamples) {
            return Err("resamples must be from 100 to 1,000,000".to_owned());
        }
        finished::split(&params.split).map(drop)
    }

    fn run(&self, params: &EvaluateParams, job: &Job) -> Result<(), StageError> {
        tune_allocator();
        let split = finished::split(&params.split).map_err(StageError::Params)?;
        let device = device::open(&job.host.device)?;
        let run = job.inputs.one(RUN)?;
        let history = History::read(run)?;
        let memes = finished::memes(job)?;
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

        let scored = finished::score(job, &memes, &rows, params.batch, &device)?;

        let found = scored.summary(&labels);
        let Some(roc_auc) = found.roc_auc else {
            let problem = format!(
                "ROC-AUC is undefined on split `{}`: one class only, or logits that are not numbers",
                params.split
            );
            return Err(StageError::failed(problem));
        };
        let probabilities = scored.probabilities();
        let id = |&row: &usize| memes.tokens.rows[row].id.clone();
        predictions::write(&job.out.join("predictions.csv"), &finished::predictions(&memes, &rows, &scored))?;
        let beside = rows.iter().zip(&probabilities).zip(&labels);
        let beside = beside.map(|((row, &[p0, p1]), &label)| Score { id: id(row), label, p0, p1 });
        scores::write(job.out, &beside.collect::<Vec<_>>())?;

        let undefined = |name: &str| StageError::failed(format!("{name} is undefined on these rows"));
        let ones: Vec<f32> = probabilities.iter().map(|pair| pair[1]).collect();
        let guesses: Vec<u8> = scored.logits.iter().map(|&pair| metrics::argmax(pair)).collect();
        let resamples = Resamples { labels: &labels, count: params.resamples, seed: params.seed };
        let count = |classes: &[u8]| classes.iter().filter(|class| **class == 1).count() as u64;
        Metrics {
            run: history.run,
            parameters: history.parameters,
            dataset: dataset.clone(),
            split,
            rows: rows.len() as u64,
            positives: count(&labels),
            predicted_positives: count(&guesses),
            best_update: history.best.update,
            loss: found.loss,
            accuracy: found.accuracy,
            f1: found.f1,
            roc_auc,
            average_precision: metrics::average_precision(&ones, &labels)
                .ok_or_else(|| undefined("average precision"))?,
            balanced_accuracy: metrics::balanced_accuracy(&guesses, &labels)
                .ok_or_else(|| undefined("balanced accuracy"))?,
            calibration_error: metrics::calibration_error(&ones, &labels)
                .ok_or_else(|| undefined("the calibration error"))?,
            resamples: (params.resamples, params.seed),
            intervals: bootstrap::intervals(&probabilities, &guesses, &resamples),
        }
        .write(job.out)?;
        Ok(())
    }
}
