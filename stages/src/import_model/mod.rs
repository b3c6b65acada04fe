//! `import-visualbert` and `import-vilbert`: turn a checkpoint into the weights every run starts from: the original's (MMF)
//! pretrained one, Hugging Face's where it has the model, or any BERT of Hugging Face, which gets fresh visual parts. Kept
//! are exactly the tensors of the base, `model.bert.*`; pretraining heads are left behind. It does not know where the
//! checkpoint came from, nor what its model's tensors are called: the model does.

mod from;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use flate2::read::GzDecoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::weights;
use crate::models::{self, Config, Family, Pretrained};
use crate::torch_file::{self, TorchFile};
use from::From;

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
        let archive = single_file(job.inputs.one("archive")?)?;
        let refuse = |problem: String| StageError::input("archive", &archive, problem);
        let file = unpacked(&archive, job)?;
        let checkpoint = Checkpoint::open(&file).map_err(refuse)?;
        let (expected, origin) = (params.config.base_parameters(false), params.from.origin());
        let mut spelt: HashMap<String, String> = HashMap::new();
        for name in checkpoint.names() {
            let ours = from::usual(&name).and_then(|usual| params.config.own_name(origin, &usual));
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
                "{} of {} tensors are missing, first {}; is this a {} checkpoint of these dimensions?",
                missing.len(),
                expected.len(),
                missing.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
                params.from.title(),
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

/// The file of the tensors.
enum Checkpoint {
    Torch(TorchFile),
    Safetensors(HashMap<String, Tensor>),
}

impl Checkpoint {
    fn open(path: &Path) -> Result<Self, String> {
        let mut head = Vec::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(9).read_to_end(&mut head).map_err(|error| error.to_string())?;
        // A safetensors file begins with the length of a JSON header.
        if head.get(8) == Some(&b'{') && !head.starts_with(b"PK") {
            let tensors = candle_core::safetensors::load(path, &Device::Cpu);
            return tensors
                .map(Self::Safetensors)
                .map_err(|error| format!("cannot be read: {error}; get it again"));
        }
        torch_file::open(path).map(Self::Torch)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Torch(file) => file.names().map(str::to_owned).collect(),
            Self::Safetensors(tensors) => tensors.keys().cloned().collect(),
        };
        names.sort_unstable();
        names
    }

    fn load(self, wanted: &[&str]) -> Result<HashMap<String, Tensor>, String> {
        match self {
            Self::Torch(file) => file.load(wanted),
            Self::Safetensors(tensors) => Ok(tensors),
        }
    }
}

/// `path` itself, or the single checkpoint or archive somewhere below it.
fn single_file(path: &Path) -> Result<PathBuf, StageError> {
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            if folder == path || is_checkpoint(&folder) {
                found.push(folder);
            }
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(|error| StageError::input("archive", &folder, error))? {
            folders.push(entry?.path());
        }
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(StageError::input(
            "archive",
            path,
            "holds no .pth, .ckpt, .pt, .safetensors, .tar.gz or .tgz file",
        )),
        many => {
            let names = many.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Err(StageError::input("archive", path, format!("holds several checkpoints, name one: {names}")))
        }
    }
}

fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".pth", ".ckpt", ".pt", ".safetensors", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

/// The torch file: `archive` itself, or unpacked from it into scratch when it is a compressed tar.
fn unpacked(archive: &Path, job: &Job) -> Result<PathBuf, StageError> {
    let refuse = |problem: String| StageError::input("archive", archive, problem);
    let mut magic = [0; 2];
    let mut file = File::open(archive).map_err(|error| refuse(error.to_string()))?;
    if file.read_exact(&mut magic).is_err() || magic != [0x1f, 0x8b] {
        return Ok(archive.to_owned());
    }
    let file = File::open(archive).map_err(|error| refuse(error.to_string()))?;
    let mut tar = tar::Archive::new(GzDecoder::new(std::io::BufReader::new(file)));
    let damaged = |error: std::io::Error| refuse(format!("cannot be unpacked: {error}"));
    for entry in tar.entries().map_err(damaged)? {
        job.checkpoint()?;
        let mut entry = entry.map_err(damaged)?;
        if entry.path().is_ok_and(|path| is_checkpoint(&path)) {
            let target = job.scratch.join("checkpoint.pth");
            std::io::copy(&mut entry, &mut File::create(&target)?).map_err(damaged)?;
            return Ok(target);
        }
    }
    Err(refuse("the archive holds no .pth, .ckpt, .pt or .safetensors file".to_owned()))
}

#[cfg(test)]
mod tests;
