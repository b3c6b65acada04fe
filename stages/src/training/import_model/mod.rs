//! `import-visualbert` and `import-vilbert`: turn a checkpoint into the weights every run starts from: the original's (MMF)
//! pretrained one, Hugging Face's where it has the model, or any BERT of Hugging Face, which gets fresh visual parts. Kept
//! are exactly the tensors of the base, `model.bert.*`; the log names the others. `import-run` takes a finished model whole.
//! None of them knows where the checkpoint came from, nor what its model's tensors are called: the model does.

mod archive;
mod checkpoint;
mod config_json;
mod from;
mod run;
mod tensor_names;

use std::marker::PhantomData;
use std::path::Path;

use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::region_features::RegionFeatures;
use crate::artifacts::weights;
use crate::models::{self, Architecture, Config, Family, ModelOverrides, Parts, Pretrained};
use checkpoint::Checkpoint;
use config_json::Stated;
use from::From;
pub use run::ImportRun;
use tensor_names::TensorNames;

/// The port of the checkpoint.
const ARCHIVE: &str = "archive";
/// The port of a `config.json` that is not in the checkpoint's folder.
const CONFIG: &str = "config";
/// The port of the regions whose features the model will read.
const REGIONS: &str = "regions";

/// Imports a checkpoint of the model whose dimensions are a `C`.
pub struct Import<C>(PhantomData<C>);

impl<C> Import<C> {
    /// The stage.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

/// Settings of [`Import`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "C: Pretrained")]
#[schemars(bound = "C: Pretrained")]
pub struct ImportParams<C> {
    /// Dimensions of the checkpoint's model. When absent, those of the `config.json` that is in the folder or comes in by its port,
    /// or else the paper's.
    #[serde(default = "none::<C>", skip_serializing_if = "Option::is_none")]
    config: Option<C>,
    /// What the checkpoint is: the model's own name, or `"bert"`: then what a BERT lacks is fresh, or, as the original
    /// begins, a copy of the text's.
    #[serde(default = "itself::<C>")]
    // Not every value is one of every model.
    #[schemars(with = "String")]
    from: From,
    /// Decides what is fresh.
    #[serde(default)]
    seed: u64,
}

/// Without a bound on `C`, which `Option`'s own default would ask for.
fn none<C>() -> Option<C> {
    None
}

fn itself<C: Pretrained>() -> From {
    From::model(C::FAMILY)
}

/// The stage's name and what it does, by the model.
const fn called(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::VisualBert => (
            "import-visualbert",
            "The base of VisualBERT out of a checkpoint of the original, checked by name and shape",
        ),
        Family::Vilbert => (
            "import-vilbert",
            "The base of ViLBERT out of a checkpoint of the original, checked by name and shape",
        ),
    }
}

impl<C: Pretrained> Stage for Import<C> {
    type Params = ImportParams<C>;
    const NAME: &'static str = called(C::FAMILY).0;
    const ABOUT: &'static str = called(C::FAMILY).1;
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::one(ARCHIVE), Port::optional(CONFIG), Port::optional(REGIONS)];

    fn check(&self, params: &ImportParams<C>) -> Result<(), String> {
        params.config.as_ref().map_or(Ok(()), Architecture::check).map_err(|error| error.to_string())?;
        match params.from {
            From::Bert => Ok(()),
            own if own == itself::<C>() => Ok(()),
            other => {
                Err(format!("from is `{}`; expected `{}` or `bert`", other.as_str(), C::FAMILY.as_str()))
            }
        }
    }

    fn run(&self, params: &ImportParams<C>, job: &Job) -> Result<(), StageError> {
        let archive = checkpoint::find(job.inputs.one(ARCHIVE)?)
            .map_err(|(path, problem)| StageError::input(ARCHIVE, path, problem))?;
        let refuse = |problem: String| StageError::input(ARCHIVE, &archive, problem);
        let config = dimensions(params, &archive, job)?;
        let file = archive::unpacked(&archive, job)?;
        let checkpoint = Checkpoint::open(&file).map_err(refuse)?;
        let expected = config.parameters(Parts::BASE).map_err(StageError::failed)?;
        let origin = params.from.origin();
        let names =
            TensorNames::sort(checkpoint.names(), |name| config.own_name(origin, name)).map_err(refuse)?;
        let (fresh, expected): (Vec<_>, Vec<_>) =
            expected.into_iter().partition(|(name, _)| config.is_fresh(origin, name));
        let surplus = |name: &str| {
            if name.contains("Adapt") {
                "belongs to an adapter, which a base does not have; `import-run` takes a finished model"
            } else if config.is_fresh(origin, name) {
                "is not part of a BERT; does `from` belong to it?"
            } else {
                "is not part of a model of these dimensions; does `config` belong to it?"
            }
        };
        names.check(&expected, params.from.title(), C::FAMILY, surplus).map_err(refuse)?;
        let mut tensors = names.load(checkpoint, job, refuse)?;
        tensor_names::check_shapes(&tensors, &expected).map_err(refuse)?;
        names.note_left(job.progress);
        if !fresh.is_empty() {
            let start = models::init_random(&config, params.seed, &Device::Cpu);
            let mut start = start.map_err(StageError::failed)?;
            job.progress.note(&format!("{} tensors that a BERT lacks begin fresh or as copies", fresh.len()));
            for (name, _) in fresh {
                let copied = tensors.get(&config.init_from(&name)).cloned();
                let values = copied.or_else(|| start.remove(&name));
                tensors.extend(values.map(|values| (name, values)));
            }
        }
        job.progress.note(&format!("{} tensors imported", tensors.len()));
        let config: Config = config.into();
        Ok(weights::write(job.out, &config, &tensors)?)
    }
}

/// The dimensions of the model that is made of `archive`. Features are as wide as the regions that came in.
///
/// # Errors
/// A `config.json` or regions that cannot be read; dimensions that make no model.
fn dimensions<C: Pretrained>(params: &ImportParams<C>, archive: &Path, job: &Job) -> Result<C, StageError> {
    // A file is read alone: only a folder's neighbours are part of the input.
    let stated = match job.inputs.optional(CONFIG) {
        Some(path) => Some(Stated::read(path)?),
        None if job.inputs.one(ARCHIVE)?.is_dir() => Stated::next_to(archive)?,
        None => None,
    };
    let mut config = match (&params.config, &stated) {
        (Some(config), _) => config.clone(),
        (None, Some(stated)) => stated.dimensions(params.from)?,
        (None, None) => C::base_size(),
    };
    if let Some(regions) = job.inputs.optional(REGIONS) {
        let width = RegionFeatures::open(regions)?.width;
        config.change(&ModelOverrides { features: Some(width), ..ModelOverrides::default() });
    }
    match config.check() {
        Ok(()) => Ok(config),
        Err(error) => Err(match &stated {
            Some(stated) if params.config.is_none() => stated.error(error),
            _ => StageError::Params(error.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests;
