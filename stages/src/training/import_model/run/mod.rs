//! `import-run`: a finished model of others as a run: the base, its classifier and, where it has them, its adapters. Which
//! model it is, its dimensions and whether it has adapters follow from the names and shapes of its tensors. It does not know
//! how the model was trained.
//!
//! ```text
//! <tree>/history.json          which run it is and its parameters; no updates and no validations
//! <tree>/view.json             what of a meme the model is shown
//! <tree>/config.json           the model's dimensions
//! <tree>/weights.safetensors   all tensors
//! ```

use std::path::Path;

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stage_api::{Job, Port, Stage, StageError};

use super::checkpoint::{self, Checkpoint};
use super::config_json::{CONFIG, Stated};
use super::tensor_names::{self, TensorNames};
use super::{archive, from};
use crate::artifacts::history::{History, ParameterCounts, RunInfo, ValPoint};
use crate::artifacts::view::{Ablation, View};
use crate::artifacts::weights;
use crate::models::{Config, Family, Known, Mode, Parts, TensorShapes};

/// The stage.
pub struct ImportRun;

/// What is imported.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportRunParams {
    /// Short name of the data set that it was trained on: `"hmd"`, `"mmh"`.
    dataset: String,
    /// How it was trained: `"fc"`, `"pe"` or `"full"`. `"pe"` when absent and it has adapters, else `"full"`.
    #[serde(default)]
    mode: Option<Mode>,
    /// The seed that tables show.
    #[serde(default)]
    seed: u64,
    /// What shapes do not tell, under the names of `config.json`: attention heads and, of a ViLBERT, the order of its layers.
    /// When absent, what the folder's `config.json` says, or what follows from the paper's model.
    #[serde(default)]
    config: Option<Known>,
    /// Longest text the model is shown, in tokens.
    #[serde(default = "max_text")]
    max_text: usize,
    /// Most regions the model is shown.
    #[serde(default = "max_regions")]
    max_regions: usize,
}

fn max_text() -> usize {
    128
}

fn max_regions() -> usize {
    100
}

impl Stage for ImportRun {
    type Params = ImportRunParams;
    const NAME: &'static str = "import-run";
    const ABOUT: &'static str =
        "A finished model out of a checkpoint of MMF or Hugging Face, as `train` leaves one";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn check(&self, params: &ImportRunParams) -> Result<(), String> {
        if params.dataset.is_empty() {
            return Err("dataset must not be empty".to_owned());
        }
        if params.max_text < 2 {
            return Err("max_text must be at least 2, for [CLS] and [SEP]".to_owned());
        }
        if params.max_regions == 0 {
            return Err("max_regions must be at least 1".to_owned());
        }
        Ok(())
    }

    fn run(&self, params: &ImportRunParams, job: &Job) -> Result<(), StageError> {
        let input = job.inputs.one("archive")?;
        let archive =
            checkpoint::find(input).map_err(|(path, problem)| StageError::input("archive", path, problem))?;
        let refuse = |problem: String| StageError::input("archive", &archive, problem);
        let checkpoint = Checkpoint::open(&archive::unpacked(&archive, job)?).map_err(refuse)?;
        let names = checkpoint.names();
        let usual: Vec<String> = names.iter().filter_map(|name| from::usual(name)).collect();
        let family = Family::from_tensors(usual.iter().map(String::as_str));
        // A file is read alone: only a folder's neighbours are part of the input.
        let stated = if input.is_dir() { stated_config(&archive, family)? } else { None };
        let mut config = stated.clone().unwrap_or_else(|| family.base());

        let names = TensorNames::sort(names, |name| config.run_name(name)).map_err(refuse)?;
        names.check_any(family.title()).map_err(refuse)?;
        let tensors = names.load(checkpoint, job, refuse)?;
        let shape = |(name, tensor): (&String, &Tensor)| (name.clone(), tensor.dims().to_vec());
        let shapes: TensorShapes = tensors.iter().map(shape).collect();
        let known = params.config.clone().or_else(|| stated.as_ref().map(|config| config.known()));
        config.set_from_shapes(&shapes, &known.clone().unwrap_or_default()).map_err(refuse)?;
        config.check().map_err(|error| refuse(error.to_string()))?;
        if let Some(problem) = stated.and_then(|stated| difference(&stated, &config, params.config.is_some()))
        {
            return Err(StageError::input("archive", archive.with_file_name(CONFIG), problem));
        }

        let adapters = shapes.keys().any(|name| name.contains("Adapt"));
        let mode = mode(adapters, params.mode).map_err(refuse)?;
        let expected = config.parameters(Parts { adapters, head: true }).map_err(StageError::failed)?;
        let surplus = |_: &str| "is not part of a model of the dimensions that the other tensors have";
        names.check(&expected, family.title(), family, surplus).map_err(refuse)?;
        tensor_names::check_shapes(&tensors, &expected).map_err(refuse)?;
        names.note_left(job.progress);
        let heads = config.known().num_attention_heads.unwrap_or_default();
        let by = if known.is_some() { "" } else { ", as wide as in the paper's model" };
        job.progress.note(&format!(
            "{} tensors imported: a {} of mode {mode}; attention heads: {heads}{by}",
            tensors.len(),
            family.title()
        ));

        let counts = config.counts(mode).map_err(StageError::failed)?;
        History {
            run: RunInfo {
                dataset: params.dataset.clone(),
                model: family.as_str().to_owned(),
                mode: mode.to_string(),
                seed: params.seed,
                updates: 0,
            },
            parameters: ParameterCounts {
                total: counts.total,
                trained: counts.trained,
                adapters: counts.adapters,
            },
            rows: (0, 0),
            train: Vec::new(),
            val: Vec::new(),
            best: ValPoint { update: 0, loss: f64::NAN, roc_auc: f64::NAN, accuracy: f64::NAN, f1: f64::NAN },
        }
        .write(job.out)?;
        View { max_text: params.max_text, max_regions: params.max_regions, ablation: Ablation::None }
            .write(job.out)?;
        Ok(weights::write(job.out, &config, &tensors)?)
    }
}

/// The dimensions that the `config.json` next to a checkpoint gives, if there is one.
///
/// # Errors
/// One that cannot be read, or that is of another model than the tensors.
fn stated_config(checkpoint: &Path, family: Family) -> Result<Option<Config>, StageError> {
    let Some(stated) = Stated::next_to(checkpoint)? else { return Ok(None) };
    let config: Config = serde_json::from_value(stated.value()).map_err(|error| stated.error(error))?;
    if config.family() != family {
        let (of, found) = (config.family().title(), family.title());
        return Err(stated.error(format!("is of a {of}, the tensors next to it are of a {found}")));
    }
    Ok(Some(config))
}

/// The first dimension in which a `config.json` and the tensors next to it differ. Adapters count by their tensors alone;
/// with `overridden`, so does what params set in its place.
fn difference(stated: &Config, found: &Config, overridden: bool) -> Option<String> {
    let fields = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (stated, found) = (fields(stated), fields(found));
    let is_counted = |name: &str| {
        !name.starts_with("adapter_") && !(overridden && (name.ends_with("heads") || name.ends_with("_id")))
    };
    let differs = |(name, value): (&String, &Value)| {
        let found = found.get(name).filter(|found| is_counted(name) && *found != value)?;
        Some(format!("says that `{name}` is {value}; by the tensors next to it it is {found}"))
    };
    stated.iter().find_map(differs)
}

/// The mode of a model, which may say more than its tensors do: FC and Full-FT have the same.
fn mode(adapters: bool, stated: Option<Mode>) -> Result<Mode, String> {
    match (adapters, stated) {
        (true, None | Some(Mode::Pe)) => Ok(Mode::Pe),
        (true, Some(other)) => Err(format!("has adapters, so its mode is pe and not {other}")),
        (false, Some(Mode::Pe)) => Err("has no adapters, so its mode is not pe".to_owned()),
        (false, stated) => Ok(stated.unwrap_or(Mode::Full)),
    }
}

#[cfg(test)]
mod tests;
