//! The models, their gradients, their optimiser and their training loop against independent references in double
//! precision.
//!
//! `reference/visual_bert.py` and `reference/vilbert.py` state them once more in PyTorch and wrote the numbers in
//! `fixtures/`. They also trained with plausible mistakes, one at a time: the comparison that lets the true runs pass must
//! tell each of those apart.
//!
//! Logits and gradients are judged by the reference's own rounding: `fixtures/*_rounding.json` has, for each of their tensors,
//! how far the reference in single precision is from itself in double precision. `docs/fidelity.md` has the figures.

// The distances are worth a look: `cargo test --release -p stages --test parity -- --nocapture`.
#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use stage_api::testing::{self, run_stage};
use stages::artifacts::history::History;
use stages::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use stages::artifacts::samples::Split;
use stages::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};
use stages::artifacts::weights;
use stages::models::{Batch, Config, Family, Mode};
use stages::nn::{Dropout, Kernels, ParamStore, cross_entropy};

/// The models, as their fixtures are called, with how many mistakes at least were tried.
const MODELS: [(Family, &str, usize); 2] =
    [(Family::VisualBert, "visual_bert", 25), (Family::Vilbert, "vilbert", 25)];

/// What a reference says in addition to tensors.
#[derive(Deserialize)]
struct Reference {
    dropout: f64,
    seed: u64,
    update: u64,
    updates: u64,
    warm_up: u64,
    batch: usize,
    max_text: usize,
    max_regions: usize,
    settings: BTreeMap<String, Settings>,
    sizes: Vec<Size>,
    mistakes: Vec<Run>,
}

#[derive(Deserialize)]
struct Settings {
    lr: f64,
    eps: f64,
    weight_decay: f64,
}

/// A model with its data.
#[derive(Deserialize)]
struct Size {
    name: String,
    /// What differs from the paper's.
    config: serde_json::Map<String, serde_json::Value>,
    rows: Vec<Row>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Row {
    ids: Vec<u32>,
    label: u8,
    split: Split,
    /// Width and height, where the model reads places.
    #[serde(default = "square")]
    picture: (u32, u32),
}

fn square() -> (u32, u32) {
    (2, 2)
}

/// A training run: the loss of each batch, and the mean loss on the split `val` after the last update.
#[derive(Deserialize)]
struct Run {
    /// The mistake that was made.
    #[serde(default)]
    name: String,
    mode: Mode,
    settings: String,
    losses: Vec<f64>,
    val_loss: f64,
}

type Tensors = HashMap<String, Tensor>;

/// Distance between the reference in single and in double precision, by size, case and tensor: the root mean square over
/// evaluations that sum in different orders, of the norm of the difference.
type Rounding = BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>;

/// Root mean squares of the reference's rounding that a tensor may be off by. Of the reference's own 28,672 distances the
/// largest is 3.0.
const ROUNDING_FACTOR: f64 = 4.0;
/// Units of single precision, 2⁻²⁴ of a tensor's norm, that it may be off by in addition: the fixtures are rounded to it, and a
/// value that the reference computes exactly may take another route here.
const ROUNDING_UNITS: f64 = 4.0;

/// How far a tensor of norm `length` may be from the reference that rounds it by `rounding`.
fn tolerance(rounding: f64, length: f64) -> f64 {
    ROUNDING_FACTOR * rounding + ROUNDING_UNITS * libm::exp2(-24.0) * length
}

fn rounding(model: &str) -> Rounding {
    serde_json::from_slice(&fs::read(fixture(&format!("{model}_rounding.json"))).unwrap()).unwrap()
}

fn reference(model: &str) -> Reference {
    serde_json::from_slice(&fs::read(fixture(&format!("{model}.json"))).unwrap()).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(model: &str, name: &str) -> Tensors {
    let file = fixture(&format!("{model}_{name}.safetensors"));
    candle_core::safetensors::load(file, &device()).unwrap()
}

/// Where the models compute: see [`testing::device`].
fn device() -> Device {
    // Opened once: candle takes two openings of one GPU for two devices.
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || match testing::device().split_once(':') {
        Some(("cuda", number)) => Device::new_cuda(number.parse().unwrap()).unwrap(),
        None => Device::Cpu,
        Some(_) => panic!("these tests know cpu and cuda:N"),
    };
    DEVICE.get_or_init(open).clone()
}

/// The tensors whose names begin with `prefix`, without it.
fn under(tensors: &Tensors, prefix: &str) -> Tensors {
    let named =
        |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
    tensors.iter().filter_map(named).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

impl Size {
    fn config(&self, family: Family) -> Config {
        let mut config = serde_json::to_value(family.base()).unwrap();
        config.as_object_mut().unwrap().extend(self.config.clone());
        serde_json::from_value(config).unwrap()
    }

    /// The weights that runs in `mode` start from.
    fn weights(&self, tensors: &Tensors, mode: Mode) -> Tensors {
        let mut weights = under(tensors, "weight ");
        weights.retain(|name, _| mode.parts().adapters || !name.contains("Adapt"));
        weights
    }
}

/// How far values are from what is expected, and how long that is: norms.
fn off(found: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let difference = norm(found.iter().zip(expected).map(|(found, expected)| found - expected));
    (difference, norm(expected.iter().copied()))
}

/// What the comparison of one model with its reference showed.
#[derive(Default)]
struct Compared {
    tensors: usize,
    /// Tensors of which more is allowed than 10⁻⁴ of their norm, by how much of their norm that is.
    loose: BTreeMap<String, f64>,
    /// The largest distances, in root mean squares of the reference's rounding and in tolerances.
    worst: [(f64, String); 2],
}

impl Compared {
    fn add(&mut self, about: &str, rounding: f64, found: &[f32], expected: &[f32]) {
        let (difference, length) = off(found, expected);
        let limit = tolerance(rounding, length);
        assert!(
            difference <= limit,
            "{about} is off by {difference:.2e}, its norm is {length:.2e}; the reference's rounding of {rounding:.2e} \
             allows {limit:.2e}"
        );
        self.tensors += 1;
        // Of a tensor that is all rounding, such as the gradient of a key's bias, the norm says nothing.
        if limit > 1e-4 * length && limit < length {
            self.loose.insert(about.to_owned(), limit / length);
        }
        // Where the reference is exact, or all but, the units of the norm decide.
        let beyond = (difference - libm::exp2(-24.0) * length).max(0.0);
        for (worst, ratio) in self.worst.iter_mut().zip([beyond / rounding, difference / limit]) {
            if ratio.is_finite() && ratio > worst.0 {
                *worst = (ratio, about.to_owned());
            }
        }
    }

    fn print(&self, model: &str) {
        let [(rounding, by_rounding), (limit, by_limit)] = &self.worst;
        println!(
            "{model}: {} tensors; at most {rounding:.2} of the reference's rounding ({by_rounding})",
            self.tensors
        );
        println!("{model}: at most {limit:.2} of the tolerance ({by_limit})");
        println!("{model}: {} tensors may be off by more than 1e-4 of their norm:", self.loose.len());
        self.loose.iter().for_each(|(about, share)| println!("  {about}: {share:.1e}"));
    }
}

#[test]
fn logits_and_gradients_are_the_references() {
    MODELS.iter().for_each(|(family, model, _)| gradients_are_the_references(*family, model));
}

fn gradients_are_the_references(family: Family, model: &str) {
    let (reference, rounding) = (reference(model), rounding(model));
    let dropout = Dropout::new(reference.dropout, reference.seed).unwrap().at(reference.update);
    let mut compared = Compared::default();
    for size in &reference.sizes {
        let tensors = read(model, &size.name);
        let regions = tensors["regions"].clone();
        let (rows, most, _) = regions.dims3().unwrap();
        let nowhere = || Tensor::zeros((rows, most, 5), DType::F32, &device()).unwrap();
        let batch = Batch {
            ids: tensors["ids"].to_dtype(DType::U32).unwrap(),
            regions,
            locations: tensors.get("locations").cloned().unwrap_or_else(nowhere),
            mask: tensors["mask"].clone(),
        };
        let labels: Vec<u32> = size.rows.iter().map(|row| u32::from(row.label)).collect();
        let labels = Tensor::new(labels, &device()).unwrap();
        // The fused ones are for the CPU.
        let kernels = [Kernels::Composed, Kernels::Fused];
        let kernels =
            kernels.into_iter().filter(|kernels| *kernels == Kernels::Composed || device().is_cpu());
        for (kernels, mode) in kernels.flat_map(|kernels| Mode::ALL.map(|mode| (kernels, mode))) {
            for (case, dropout) in [(mode.to_string(), None), (format!("{mode} dropout"), Some(&dropout))] {
                let about = format!("{model} {} {case} {kernels:?}", size.name);
                let rounding = &rounding[&size.name][&case];
                let params = ParamStore::new(size.weights(&tensors, mode), |name| mode.trains(name)).unwrap();
                let params = params.with_kernels(kernels);
                let built = size.config(family).build(&params).unwrap();
                let logits = built.logits(&batch, dropout).unwrap();
                let expected = values(&tensors[&format!("{case} logits")]);
                compared.add(&format!("{about}: logits"), rounding["logits"], &values(&logits), &expected);
                let grads = cross_entropy(&logits, &labels).unwrap().backward().unwrap();
                let expected = under(&tensors, &format!("{case} grad "));
                for (name, var) in params.trained() {
                    let (Some(found), Some(expected)) = (grads.get(var), expected.get(name)) else {
                        let neither = grads.get(var).is_none() && !expected.contains_key(name);
                        assert!(
                            neither && name.contains("q_dense"),
                            "{about}: only one has a gradient of {name}"
                        );
                        continue;
                    };
                    let rounding = rounding[&format!("grad {name}")];
                    let about = format!("{about}: gradient of {name}");
                    compared.add(&about, rounding, &values(found), &values(expected));
                }
            }
        }
    }
    compared.print(model);
}

/// Whether the parameter's true gradient is 0: a key's bias shifts all scores of a query alike. What there is, is rounding.
fn is_noise(name: &str) -> bool {
    ["key.bias", "key1.bias", "key2.bias"].iter().any(|end| name.ends_with(end))
}

/// What the stage made of one size's data under one mode and settings.
struct Found {
    losses: Vec<f64>,
    val_loss: f64,
    after: Tensors,
}

/// Trains with the stage itself, from texts and regions on disk, rows in order, without dropout.
fn train(config: &Config, reference: &Reference, size: &Size, tensors: &Tensors, run: &Run) -> Found {
    let dir = tempfile::tempdir().unwrap();
    let [tokens, regions, base, out] =
        ["tokens", "regions", "weights", "out"].map(|name| dir.path().join(name));
    [&tokens, &regions, &base].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    write_memes(config, size, tensors, &tokens, &regions);
    weights::write(&base, config, &size.weights(tensors, run.mode)).unwrap();
    let Settings { lr, eps, weight_decay } = reference.settings[&run.settings];
    let Reference { updates, warm_up, batch, max_text, max_regions, .. } = reference;
    let params = format!(
        "(mode: \"{}\", start: \"run\", dropout: 0.0, order: \"sequential\", batch: {batch}, updates: {updates}, \
         warm_up: {warm_up}, lr: {lr}, eps: {eps}, weight_decay: {weight_decay}, max_text: {max_text}, \
         max_regions: {max_regions}, evaluate_every: {updates}, log_every: 1)",
        run.mode
    );
    let inputs = [("tokens", tokens.as_path()), ("regions", &regions), ("weights", &base)];
    run_stage(stages::registry().get("train").unwrap(), &params, &inputs, &out).unwrap();
    let history = History::read(&out).unwrap();
    // The log has the running mean by rows: what each batch added to it is that batch's loss.
    let rows = size.rows.iter().filter(|row| row.split == Split::Train).count();
    let batches: Vec<usize> = (0..rows).step_by(*batch).map(|start| (rows - start).min(*batch)).collect();
    let (mut sum, mut seen, mut losses) = (0.0, 0, Vec::new());
    for (point, rows) in history.train.iter().zip(batches.iter().cycle()) {
        seen += rows;
        let total = point.loss_average * seen as f64;
        losses.push((total - sum) / *rows as f64);
        sum = total;
    }
    let mut lowest = losses.clone();
    lowest.sort_by(f64::total_cmp);
    let median = lowest[(lowest.len() - 1) / 2];
    assert!((history.train.last().unwrap().loss - median).abs() < 1e-12, "the lower median is logged");
    Found { losses, val_loss: history.best.loss, after: weights::read_tensors(&out, &Device::Cpu).unwrap() }
}

fn write_memes(config: &Config, size: &Size, tensors: &Tensors, tokens: &Path, regions: &Path) {
    let model = config.dimensions();
    let info = TokenSetInfo {
        dataset: "reference".to_owned(),
        vocab_size: model.words,
        max_length: 128,
        pad: 0,
        unknown: 1,
        cls: 2,
        sep: 3,
        mask: Some(4),
    };
    let most = size.rows.len();
    let mut set = TokenWriter::new(info);
    let layout = Layout { width: model.features, max_regions: most, shard: 7, half: false };
    let mut pictures = Vec::new();
    for (at, row) in size.rows.iter().enumerate() {
        let image = format!("{at}.png");
        let of = TokenRow {
            id: at.to_string(),
            image: image.clone(),
            split: row.split,
            label: Some(row.label),
            soft: None,
        };
        set.push(of, &row.ids);
        let features = &tensors[&format!("regions {at}")];
        let count = features.dim(0).unwrap();
        let picture = PictureRegions {
            features: values(features),
            boxes: tensors.get(&format!("boxes {at}")).map_or(vec![[0.0, 0.0, 1.0, 1.0]; count], |boxes| {
                boxes
                    .to_vec2()
                    .unwrap()
                    .into_iter()
                    .map(|corners: Vec<f32>| corners.try_into().unwrap())
                    .collect()
            }),
            scores: vec![1.0; count],
            objects: vec![0; count],
            size: row.picture,
        };
        pictures.push((image, picture));
    }
    set.write(tokens).unwrap();
    let mut writer = RegionWriter::new(regions, layout);
    for pictures in pictures.chunks(layout.shard) {
        writer.write(pictures).unwrap();
    }
    writer.finish().unwrap();
}

/// How far a run is from an expected one, in tolerances of 1e-5: batch losses, the loss on `val`, final weights.
/// Above 1 they differ.
fn distances(found: &Found, expected: &Run, after: &Tensors) -> [f64; 3] {
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

#[test]
fn twenty_updates_are_the_references_and_leave_what_is_frozen_alone() {
    MODELS.iter().for_each(|(family, model, _)| updates_are_the_references(*family, model));
}

fn updates_are_the_references(family: Family, model: &str) {
    let reference = reference(model);
    for size in &reference.sizes {
        let (config, tensors) = (size.config(family), read(model, &size.name));
        assert_eq!(size.runs.len(), 6);
        for run in &size.runs {
            let about = format!("{model} {} {} {}", size.name, run.mode, run.settings);
            let found = train(&config, &reference, size, &tensors, run);
            let after = under(&tensors, &format!("{} {} after ", run.mode, run.settings));
            let distances = distances(&found, run, &after);
            println!("{about}: losses, val loss, weights off by {distances:.3?} of 1e-5");
            assert!(distances.iter().all(|&distance| distance <= 1.0), "{about}: {distances:?}");
            let mut trained = 0;
            for (name, before) in size.weights(&tensors, run.mode) {
                let bits = |tensor: &Tensor| values(tensor).into_iter().map(f32::to_bits).collect::<Vec<_>>();
                if run.mode.trains(&name) {
                    trained += 1;
                } else {
                    assert!(
                        bits(&before) == bits(&found.after[&name]),
                        "{about} changed the frozen `{name}`"
                    );
                }
            }
            assert_eq!(after.len(), trained, "{about}");
        }
    }
}

#[test]
fn every_mistake_would_be_noticed() {
    MODELS.iter().for_each(|(family, model, least)| mistakes_would_be_noticed(*family, model, *least));
}

fn mistakes_would_be_noticed(family: Family, model: &str, least: usize) {
    let reference = reference(model);
    assert!(reference.mistakes.len() >= least);
    let (size, wrong) = (&reference.sizes[0], read(model, "mistakes"));
    let (config, tensors) = (size.config(family), read(model, &size.name));
    let mut found: HashMap<(Mode, &str), Found> = HashMap::new();
    for mistake in &reference.mistakes {
        let run = found
            .entry((mistake.mode, &mistake.settings))
            .or_insert_with(|| train(&config, &reference, size, &tensors, mistake));
        let mut after = under(&wrong, &format!("{} after ", mistake.name));
        // A mistake may train more or less than is right; what both train is compared.
        after.retain(|name, _| mistake.mode.trains(name));
        let distances = distances(run, mistake, &after);
        println!("{model}, {}: losses, val loss, weights off by {distances:.1?} of 1e-5", mistake.name);
        // Well apart, so that the comparison tells them by more than rounding.
        assert!(distances.iter().any(|&distance| distance > 5.0), "{}: {distances:?}", mistake.name);
    }
}
