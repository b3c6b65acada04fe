//! `import-visualbert`: turns the original's (MMF) pretrained checkpoint into the weights every run starts from.
//! It keeps exactly the tensors of the base, `model.bert.*`; pretraining heads are left behind. It does not know
//! where the checkpoint came from.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::DType;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::weights;
use crate::models::visual_bert::{Config, shapes};
use crate::torch_file;

/// Imports a checkpoint.
pub struct ImportVisualBert;

/// Settings of [`ImportVisualBert`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Dimensions of the checkpoint's model; the paper's by default.
    #[serde(default = "Config::base")]
    config: Config,
}

impl Stage for ImportVisualBert {
    type Params = Params;
    const NAME: &'static str = "import-visualbert";
    const ABOUT: &'static str =
        "The base of VisualBERT out of a checkpoint of the original, checked by name and shape";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn check(&self, params: &Params) -> Result<(), String> {
        params.config.check().map_err(|error| error.to_string())
    }

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let archive = single_file(job.inputs.one("archive")?)?;
        let refuse = |problem: String| StageError::input("archive", &archive, problem);
        let file = unpacked(&archive, job)?;
        let names = torch_file::open(&file).map_err(refuse)?;
        // Old checkpoints spell the prefix otherwise; the first spelling that is there wins.
        let spelt: HashMap<String, String> =
            names.names().rev().map(|name| (renamed(name), name.to_owned())).collect();
        let expected = shapes::base_parameters(&params.config);
        let missing: Vec<&str> = expected
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !spelt.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return Err(refuse(format!(
                "{} of {} tensors are missing, first {}; is this a VisualBERT checkpoint of these dimensions?",
                missing.len(),
                expected.len(),
                missing.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )));
        }
        let wanted: Vec<&str> = expected.iter().map(|(name, _)| spelt[name].as_str()).collect();
        let mut found = names.load(&wanted).map_err(refuse)?;
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
        job.progress.note(&format!("{} tensors imported", tensors.len()));
        Ok(weights::write(job.out, &params.config, &tensors)?)
    }
}

/// A tensor's name as the model spells it.
fn renamed(name: &str) -> String {
    let name = name.strip_prefix("module.").unwrap_or(name);
    match name.strip_prefix("bert.bert.") {
        Some(rest) => format!("model.bert.{rest}"),
        None => name.to_owned(),
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
        [] => Err(StageError::input("archive", path, "holds no .pth, .ckpt, .pt, .tar.gz or .tgz file")),
        many => {
            let names = many.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            Err(StageError::input("archive", path, format!("holds several checkpoints, name one: {names}")))
        }
    }
}

fn is_checkpoint(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".pth", ".ckpt", ".pt", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
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
    Err(refuse("the archive holds no .pth, .ckpt or .pt file".to_owned()))
}

#[cfg(test)]
mod tests;
