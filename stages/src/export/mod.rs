//! `repro export`: results for other programs: a run as a checkpoint, a run's settings and curves for a tracker, a step
//! with all that led to it as an RO-Crate, region features for MMF. It knows which forms there are; each form has a file
//! of its own.

mod checkpoint;
mod features;
mod mlflow;
mod protobuf;
mod ro_crate;
mod tensorboard;
mod tracked;
mod wandb;

use std::fs;
use std::path::Path;

use clap::{Args, ValueEnum};
use serde_json::json;
use stage_api::{Answer, StageError, Tool, ToolContext};

use self::features::Features;
use self::tracked::Tracked;
use crate::training::inference;

/// The tool.
pub(crate) struct Export;

/// Hand results to other programs
///
/// A finished run as a checkpoint: `mmf`, a .pth file with the state under `model`, under MMF's names; `huggingface`, a
/// folder with config.json, model.safetensors, the vocabulary, a model card, and the code of the head and the adapters,
/// which transformers does not have (loaded with trust_remote_code).
///
/// Its settings, curves, best point and evaluations, or what a command measured, for a tracker: `tensorboard`, event
/// files in a folder of the run below PATH; `wandb`, an offline run below PATH, to be uploaded with `wandb sync`;
/// `mlflow`, sent to the tracking server whose address PATH is, or MLFLOW_TRACKING_URI without --out, into the
/// experiment MLFLOW_EXPERIMENT_NAME, with the login of MLflow's own variables.
///
/// Any step as a research object: `ro-crate`, a folder with its files, those of every published step above it, and the
/// provenance of all steps (Provenance Run Crate).
///
/// A step's region features for MMF: `mmf-lmdb`, a folder with its LMDB, `mmf-npy`, a folder of .npy files.
#[derive(Args)]
pub(crate) struct ExportArgs {
    /// The step that trained or imported it: hmd-pe-train; for a tracker also a command; for ro-crate any step: report; for
    /// features hmd-regions.
    run: String,
    /// The form to write.
    #[arg(long, value_name = "FORM")]
    to: Form,
    /// The file (mmf), folder or server (mlflow) to write to; only mlflow can do without.
    #[arg(long, value_name = "PATH")]
    out: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Mmf,
    Huggingface,
    Tensorboard,
    Wandb,
    Mlflow,
    RoCrate,
    MmfLmdb,
    MmfNpy,
}

impl Tool for Export {
    type Args = ExportArgs;
    const NAME: &'static str = "export";
    const OUTSIDE: &'static [&'static str] = mlflow::VARIABLES;

    fn run(&self, args: &ExportArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let name = args.run.as_str();
        let to = args.to.to_possible_value().map_or_else(String::new, |form| form.get_name().to_owned());
        let file = || {
            let missing = || StageError::Params(format!("--to {to} needs --out PATH"));
            args.out.as_deref().map(Path::new).ok_or_else(missing)
        };
        let weights = || {
            let step = inference::step(context, name)?;
            context.results.output(&step.name)
        };
        let out = match args.to {
            Form::Mmf => {
                checkpoint::mmf(&weights()?, file()?)?;
                file()?.display().to_string()
            }
            Form::Huggingface => {
                checkpoint::huggingface(context, name, file()?)?;
                file()?.display().to_string()
            }
            Form::Tensorboard => {
                tensorboard::export(&Tracked::read(context, name)?, file()?)?.display().to_string()
            }
            Form::Wandb => wandb::export(&Tracked::read(context, name)?, file()?)?.display().to_string(),
            Form::Mlflow => mlflow::export(&Tracked::read(context, name)?, args.out.as_deref(), context)?,
            Form::RoCrate => {
                ro_crate::export(context, name, file()?)?;
                file()?.display().to_string()
            }
            Form::MmfLmdb => {
                features::lmdb(&Features::open(context, name)?, file()?, context)?;
                file()?.display().to_string()
            }
            Form::MmfNpy => {
                features::npy(&Features::open(context, name)?, file()?, context)?;
                file()?.display().to_string()
            }
        };
        let json = json!({"to": to, "out": out}).to_string();
        Ok(Answer { text: format!("{out}\n"), json, stale: false })
    }
}

/// Writes a file and the folders above it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StageError> {
    let fail = |error| StageError::failed(format!("{}: {error}", path.display()));
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
    fs::write(path, bytes).map_err(fail)
}
