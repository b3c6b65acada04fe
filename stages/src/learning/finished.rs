//! A finished run at work: its model, and what it predicts for memes. It does not know what predictions are used for.

use candle_core::Device;
use stage_api::{Job, StageError, StepView, ToolContext};

use super::memes::Memes;
use super::scoring::{Rows, Scores};
use crate::artifacts::predictions::Prediction;
use crate::artifacts::view::View;
use crate::artifacts::weights;
use crate::metrics;
use crate::models::Config;
use crate::nn::Params;

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

/// The memes that came in by the ports of [`Memes`], as the run at the port [`RUN`] was shown its own.
///
/// # Errors
/// Inputs that cannot be read or do not fit the run.
pub(crate) fn memes<'a>(job: &'a Job) -> Result<Memes<'a>, StageError> {
    let run = job.inputs.one(RUN)?;
    let memes = Memes::open(job.inputs, View::read(run)?)?;
    memes.check_fits(&*weights::read_config::<Config>(run)?)?;
    Ok(memes)
}

/// Scores `rows` with the run at the port [`RUN`], `batch` at a time.
///
/// # Errors
/// Weights that cannot be read or are not those of a run; a request to stop.
pub(crate) fn score(
    job: &Job,
    memes: &Memes,
    rows: &[usize],
    batch: usize,
    device: &Device,
) -> Result<Scores, StageError> {
    let run = job.inputs.one(RUN)?;
    let fail = |error: candle_core::Error| StageError::input(RUN, run, error);
    let config: Config = weights::read_config(run)?;
    let params = Params::new(weights::read_tensors(run, device)?, |_| false).map_err(fail)?;
    Scores::of(&*config.build(&params).map_err(fail)?, device, Rows { memes, rows, batch }, job)
}

/// What the scores say, as MMF exports it. The label is the argmax of the softmax: with saturation it can differ from
/// that of the logits.
pub(crate) fn predictions(memes: &Memes, rows: &[usize], scores: &Scores) -> Vec<Prediction> {
    let predicted = rows.iter().zip(scores.probabilities()).map(|(&row, pair)| Prediction {
        id: memes.tokens.rows[row].id.clone(),
        proba: pair[1],
        label: metrics::argmax(pair),
    });
    predicted.collect()
}
