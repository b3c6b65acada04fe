//! The models, their gradients, their optimizer and their training loop against independent references in double
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

#[path = "support/reference.rs"]
mod reference;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::Tensor;
use stage_api::testing::run_stage;
use stages::artifacts::history::History;
use stages::artifacts::labels::{Classes, Label};
use stages::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use stages::artifacts::samples::Split;
use stages::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};
use stages::artifacts::weights;
use stages::models::{Config, Family, Mode};
use stages::nn::{Compute, Precision};

use reference::{
    Found, MODELS, Reference, Run, Settings, Size, Tensors, device, distances, each_case, off, read,
    reference, rounding, tolerance, under, values,
};

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
    let computes = [
        Compute::composed(&device(), Precision::F32).unwrap(),
        Compute::for_device(&device(), Precision::F32).unwrap(),
    ];
    let mut compared = Compared::default();
    for size in &reference.sizes {
        for compute in &computes {
            each_case(family, model, &reference, size, compute, |case, what, found, expected| {
                let rounding = rounding[&size.name][case][what];
                let about = format!("{model} {} {case} {compute:?}: {what}", size.name);
                compared.add(&about, rounding, found, expected);
            });
        }
    }
    compared.print(model);
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
    Found { losses, val_loss: history.best.loss, after: weights::read_tensors(&out).unwrap() }
}

fn write_memes(config: &Config, size: &Size, tensors: &Tensors, tokens: &Path, regions: &Path) {
    let model = config.dimensions();
    let info = TokenSetInfo {
        dataset: "reference".to_owned(),
        classes: Classes::default(),
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
            label: Some(Label::One(row.label)),
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
