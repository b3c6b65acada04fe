//! Reads the references of the models, and computes what they computed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use stage_api::testing;
use stages::artifacts::samples::Split;
use stages::models::{Batch, Config, Family, Mode};
use stages::nn::{Compute, Dropout, ParamStore, cross_entropy};

/// The models, as their fixtures are called, with how many mistakes at least were tried.
pub const MODELS: [(Family, &str, usize); 2] =
    [(Family::VisualBert, "visual_bert", 25), (Family::Vilbert, "vilbert", 25)];

/// What a reference says in addition to tensors.
#[derive(Deserialize)]
pub struct Reference {
    pub dropout: f64,
    pub seed: u64,
    pub update: u64,
    pub updates: u64,
    pub warm_up: u64,
    pub batch: usize,
    pub max_text: usize,
    pub max_regions: usize,
    pub settings: BTreeMap<String, Settings>,
    pub sizes: Vec<Size>,
    pub mistakes: Vec<Run>,
}

#[derive(Deserialize)]
pub struct Settings {
    pub lr: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

/// A model with its data.
#[derive(Deserialize)]
pub struct Size {
    pub name: String,
    /// What differs from the paper's.
    pub config: serde_json::Map<String, serde_json::Value>,
    pub rows: Vec<Row>,
    pub runs: Vec<Run>,
}

#[derive(Deserialize)]
pub struct Row {
    pub ids: Vec<u32>,
    pub label: u8,
    pub split: Split,
    /// Width and height, where the model reads places.
    #[serde(default = "square")]
    pub picture: (u32, u32),
}

pub fn square() -> (u32, u32) {
    (2, 2)
}

/// A training run: the loss of each batch, and the mean loss on the split `val` after the last update.
#[derive(Deserialize)]
pub struct Run {
    /// The mistake that was made.
    #[serde(default)]
    pub name: String,
    pub mode: Mode,
    pub settings: String,
    pub losses: Vec<f64>,
    pub val_loss: f64,
}

pub type Tensors = HashMap<String, Tensor>;

/// Distance between the reference in single and in double precision, by size, case and tensor: the root mean square over
/// evaluations that sum in different orders, of the norm of the difference.
pub type Rounding = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// Root mean squares of the reference's rounding that a tensor may be off by. Of the reference's own 28,672 distances the
/// largest is 3.0.
pub const ROUNDING_FACTOR: f64 = 4.0;
/// Units of single precision, 2⁻²⁴ of a tensor's norm, that it may be off by in addition: the fixtures are rounded to it, and a
/// value that the reference computes exactly may take another route here.
pub const ROUNDING_UNITS: f64 = 4.0;

/// How far a tensor of norm `length` may be from the reference that rounds it by `rounding`.
pub fn tolerance(rounding: f64, length: f64) -> f64 {
    ROUNDING_FACTOR * rounding + ROUNDING_UNITS * libm::exp2(-24.0) * length
}

pub fn rounding(model: &str) -> Rounding {
    serde_json::from_slice(&fs::read(fixture(&format!("{model}_rounding.json"))).unwrap()).unwrap()
}

pub fn reference(model: &str) -> Reference {
    serde_json::from_slice(&fs::read(fixture(&format!("{model}.json"))).unwrap()).unwrap()
}

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn read(model: &str, name: &str) -> Tensors {
    let file = fixture(&format!("{model}_{name}.safetensors"));
    candle_core::safetensors::load(file, &device()).unwrap()
}

/// Where the models compute: see [`testing::device`].
pub fn device() -> Device {
    // Opened once: candle takes two openings of one GPU for two devices.
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || match testing::device().split_once(':') {
        Some(("cuda", number)) => stages::nn::gpu::open(number.parse().unwrap()).unwrap(),
        None => Device::Cpu,
        Some(_) => panic!("these tests know cpu and cuda:N"),
    };
    DEVICE.get_or_init(open).clone()
}

/// The tensors whose names begin with `prefix`, without it.
pub fn under(tensors: &Tensors, prefix: &str) -> Tensors {
    let named =
        |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
    tensors.iter().filter_map(named).collect()
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

impl Size {
    pub fn config(&self, family: Family) -> Config {
        let mut config = serde_json::to_value(family.base()).unwrap();
        config.as_object_mut().unwrap().extend(self.config.clone());
        serde_json::from_value(config).unwrap()
    }

    /// The weights that runs in `mode` start from.
    pub fn weights(&self, tensors: &Tensors, mode: Mode) -> Tensors {
        let mut weights = under(tensors, "weight ");
        weights.retain(|name, _| mode.parts().adapters || !name.contains("Adapt"));
        weights
    }
}

/// How far values are from what is expected, and how long that is: norms.
pub fn off(found: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let difference = norm(found.iter().zip(expected).map(|(found, expected)| found - expected));
    (difference, norm(expected.iter().copied()))
}

/// Calls `check` with each case of `mode` and dropout, the name of a tensor, its values by `compute` and those expected: the logits
/// of all rows, and the gradients of their mean loss.
pub fn each_case(
    family: Family,
    model: &str,
    reference: &Reference,
    size: &Size,
    compute: &Compute,
    mut check: impl FnMut(&str, &str, &[f32], &[f32]),
) {
    let tensors = read(model, &size.name);
    let regions = tensors["regions"].clone();
    let (rows, most, _) = regions.dims3().unwrap();
    let nowhere = || Tensor::zeros((rows, most, 5), DType::F32, &device()).unwrap();
    let batch = Batch {
        ids: tensors["ids"].to_dtype(DType::U32).unwrap(),
        regions,
        locations: tensors.get("locations").cloned().unwrap_or_else(nowhere),
        mask: tensors["mask"].to_device(&Device::Cpu).unwrap(),
    };
    let labels: Vec<u32> = size.rows.iter().map(|row| u32::from(row.label)).collect();
    let labels = Tensor::new(labels, &device()).unwrap();
    let dropout = Dropout::new(reference.dropout, reference.seed).unwrap().at(reference.update);
    for mode in Mode::ALL {
        for (case, dropout) in [(mode.to_string(), None), (format!("{mode} dropout"), Some(&dropout))] {
            let params = ParamStore::new(size.weights(&tensors, mode), |name| mode.trains(name)).unwrap();
            let params = params.with_compute(compute.clone());
            let logits = size.config(family).build(&params).unwrap().logits(&batch, dropout).unwrap();
            let expected = values(&tensors[&format!("{case} logits")]);
            check(&case, "logits", &values(&logits), &expected);
            cross_entropy(compute, &logits, &labels, rows).unwrap().backward().unwrap();
            let grads = params.take_gradients().unwrap();
            let expected = under(&tensors, &format!("{case} grad "));
            for (name, _) in params.trained() {
                match (grads.get(name), expected.get(name)) {
                    (Some(found), Some(expected)) => {
                        check(&case, &format!("grad {name}"), &values(found), &values(expected));
                    }
                    (None, None) if name.contains("q_dense") => {}
                    _ => panic!("{model} {} {case}: only one has a gradient of {name}", size.name),
                }
            }
        }
    }
}

/// Whether the parameter's true gradient is 0: a key's bias shifts all scores of a query alike. What there is, is rounding.
pub fn is_noise(name: &str) -> bool {
    ["key.bias", "key1.bias", "key2.bias"].iter().any(|end| name.ends_with(end))
}

/// What was trained of one size's data under one mode and settings.
pub struct Found {
    pub losses: Vec<f64>,
    pub val_loss: f64,
    pub after: Tensors,
}

/// How far a run is from an expected one, in tolerances of 1e-5: batch losses, the loss on `val`, final weights.
/// Above 1 they differ.
pub fn distances(found: &Found, expected: &Run, after: &Tensors) -> [f64; 3] {
    assert_eq!(found.losses.len(), expected.losses.len());
    let losses = found.losses.iter().zip(&expected.losses).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let mut weights = 0f64;
    // Adam turns rounding into whole steps.
    for (name, expected) in after.iter().filter(|(name, _)| !is_noise(name)) {
        for (found, expected) in values(&found.after[name]).iter().zip(values(expected)) {
            weights = weights.max(f64::from((found - expected).abs()));
        }
    }
    [losses, (found.val_loss - expected.val_loss).abs(), weights].map(|distance| distance / 1e-5)
}
