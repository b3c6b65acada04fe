//! Predictions of a finished run for memes that need no labels: the stage `predict`, and `repro predict`,
//! which does the same on results that are there, or on memes that no step has produced. It does not judge them; `evaluate`
//! does.
//!
//! ```text
//! <tree>/predictions.csv   id, P(class 1), predicted class, as MMF exports them
//! ```

mod user_memes;

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{
    AllowedEnv, Answer, Input, Inputs, Job, Port, Stage, StageError, StepView, Tool, ToolContext,
};

use crate::artifacts::predictions::{self, Prediction};
use crate::artifacts::samples::Split;
use crate::host::device;
use crate::nn::tune_allocator;
use crate::training::dataset::{REGIONS, TOKENS};
use crate::training::inference::{self, RUN};
use user_memes::Memes;

/// Both the stage and the tool.
pub(crate) struct Predict;

/// What to predict.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PredictParams {
    /// `"train"`, `"val"` or `"test"`.
    split: Split,
    /// Rows a batch.
    batch: usize,
}

impl Default for PredictParams {
    fn default() -> Self {
        Self { split: Split::Test, batch: 16 }
    }
}

fn predict(params: &PredictParams, job: &Job) -> Result<Vec<Prediction>, StageError> {
    tune_allocator();
    let device = device::open(&job.host.device)?;
    let memes = inference::memes(job)?;
    let rows = memes.rows_of(params.split)?;
    let scores = inference::score(job, &memes, &rows, params.batch, &device)?;
    if !scores.are_finite() {
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
        Ok(())
    }

    fn run(&self, params: &PredictParams, job: &Job) -> Result<(), StageError> {
        Ok(predictions::write(&job.out.join("predictions.csv"), &predict(params, job)?)?)
    }
}

/// Score memes with a finished run
///
/// Prints MMF's CSV: id, P(class 1), predicted class; of more classes than two the predicted class, then the probability of each.
/// The memes are those of the run's own data set, unless other steps are named, or a table of other memes: CSV, TSV or JSON lines
/// with columns image (or img, file_name: the picture's path from the file's folder), text and, if there are any, id. Of one meme
/// (--image and --text) it prints P(class 1) alone, or the probability of each class.
#[derive(Args)]
pub(crate) struct PredictArgs {
    /// The step that trained or imported it: hmd-pe-train.
    run: String,
    /// The texts; the run's own by default.
    #[arg(long, value_name = "STEP")]
    tokens: Option<String>,
    /// The pictures' regions; the run's own by default.
    #[arg(long, value_name = "STEP")]
    regions: Option<String>,
    /// A table of other memes (.csv, .tsv, .jsonl), with their own texts and pictures.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "regions", "split"])]
    memes: Option<PathBuf>,
    /// The picture of one meme: a .png or .jpg file. Its regions are extracted on the spot.
    #[arg(long, value_name = "PICTURE", requires = "text", conflicts_with_all = ["tokens", "regions", "split", "memes", "out"])]
    image: Option<PathBuf>,
    /// The text of that meme.
    #[arg(long, value_name = "TEXT", requires = "image")]
    text: Option<String>,
    /// Which split.
    #[arg(long, value_name = "NAME", default_value = "test", value_parser = split())]
    split: Split,
    /// Write the CSV there instead of printing it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Parses the name of a split.
fn split() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::ALL.map(Split::as_str))
        .try_map(|name| Split::from_name(&name).ok_or("there is no such split"))
}

impl Tool for Predict {
    type Args = PredictArgs;
    const NAME: &'static str = "predict";

    fn run(&self, args: &PredictArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let step = inference::step(context, &args.run)?;
        let params = PredictParams { split: args.split, ..PredictParams::default() };
        let space = tempfile::tempdir()?;
        let other = match (&args.memes, &args.image) {
            (Some(file), _) => Some(Memes::File(file)),
            (None, Some(picture)) => Some(Memes::One(picture, args.text.as_deref().unwrap_or_default())),
            (None, None) => None,
        };
        let [tokens, regions] = match &other {
            Some(memes) => user_memes::tokens_and_regions(memes, &step, context, space.path())?,
            None => [
                memes(&step, TOKENS, args.tokens.as_deref(), context)?,
                memes(&step, REGIONS, args.regions.as_deref(), context)?,
            ],
        };
        let input = |port: &str, path: PathBuf| Input::new(port, path);
        let inputs = Inputs(vec![
            input(RUN, context.results.output(&args.run)?),
            input(TOKENS, tokens),
            input(REGIONS, regions),
        ]);
        // Nothing is written into either folder: the predictions are the answer.
        let nowhere = Path::new("");
        let job = Job {
            inputs: &inputs,
            out: nowhere,
            scratch: nowhere,
            host: context.host,
            allowed_env: &AllowedEnv::default(),
            progress: context.progress,
        };
        let found = predict(&params, &job)?;
        let json = serde_json::to_string(&found).map_err(StageError::failed)?;
        let text = match &args.out {
            _ if args.image.is_some() => found.iter().map(|one| format!("{}\n", alone(one))).collect(),
            Some(file) => {
                predictions::write(file, &found)?;
                format!("{} predictions in {}\n", found.len(), file.display())
            }
            None => String::from_utf8(predictions::csv(&found).map_err(StageError::failed)?)
                .map_err(StageError::failed)?,
        };
        Ok(Answer { text, json, stale: false })
    }
}

/// P(class 1); of more classes than two the probability of each.
fn alone(prediction: &Prediction) -> String {
    match prediction.binary() {
        Some((proba, _)) => proba.to_string(),
        None => {
            let probabilities: Vec<String> = prediction.probabilities.iter().map(f32::to_string).collect();
            probabilities.join(" ")
        }
    }
}

/// The output of the step `named`, or else the run's own memes at `port`.
fn memes(
    run: &StepView,
    port: &str,
    named: Option<&str>,
    context: &ToolContext,
) -> Result<PathBuf, StageError> {
    let own = named.is_none().then(|| inference::own_input(run, port, context)).flatten();
    match named.or(own.as_ref().map(|input| input.source.as_str())) {
        Some(source) => inference::located(source, context),
        None => Err(StageError::Params(format!(
            "nothing says which memes `{}` is for: no step reads it together with {port}; name steps with --tokens and \
             --regions",
            run.name
        ))),
    }
}
