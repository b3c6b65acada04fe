//! Models in evaluation mode: the logits of rows, their metrics, and the predictions of a finished run. Metrics are computed over
//! all rows at once, as the original does. It does not know what predictions are used for, nor which update a model is at.

use std::cmp::Reverse;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use stage_api::{InputView, Job, StageError, StepView, ToolContext};

use super::dataset::{MemeDataset, batch_of};
pub(crate) use super::dataset::{REGIONS, TOKENS};
use super::prefetch::prefetch;
use crate::artifacts::labels::{Label, numbers, predicted_label, scored};
use crate::artifacts::predictions::Prediction;
use crate::artifacts::view::View;
use crate::artifacts::weights;
use crate::host::device;
use crate::metrics;
use crate::models::{Config, Head, Model};
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
    let model = config.build(&params).map_err(fail)?;
    Scores::compute(&*model, config.dimensions().head, device, Rows { memes, rows, batch }, job)
}

/// What the scores say, as MMF exports it. The label is the argmax of the softmax: with saturation it can differ from
/// that of the logits.
pub(crate) fn predictions(memes: &MemeDataset, rows: &[usize], scores: &Scores) -> Vec<Prediction> {
    let predicted = rows.iter().zip(scores.probabilities()).map(|(&row, probabilities)| Prediction {
        id: memes.tokens.rows[row].id.clone(),
        label: predicted_label(&probabilities, scores.head.is_multi_label()),
        probabilities,
    });
    predicted.collect()
}

/// The logits of some rows.
pub(crate) struct Scores {
    /// What the model tells apart.
    head: Head,
    /// Row by row, one for each class, in the order of the rows.
    logits: Vec<f32>,
}

/// Metrics over all rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Mean cross-entropy a row.
    pub loss: f64,
    /// Accuracy, from 0 to 1.
    pub accuracy: f64,
    /// F1 of class 1 of two; of more, the mean of their F1s.
    pub f1: f64,
    /// ROC-AUC; of more classes than two the mean of each against the rest. `None` where it is undefined.
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
        head: Head,
        device: &Device,
        Rows { memes, rows, batch }: Rows,
        job: &Job,
    ) -> Result<Self, StageError> {
        // Texts of one length share a batch, so that next to nothing is padding; the longest come first, so that a batch
        // that is too large for the device fails at once.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&at| Reverse(memes.length(rows[at])));
        let width = head.labels;
        let mut logits = vec![0.0; rows.len() * width];
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
                    let found = model.logits(&batch, None)?.to_vec2::<f32>()?;
                    let found = places.iter().zip(found);
                    found.for_each(|(&at, row)| logits[at * width..][..width].copy_from_slice(&row));
                    Ok(())
                });
                scored.map_err(|error| device::failed("evaluation", &error))?;
            }
            Ok(Self { head, logits })
        })
    }

    /// Whether every logit is a number.
    pub(crate) fn are_finite(&self) -> bool {
        self.logits.iter().all(|logit| logit.is_finite())
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.head.labels)
    }

    /// The probability of each class, row by row: the softmax of the logits, or the sigmoid of each where a row may have several.
    pub(crate) fn probabilities(&self) -> Vec<Vec<f32>> {
        let of_row = match self.head.is_multi_label() {
            true => |row: &[f32]| row.iter().map(|&logit| metrics::sigmoid(logit)).collect(),
            false => metrics::softmax_of,
        };
        self.rows().map(of_row).collect()
    }

    /// The predictions, by logits, which differ where probabilities saturate.
    pub(crate) fn predicted(&self) -> Vec<Label> {
        match self.head.is_multi_label() {
            true => self.probabilities().iter().map(|row| predicted_label(row, true)).collect(),
            false => self.rows().map(|row| predicted_label(row, false)).collect(),
        }
    }

    /// The metrics against `labels`.
    pub(crate) fn summary(&self, labels: &[Label]) -> Summary {
        let (head, predicted) = (self.head, self.predicted());
        let loss = |(row, &label): (&[f32], &Label)| match label {
            Label::One(class) => metrics::cross_entropy(row, class),
            Label::Several(set) => {
                let truth: Vec<bool> = (0..row.len()).map(|class| set.has(class)).collect();
                metrics::binary_cross_entropy(row, &truth)
            }
        };
        let loss = self.rows().zip(labels).map(loss).sum::<f64>() / labels.len().max(1) as f64;
        if head.is_binary() {
            let (predicted, labels) = (numbers(&predicted), numbers(labels));
            let pairs: Vec<[f32; 2]> = self.rows().map(|row| metrics::softmax([row[0], row[1]])).collect();
            return Summary {
                loss,
                accuracy: metrics::accuracy(&predicted, &labels),
                f1: metrics::binary_f1(&predicted, &labels),
                roc_auc: metrics::roc_auc(&pairs, &labels),
            };
        }
        let found = scored(head.labels, labels, &predicted, &self.probabilities().concat()).metrics();
        let f1 = found.f1_macro.unwrap_or_default();
        Summary { loss, accuracy: found.accuracy, f1, roc_auc: found.roc_auc }
    }
}
