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

use serde_json::json;
use stage_api::{Answer, Arg, Count, Desk, StageError, Tool, ToolArgs};

use self::features::Features;
use self::tracked::Tracked;
use crate::training::inference;

/// The tool.
pub(crate) struct Export;

impl Tool for Export {
    fn name(&self) -> &'static str {
        "export"
    }

    fn about(&self) -> &'static str {
        "Hand results to other programs\n\nA finished run as a checkpoint: `mmf`, a .pth file with the state under \
         `model`, under MMF's names; `huggingface`, a folder with config.json, model.safetensors, and the code of the \
         head and the adapters, which transformers does not have (loaded with trust_remote_code).\n\nIts settings, \
         curves, best point and evaluations for a tracker: `tensorboard`, event files in a folder of the run below PATH; \
         `wandb`, an offline run below PATH, to be uploaded with `wandb sync`; `mlflow`, sent to the tracking server whose \
         address PATH is, or MLFLOW_TRACKING_URI without --out, into the experiment MLFLOW_EXPERIMENT_NAME, with the \
         login of MLflow's own variables.\n\nAny step as a research object: `ro-crate`, a folder with its files, those of \
         every published step above it, and the provenance of all steps (Provenance Run Crate).\n\nA step's region features \
         for MMF: `mmf-lmdb`, a folder with its LMDB, `mmf-npy`, a folder of .npy files."
    }

    fn args(&self) -> &'static [Arg] {
        const ARGS: &[Arg] = &[
            Arg::positional(
                "run",
                Count::One,
                "the step that trained or imported it: hmd-pe-train; for ro-crate any step: report; for features hmd-regions",
            ),
            Arg::option(
                "--to",
                "FORM",
                Count::One,
                "mmf, huggingface, tensorboard, wandb, mlflow, ro-crate, mmf-lmdb or mmf-npy",
            ),
            Arg::option(
                "--out",
                "PATH",
                Count::Optional,
                "the file (mmf), folder or server (mlflow) to write to; only mlflow can do without",
            ),
        ];
        ARGS
    }

    fn allowed_env(&self) -> &'static [&'static str] {
        mlflow::VARIABLES
    }

    fn run(&self, args: &ToolArgs, desk: &Desk) -> Result<Answer, StageError> {
        let name = args.get("run").unwrap_or_default();
        let to = args.get("--to").unwrap_or_default();
        let file = || {
            let missing = || StageError::Params(format!("--to {to} needs --out PATH"));
            args.get("--out").map(Path::new).ok_or_else(missing)
        };
        let weights = || {
            let step = inference::step(desk, name)?;
            desk.results.output(&step.name)
        };
        let out = match to {
            "mmf" => {
                checkpoint::mmf(&weights()?, file()?)?;
                file()?.display().to_string()
            }
            "huggingface" => {
                checkpoint::huggingface(&weights()?, file()?)?;
                file()?.display().to_string()
            }
            "tensorboard" => tensorboard::export(&Tracked::read(desk, name)?, file()?)?.display().to_string(),
            "wandb" => wandb::export(&Tracked::read(desk, name)?, file()?)?.display().to_string(),
            "mlflow" => mlflow::export(&Tracked::read(desk, name)?, args.get("--out"), desk)?,
            "ro-crate" => {
                ro_crate::export(desk, name, file()?)?;
                file()?.display().to_string()
            }
            "mmf-lmdb" => {
                features::lmdb(&Features::open(desk, name)?, file()?, desk)?;
                file()?.display().to_string()
            }
            "mmf-npy" => {
                features::npy(&Features::open(desk, name)?, file()?, desk)?;
                file()?.display().to_string()
            }
            other => {
                return Err(StageError::Params(format!(
                    "--to is `{other}`; it must be mmf, huggingface, tensorboard, wandb, mlflow, ro-crate, mmf-lmdb or \
                     mmf-npy"
                )));
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
