//! Evaluates a finished run on one split: predictions as MMF exports them, and the metrics over the whole split.
//!
//! ```text
//! <tree>/predictions.csv   id, P(class 1), predicted class
//! <tree>/metrics.json      loss, accuracy, F1, ROC-AUC
//! ```

use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::history::History;
use crate::artifacts::metrics::Metrics;
use crate::artifacts::predictions::{self, Prediction};
use crate::artifacts::samples::Split;
use crate::artifacts::view::View;
use crate::artifacts::weights;
use crate::device;
use crate::learning::memes::{self, Memes, REGIONS, TOKENS};
use crate::learning::scoring::Scores;
use crate::metrics;
use crate::models::visual_bert::{Config, VisualBert};
use crate::nn::{Params, tune_allocator};

/// The port a train step's tree comes in by.
const RUN: &str = "run";

/// The stage.
pub(crate) struct Evaluate;

/// What to evaluate on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluateParams {
    /// `"train"`, `"val"` or `"test"`.
    #[serde(default = "val")]
    split: String,
    /// Rows a batch.
    #[serde(default = "sixteen")]
    batch: usize,
}

fn val() -> String {
    memes::name(Split::Val).to_owned()
}

fn sixteen() -> usize {
    16
}

impl EvaluateParams {
    fn split(&self) -> Result<Split, String> {
        [Split::Train, Split::Val, Split::Test]
            .into_iter()
            .find(|&split| memes::name(split) == self.split)
            .ok_or_else(|| format!("split \"{}\" is not one of \"train\", \"val\", \"test\"", self.split))
    }
}

impl Stage for Evaluate {
    type Params = EvaluateParams;
    const NAME: &'static str = "evaluate";
    const ABOUT: &'static str = "Predictions and metrics of a trained run on one split";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one(RUN), Port::one(TOKENS), Port::one(REGIONS)];

    fn check(&self, params: &EvaluateParams) -> Result<(), String> {
        if params.batch == 0 {
            return Err("batch must be at least 1".to_owned());
        }
        params.split().map(drop)
    }

    fn run(&self, params: &EvaluateParams, job: &Job) -> Result<(), StageError> {
        tune_allocator();
        let split = params.split().map_err(StageError::Params)?;
        let device = device::open(&job.host.device)?;
        let run = job.inputs.one(RUN)?;
        let history = History::read(run)?;
        let memes = Memes::open(job.inputs, View::read(run)?, &device)?;
        let config: Config = weights::read_config(run)?;
        memes.check_fits(&config)?;
        let dataset = &memes.tokens.info.dataset;
        if *dataset != history.run.dataset {
            let problem = format!("holds `{dataset}`, the run was trained on `{}`", history.run.dataset);
            return Err(StageError::input(TOKENS, job.inputs.one(TOKENS)?, problem));
        }
        let rows = memes.rows_of(split)?;
        let labels = memes.labels(&rows)?;

        let from_run = |error: candle_core::Error| StageError::input(RUN, run, error);
        let params_of_run = Params::new(weights::read_tensors(run, &device)?, |_| false).map_err(from_run)?;
        let model = VisualBert::new(&config, &params_of_run).map_err(from_run)?;
        let scores = Scores::of(&model, &memes, &rows, params.batch, job)?;

        let found = scores.summary(&labels);
        let Some(roc_auc) = found.roc_auc else {
            let problem = format!(
                "ROC-AUC is undefined on split `{}`: one class only, or logits that are not numbers",
                params.split
            );
            return Err(StageError::failed(problem));
        };
        // The exported label is the argmax of the softmax: with saturation it can differ from the logits'.
        let predicted: Vec<Prediction> = rows
            .iter()
            .zip(scores.probabilities())
            .map(|(&row, pair)| Prediction {
                id: memes.tokens.rows[row].id.clone(),
                proba: pair[1],
                label: metrics::argmax(pair),
            })
            .collect();
        predictions::write(&job.out.join("predictions.csv"), &predicted)?;
        Metrics {
            run: history.run,
            parameters: history.parameters,
            split,
            rows: rows.len() as u64,
            positives: labels.iter().filter(|label| **label == 1).count() as u64,
            best_update: history.best.update,
            loss: found.loss,
            accuracy: found.accuracy,
            f1: found.f1,
            roc_auc,
        }
        .write(job.out)?;
        Ok(())
    }
}
