//! Predictions of a finished run for memes that need no labels: the stage `predict`, and `repro predict`,
//! which does the same on results that are there, or on memes that no step has produced. It does not judge them; `evaluate`
//! does.
//!
//! ```text
//! <tree>/predictions.csv   id, P(class 1), predicted class, as MMF exports them
//! ```

mod user_memes;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{
    AllowedEnv, Answer, Arg, Count, Desk, Input, InputView, Inputs, Job, Port, Stage, StageError, StepView,
    Tool, ToolArgs,
};

use crate::artifacts::predictions::{self, Prediction};
use crate::host::device;
use crate::nn::tune_allocator;
use crate::training::dataset::{REGIONS, TOKENS};
use crate::training::inference::{self, RUN};
use user_memes::MEMES;

/// Both the stage and the tool.
pub(crate) struct Predict;

/// What to predict.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PredictParams {
    /// `"train"`, `"val"` or `"test"`.
    split: String,
    /// Rows a batch.
    batch: usize,
}

impl Default for PredictParams {
    fn default() -> Self {
        Self { split: "test".to_owned(), batch: 16 }
    }
}

fn predict(params: &PredictParams, job: &Job) -> Result<Vec<Prediction>, StageError> {
    tune_allocator();
    let split = inference::split(&params.split).map_err(StageError::Params)?;
    let device = device::open(&job.host.device)?;
    let memes = inference::memes(job)?;
    let rows = memes.rows_of(split)?;
    let scores = inference::score(job, &memes, &rows, params.batch, &device)?;
    if scores.logits.iter().flatten().any(|logit| !logit.is_finite()) {
        return Err(StageError::failed("the run gives logits that are not numbers"));
    }
    Ok(inference::predictions(&memes, &rows, &scores))
}

impl Stage for Predict {
    type Params = PredictParams;
    const NAME: &'static str = "predict";
    const ABOUT: &'static str = "Predictions of a trained run, labels or not (MMF's CSV)";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::one(RUN), Port::one(TOKENS), Port::one(REGIONS)];

    fn check(&self, params: &PredictParams) -> Result<(), String> {
        if params.batch == 0 {
            return Err("batch must be at least 1".to_owned());
        }
        inference::split(&params.split).map(drop)
    }

    fn run(&self, params: &PredictParams, job: &Job) -> Result<(), StageError> {
        Ok(predictions::write(&job.out.join("predictions.csv"), &predict(params, job)?)?)
    }
}

impl Tool for Predict {
    fn name(&self) -> &'static str {
        "predict"
    }

    fn about(&self) -> &'static str {
        "Score memes with a finished run\n\nPrints MMF's CSV: id, P(class 1), predicted class. The memes are those of the \
         run's own data set, unless other steps are named, or a file of other memes: a .jsonl file with id, img (the \
         picture's path from the file's folder) and text on each line."
    }

    fn args(&self) -> &'static [Arg] {
        const ARGS: &[Arg] = &[
            Arg::positional("run", Count::One, "the step that trained or imported it: hmd-pe-train"),
            Arg::option("--tokens", "STEP", Count::Optional, "the texts; the run's own by default"),
            Arg::option(
                "--regions",
                "STEP",
                Count::Optional,
                "the pictures' regions; the run's own by default",
            ),
            Arg::option(MEMES, "FILE", Count::Optional, "memes that no step has produced: a .jsonl file"),
            Arg::option("--split", "NAME", Count::Optional, "train, val or test (the default)"),
            Arg::option("--out", "FILE", Count::Optional, "write the CSV there instead of printing it"),
        ];
        ARGS
    }

    fn run(&self, args: &ToolArgs, desk: &Desk) -> Result<Answer, StageError> {
        let name = args.get("run").unwrap_or_default();
        let step = inference::step(desk, name)?;
        let mut params = PredictParams::default();
        if let Some(split) = args.get("--split") {
            split.clone_into(&mut params.split);
            inference::split(split).map_err(StageError::Params)?;
        }
        let space = tempfile::tempdir()?;
        let [tokens, regions] = match args.get(MEMES) {
            Some(_) if ["--tokens", "--regions", "--split"].iter().any(|other| args.has(other)) => {
                let problem =
                    "--memes brings its own texts and pictures: leave out --tokens, --regions and --split";
                return Err(StageError::Params(problem.to_owned()));
            }
            Some(file) => user_memes::tokens_and_regions(Path::new(file), &step, desk, space.path())?,
            None => [
                memes(&step, TOKENS, args.get("--tokens"), desk)?,
                memes(&step, REGIONS, args.get("--regions"), desk)?,
            ],
        };
        let input = |port: &str, path: PathBuf| Input { port: port.to_owned(), path };
        let inputs = Inputs(vec![
            input(RUN, desk.results.output(name)?),
            input(TOKENS, tokens),
            input(REGIONS, regions),
        ]);
        // Nothing is written into either folder: the predictions are the answer.
        let nowhere = Path::new("");
        let job = Job {
            inputs: &inputs,
            out: nowhere,
            scratch: nowhere,
            host: desk.host,
            allowed_env: &AllowedEnv::default(),
            progress: desk.progress,
        };
        let found = predict(&params, &job)?;
        let json = serde_json::to_string(&found).map_err(StageError::failed)?;
        let text = match args.get("--out") {
            Some(file) => {
                predictions::write(Path::new(file), &found)?;
                format!("{} predictions in {file}\n", found.len())
            }
            None => String::from_utf8(predictions::csv(&found).map_err(StageError::failed)?)
                .map_err(StageError::failed)?,
        };
        Ok(Answer { text, json, stale: false })
    }
}

/// The output of the step `named`, or else the run's own memes at `port`.
fn memes(run: &StepView, port: &str, named: Option<&str>, desk: &Desk) -> Result<PathBuf, StageError> {
    let own = named.is_none().then(|| own_memes(run, port, desk)).flatten();
    match named.or(own.as_ref().map(|input| input.source.as_str())) {
        Some(source) => located(source, desk),
        None => Err(StageError::Params(format!(
            "nothing says which memes `{}` is for: no step reads it together with {port}; name steps with --tokens and \
             --regions",
            run.name
        ))),
    }
}

/// What a run read at `port`; of an imported one, what the first step reads there that evaluates it.
fn own_memes(run: &StepView, port: &str, desk: &Desk) -> Option<InputView> {
    let at = |step: &StepView, port: &str| step.inputs.iter().find(|input| input.port == port).cloned();
    let reads = |step: &StepView| at(step, RUN).is_some_and(|input| input.step() == Some(&run.name));
    at(run, port)
        .or_else(|| desk.results.steps().iter().filter(|step| reads(step)).find_map(|step| at(step, port)))
}

/// Where a source is, which the pipeline writes as `step`, `step/part` or `./file`.
fn located(source: &str, desk: &Desk) -> Result<PathBuf, StageError> {
    match source.split_once('/') {
        Some((".", file)) => Ok(desk.results.root().join(file)),
        Some((step, part)) => Ok(desk.results.output(step)?.join(part)),
        None => desk.results.output(source),
    }
}
