//! Models in evaluation mode: the logits of rows, their metrics, and the predictions of a finished run. Metrics are computed over
//! all rows at once, as the original does. It does not know what predictions are used for, nor which update a model is at.

use std::cmp::Reverse;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use stage_api::{InputView, Job, StageError, StepView, ToolContext};

use super::dataset::{MemeDataset, batch_of};
pub(crate) use super::dataset::{REGIONS, TOKENS};
use super::prefetch::prefetch;
use crate::artifacts::predictions::Prediction;
use crate::artifacts::view::View;
use crate::artifacts::weights;
use crate::host::device;
use crate::metrics;
use crate::models::{Config, Model};
use crate::nn::ParamStore;
use crate::nn::gpu::{Staged, Upload};

/// The port a train step's tree comes in by.
pub(crate) const RUN: &str = "run";

/// Stages that leave a run.
const MAKERS: [&str; 2] = ["train", "import-run"];

/// The step of that name, which trains or imports a run.
///
/// # Errors
/// There is none, or it runs another stage.
pub(crate) fn step(context: &ToolContext, name: &str) -> Result<StepView, StageError> {
    let step = context.results.steps().into_iter().find(|step| step.name == name);
    let step =
        step.ok_or_else(|| StageError::Params(format!("there is no step `{name}`; see `repro list`")))?;
    if !MAKERS.contains(&step.stage.as_str()) {
        let makers = MAKERS.map(|stage| format!("`{stage}`")).join(" or ");
        let problem = format!("`{name}` runs the stage `{}`; name a step that runs {makers}", step.stage);
        return Err(StageError::Params(problem));
    }
    Ok(step)
}

/// What a run read at `port`; of an imported one, what the first step reads there that evaluates it.
pub(crate) fn own_input(run: &StepView, port: &str, context: &ToolContext) -> Option<InputView> {
    let at = |step: &StepView, port: &str| step.inputs.iter().find(|input| input.port == port).cloned();
    let reads = |step: &StepView| at(step, RUN).is_some_and(|input| input.step() == Some(&run.name));
    at(run, port)
        .or_else(|| context.results.steps().iter().filter(|step| reads(step)).find_map(|step| at(step, port)))
}

/// Where a source is, which the pipeline writes as `step`, `step/part` or `./file`.
///
/// # Errors
/// A step whose output is not there.
pub(crate) fn located(source: &str, context: &ToolContext) -> Result<PathBuf, StageError> {
    match source.split_once('/') {
        Some((".", file)) => Ok(context.results.root().join(file)),
        Some((step, part)) => Ok(context.results.output(step)?.join(part)),
        None => context.results.output(source),
    }
}

/// The memes that came in by the ports of [`MemeDataset`], as the run at the port [`RUN`] was shown its own.
///
/// # Errors
/// Inputs that cannot be read or do not fit the run.
pub(crate) fn memes<'a>(job: &'a Job) -> Result<MemeDataset<'a>, StageError> {
    let run = job.inputs.one(RUN)?;
    let memes = MemeDataset::open(job.inputs, View::read(run)?)?;
    memes.check_fits(&*weights::read_config::<Config>(run)?)?;
    Ok(memes)
}

/// Scores `rows` with the run at the port [`RUN`], `batch` at a time.
///
/// # Errors
/// Weights that cannot be read or are not those of a run; a request to stop.
pub(crate) fn score(
    job: &Job,
    memes: &MemeDataset,
    rows: &[usize],
    batch: usize,
    device: &Device,
) -> Result<Scores, StageError> {
    let run = job.inputs.one(RUN)?;
    let fail = |error: candle_core::Error| StageError::input(RUN, run, error);
    let config: Config = weights::read_config(run)?;
    let params =
        ParamStore::new(device::upload(weights::read_tensors(run)?, device)?, |_| false).map_err(fail)?;
    Scores::compute(&*config.build(&params).map_err(fail)?, device, Rows { memes, rows, batch }, job)
}

/// What the scores say, as MMF exports it. The label is the argmax of the softmax: with saturation it can differ from
/// that of the logits.
pub(crate) fn predictions(memes: &MemeDataset, rows: &[usize], scores: &Scores) -> Vec<Prediction> {
    let predicted = rows.iter().zip(scores.probabilities()).map(|(&row, pair)| Prediction {
        id: memes.tokens.rows[row].id.clone(),
        proba: pair[1],
        label: metrics::argmax(pair),
    });
    predicted.collect()
}

/// The logits of some rows.
pub(crate) struct Scores {
    /// One pair a row, in the order of the rows.
    pub logits: Vec<[f32; 2]>,
}

/// Metrics over all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Mean cross-entropy a row.
    pub loss: f64,
    /// Accuracy, from 0 to 1.
    pub accuracy: f64,
    /// F1 of class 1.
    pub f1: f64,
    /// ROC-AUC; `None` where it is undefined.
    pub roc_auc: Option<f64>,
}

/// What to score.
pub(crate) struct Rows<'a> {
    /// The data set.
    pub memes: &'a MemeDataset<'a>,
    /// Its rows.
    pub rows: &'a [usize],
    /// How many at a time.
    pub batch: usize,
}

impl Scores {
    /// Runs `model`, which is on `device`, without dropout.
    ///
    /// # Errors
    /// A request to stop, or a model that fails.
    pub(crate) fn compute(
        model: &dyn Model,
        device: &Device,
        Rows { memes, rows, batch }: Rows,
        job: &Job,
    ) -> Result<Self, StageError> {
        // Texts of one length share a batch, so that next to nothing is padding; the longest come first, so that a batch
        // that is too large for the device fails at once.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| Reverse(memes.length(rows[at])));
        let mut logits = vec![[0.0; 2]; rows.len()];
        let upload = Upload::new(device).map_err(|error| device::failed("evaluation", &error))?;
        let batches = order.chunks(batch).map(|places| {
            let rows: Vec<usize> = places.iter().map(|&at| rows[at]).collect();
            let batch = memes.plain_batch(&rows)?;
            Ok((places, upload.stage(&batch.tensors())?, batch.mask))
        });
        prefetch(batches, |batches| {
            for batch in batches {
                job.check_cancelled()?;
                let scored = batch.and_then(|(places, tensors, mask): (&[usize], Staged, Tensor)| {
                    let batch = batch_of(tensors.tensors()?, mask)?;
                    let pairs = model.logits(&batch, None)?.to_vec2::<f32>()?;
                    places.iter().zip(pairs).for_each(|(&at, pair)| logits[at] = [pair[0], pair[1]]);
                    Ok(())
                });
                scored.map_err(|error| device::failed("evaluation", &error))?;
            }
            Ok(Self { logits })
        })
    }

    /// P(class 0) and P(class 1) by row.
    pub(crate) fn probabilities(&self) -> Vec<[f32; 2]> {
        self.logits.iter().map(|&pair| metrics::softmax(pair)).collect()
    }

    /// The metrics against `labels`.
    pub(crate) fn summary(&self, labels: &[u8]) -> Summary {
        let predicted: Vec<u8> = self.logits.iter().map(|&pair| metrics::argmax(pair)).collect();
        let losses =
            self.logits.iter().zip(labels).map(|(&pair, &label)| metrics::cross_entropy(pair, label));
        Summary {
            loss: losses.sum::<f64>() / labels.len().max(1) as f64,
            accuracy: metrics::accuracy(&predicted, labels),
            f1: metrics::binary_f1(&predicted, labels),
            roc_auc: metrics::roc_auc(&self.probabilities(), labels),
        }
    }
}
