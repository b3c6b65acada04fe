//! Weights of a model: `config.json` (dimensions) next to `weights.safetensors` (tensors by checkpoint name).
//! It does not know which model: the config's type belongs to the model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ArtifactError, Result, read_json, write_json};

/// The file of the dimensions.
pub fn config_path(dir: &Path) -> PathBuf {
    dir.join("config.json")
}

/// The file of the tensors.
pub fn tensors_path(dir: &Path) -> PathBuf {
    dir.join("weights.safetensors")
}

/// Writes a model's config and tensors into `dir`.
pub fn write<C: Serialize>(dir: &Path, config: &C, tensors: &HashMap<String, Tensor>) -> Result<()> {
    write_json(&config_path(dir), config)?;
    let path = tensors_path(dir);
    // safetensors orders by dtype and name, so the bytes do not depend on the map's order.
    candle_core::safetensors::save(tensors, &path).map_err(|error| ArtifactError::new(&path, error))
}

/// Reads the config.
pub fn read_config<C: DeserializeOwned>(dir: &Path) -> Result<C> {
    read_json(&config_path(dir))
}

/// Reads all tensors into the CPU's memory.
///
/// # Errors
/// A file that is missing or damaged; a tensor with a value that is not a finite number, by name.
pub fn read_tensors(dir: &Path) -> Result<HashMap<String, Tensor>> {
    let path = tensors_path(dir);
    let fail = |error: candle_core::Error| ArtifactError::new(&path, error);
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(fail)?;
    let mut spoilt: Vec<&String> = Vec::new();
    for (name, tensor) in &tensors {
        if !is_finite(tensor).map_err(fail)? {
            spoilt.push(name);
        }
    }
    if let Some(name) = spoilt.iter().min() {
        let problem =
            format!("`{name}` has a value that is not a finite number; make or get the weights again");
        return Err(ArtifactError::new(&path, problem));
    }
    Ok(tensors)
}

/// Whether all values of a tensor are finite; integers always are.
fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    if !tensor.dtype().is_float() {
        return Ok(true);
    }
    // Zero times a value is zero unless that value is infinite or no number, and a sum keeps that.
    let zero = (tensor.flatten_all()? * 0.0)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}
