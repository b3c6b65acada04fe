//! Evaluates a finished run, or predictions of others, on one split: predictions as MMF exports them, and the metrics over the
//! whole split. It does not know where the scores come from.
//!
//! ```text
//! <tree>/predictions.csv   id, P(class 1), predicted class
//! <tree>/scores.csv        id, true class, P(class 0), P(class 1)
//! <tree>/metrics.json      loss and metrics with 95% intervals
//! ```

mod external_predictions;
mod scored_rows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{AllowedEnv, Job, Port, Stage, StageError};

use self::scored_rows::Scored;
use crate::artifacts::samples::Split;
use crate::models::Family;
use crate::training::dataset::{REGIONS, TOKENS};
use crate::training::inference::RUN;

/// The port that predictions of others come in by: a CSV file.
const PREDICTIONS: &str = "predictions";
/// The longest name of predictions.
const LONGEST_NAME: usize = 60;

/// The stage.
pub(crate) struct Evaluate;

/// What to evaluate on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluateParams {
    /// `"train"`, `"val"` or `"test"`.
    #[serde(default = "val")]
    split: Split,
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
    /// What tables call the predictions of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

fn val() -> Split {
    Split::Val
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
    const ABOUT: &'static str = "Predictions and metrics of a run, or of a CSV file of others, on one split";
    const VERSION: u32 = 5;
    const INPUTS: &'static [Port] =
        &[Port::optional(RUN), Port::one(TOKENS), Port::optional(REGIONS), Port::placed(PREDICTIONS)];

    fn check(&self, params: &EvaluateParams) -> Result<(), String> {
        if params.batch == 0 {
            return Err("batch must be at least 1".to_owned());
        }
        if !(100..=1_000_000).contains(&params.resamples) {
            return Err("resamples must be from 100 to 1,000,000".to_owned());
        }
        params.name.as_deref().map_or(Ok(()), check_name)
    }

    fn check_wiring(&self, params: &EvaluateParams, ports: &[&str]) -> Result<(), String> {
        let has = |port: &str| ports.contains(&port);
        match (has(RUN), has(REGIONS), has(PREDICTIONS)) {
            (true, true, false) if params.name.is_some() => {
                Err(format!("name is what tables call {PREDICTIONS}; a run has its own"))
            }
            (true, true, false) => Ok(()),
            (false, false, true) if params.name.is_none() => {
                Err(format!("{PREDICTIONS} need a name, which tables call them by"))
            }
            (false, false, true) if params.shift => {
                Err(format!("shift is of runs, and not of {PREDICTIONS}"))
            }
            (false, false, true) => Ok(()),
            _ => Err(format!("it reads either {RUN} and {REGIONS}, or {PREDICTIONS}")),
        }
    }

    fn needs_human(&self, _: &EvaluateParams, ports: &[&str], _: &AllowedEnv) -> Option<String> {
        let is_there = ports.contains(&PREDICTIONS) || (ports.contains(&RUN) && ports.contains(&REGIONS));
        (!is_there).then(|| {
            "A file or folder that an input of this step names is not in the project. Put it there; predictions are a CSV \
             file with the columns id and proba."
                .to_owned()
        })
    }

    fn run(&self, params: &EvaluateParams, job: &Job) -> Result<(), StageError> {
        let split = params.split;
        let scored = match job.inputs.optional(PREDICTIONS) {
            Some(file) => {
                external_predictions::scored(params.name.as_deref().unwrap_or_default(), file, split, job)?
            }
            None => Scored::by_run(params, split, job)?,
        };
        scored.write(params, split, job.out)
    }
}

/// Whether tables may call predictions so.
fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        return Err(format!("name must be a line of at most {LONGEST_NAME} characters"));
    }
    if Family::ALL.iter().any(|family| family.as_str() == name) {
        return Err(format!(
            "name is `{name}`, which is what tables call runs of that model; choose another"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
