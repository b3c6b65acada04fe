//! Weights of a model: `config.json` (dimensions) beside `weights.safetensors` (tensors by checkpoint name).
//! It does not know which model: the config's type belongs to the model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
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

/// Reads all tensors onto `device`.
pub fn read_tensors(dir: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let path = tensors_path(dir);
    candle_core::safetensors::load(&path, device).map_err(|error| ArtifactError::new(&path, error))
}
