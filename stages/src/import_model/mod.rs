//! `import-visualbert` and `import-vilbert`: turn a checkpoint into the weights every run starts from: the original's (MMF)
//! pretrained one, Hugging Face's where it has the model, or any BERT of Hugging Face, which gets fresh visual parts. Kept
//! are exactly the tensors of the base, `model.bert.*`; pretraining heads are left behind. It does not know where the
//! checkpoint came from, nor what its model's tensors are called: the model does.

mod checkpoint;
mod from;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use flate2::bufread::MultiGzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::weights;
use crate::file_kind;
use crate::models::{self, Config, Family, Pretrained};
use crate::{space, tar_members};
use checkpoint::{Checkpoint, is_checkpoint};
use from::From;

/// How many times larger than its archive a checkpoint may be: gzip takes a tenth off weights.
const MOST_RATIO: u64 = 200;
/// A checkpoint below this many bytes may have any ratio.
const HARMLESS: u64 = 64 << 20;

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
pub struct Params<C> {
    /// Dimensions of the checkpoint's model; the paper's by default.
    #[serde(default = "C::base_size")]
    config: C,
    /// What the checkpoint is: the model's own name, or `"bert"`: then what a BERT lacks is fresh, or, as the original
    /// begins, a copy of the text's.
    #[serde(default = "itself::<C>")]
    from: From,
    /// Decides what is fresh.
    #[serde(default)]
    seed: u64,
}

fn itself<C: Pretrained>() -> From {
    From::Model(C::FAMILY)
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
    type Params = Params<C>;
    const NAME: &'static str = called(C::FAMILY).0;
    const ABOUT: &'static str = called(C::FAMILY).1;
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn check(&self, params: &Params<C>) -> Result<(), String> {
        params.config.check().map_err(|error| error.to_string())?;
        match params.from {
            From::Model(other) if other != C::FAMILY => {
                Err(format!("from is `{}`; expected `{}` or `bert`", other.as_str(), C::FAMILY.as_str()))
            }
            _ => Ok(()),
        }
    }

    fn run(&self, params: &Params<C>, job: &Job) -> Result<(), StageError> {
        let archive = checkpoint::find(job.inputs.one("archive")?)
            .map_err(|(path, problem)| StageError::input("archive", path, problem))?;
        let refuse = |problem: String| StageError::input("archive", &archive, problem);
        let file = unpacked(&archive, job)?;
        let checkpoint = Checkpoint::open(&file).map_err(refuse)?;
        let names = checkpoint.names();
        let (expected, origin) = (params.config.base_parameters(false), params.from.origin());
        let mut spelt: HashMap<String, String> = HashMap::new();
        for name in &names {
            let ours = from::usual(name).and_then(|usual| params.config.own_name(origin, &usual));
            let Some(ours) = ours else { continue };
            if !expected.iter().any(|(expected, _)| *expected == ours) {
                return Err(refuse(format!(
                    "`{name}` is no part of a model of these dimensions; does `config` belong to it?"
                )));
            }
            if let Some(other) = spelt.insert(ours, name.clone()) {
                return Err(refuse(format!("`{other}` and `{name}` are the same part of the model")));
            }
        }
        let (fresh, expected): (Vec<_>, Vec<_>) =
            expected.into_iter().partition(|(name, _)| params.config.is_fresh(origin, name));
        let missing: Vec<&str> = expected
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !spelt.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(refuse(format!(
                "{} of {} tensors of a {} of these dimensions are missing, first {}; the nearest of the {} names in it: {}",
                missing.len(),
                expected.len(),
                params.from.title(),
                missing.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
                names.len(),
                file_kind::nearest(missing[0], names.iter().map(String::as_str)),
            )));
        }
        let wanted: Vec<&str> = expected.iter().map(|(name, _)| spelt[name].as_str()).collect();
        let mut found = checkpoint.load(&wanted).map_err(refuse)?;
        let mut tensors = HashMap::new();
        for (name, shape) in &expected {
            job.checkpoint()?;
            let tensor = found
                .remove(&spelt[name])
                .ok_or_else(|| refuse(format!("`{name}` is named but has no data: the file is cut off")))?;
            if tensor.dims() != shape {
                return Err(refuse(format!(
                    "`{name}` has shape {:?}, the model needs {shape:?}",
                    tensor.dims()
                )));
            }
            let tensor = tensor.to_dtype(DType::F32).map_err(|error| refuse(format!("`{name}`: {error}")))?;
            tensors.insert(name.clone(), tensor);
        }
        if !fresh.is_empty() {
            let start = models::fresh(&params.config, params.seed, &Device::Cpu);
            let mut start = start.map_err(StageError::failed)?;
            job.progress.note(&format!("{} tensors that a BERT lacks begin fresh or as copies", fresh.len()));
            for (name, _) in fresh {
                let copied = tensors.get(&params.config.begins_as(&name)).cloned();
                let values = copied.or_else(|| start.remove(&name));
                tensors.extend(values.map(|values| (name, values)));
            }
        }
        job.progress.note(&format!("{} tensors imported", tensors.len()));
        let config: Config = params.config.clone().into();
        Ok(weights::write(job.out, &config, &tensors)?)
    }
}

/// The checkpoint: `archive` itself, or unpacked from it into scratch when it is a compressed tar.
fn unpacked(archive: &Path, job: &Job) -> Result<PathBuf, StageError> {
    let refuse = |problem: String| StageError::input("archive", archive, problem);
    let head = file_kind::head(archive).map_err(|error| refuse(error.to_string()))?;
    if !head.starts_with(&[0x1f, 0x8b]) {
        return Ok(archive.to_owned());
    }
    let file = File::open(archive).map_err(|error| refuse(error.to_string()))?;
    let most = file.metadata()?.len().saturating_mul(MOST_RATIO).max(HARMLESS);
    let mut tar = tar::Archive::new(MultiGzDecoder::new(BufReader::new(file)));
    let mut found: Option<(String, PathBuf)> = None;
    for member in tar_members::members(&mut tar).map_err(refuse)? {
        job.checkpoint()?;
        let mut member = member.map_err(refuse)?;
        let name = member.shown();
        if !member.kind.is_file() || !is_checkpoint(Path::new(&*String::from_utf8_lossy(&member.path))) {
            continue;
        }
        if let Some((other, _)) = &found {
            let problem = format!("holds several checkpoints, `{other}` and `{name}`");
            return Err(refuse(format!(
                "{problem}; let an `unpack` step stand before this one, and name one"
            )));
        }
        if member.size > most {
            return Err(refuse(format!(
                "`{name}` has {} bytes, more than {MOST_RATIO} times its archive",
                member.size
            )));
        }
        space::check(job.scratch, member.size)?;
        let ending = if name.ends_with(".safetensors") { "safetensors" } else { "pth" };
        let target = job.scratch.join("checkpoint").with_extension(ending);
        let copied = std::io::copy(&mut member.content, &mut File::create(&target)?);
        let copied = copied.map_err(|error| refuse(tar_members::broken(&error)))?;
        if copied != member.size {
            return Err(refuse(format!("ends within `{name}`: it was cut short")));
        }
        found = Some((name, target));
    }
    tar_members::check_end(tar.into_inner()).map_err(refuse)?;
    match found {
        Some((_, target)) => Ok(target),
        None => Err(refuse("the archive holds no .pth, .ckpt, .pt or .safetensors file".to_owned())),
    }
}

#[cfg(test)]
mod tests;
