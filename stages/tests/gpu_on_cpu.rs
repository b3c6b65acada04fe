//! The GPU's code on the CPU: the models against their references, through the kernels of a GPU and the code that launches them.
//!
//! The crate `gpu-on-cpu` compiles the kernels for the CPU; products are the CPU's own, of the factors that a GPU would read.
//! `docs/gpu.md` says what this can show and what only a GPU can.

// The distances are worth a look: `cargo test --release -p stages --test gpu_on_cpu -- --nocapture`.
#![allow(clippy::print_stdout, unsafe_code, reason = "prints distances; hands pointers of memory to kernels")]

#[path = "support/reference.rs"]
#[allow(dead_code, reason = "parity.rs reads the mistakes too")]
mod reference;

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use stages::artifacts::samples::Split;
use stages::models::faster_rcnn::config::Proposals;
use stages::models::faster_rcnn::{Config as DetectorConfig, FasterRcnn, Picture, Region};
use stages::models::{Batch, Config, Family};
use stages::nn::gpu::Gpu;
use stages::nn::gpu::testing::OnCpu;
use stages::nn::{
    AdamW, AdamWConfig, Compute, Dense, Dropout, Linear, ParamStore, Precision, binary_cross_entropy,
    cross_entropy, decays, init,
};

use reference::{
    Found, MODELS, Reference, Run, Settings, Size, Tensors, distances, each_case, is_noise, off, read,
    reference, rounding, tolerance, under, values,
};

fn launch(kernel: &str, grid: [u32; 3], block: u32, args: &[*mut c_void], seed: u64) -> Result<(), String> {
    // SAFETY: the driver of tests has checked the number and the widths of the arguments, and the passes hand in memory as
    // large as the kernels use.
    unsafe { gpu_on_cpu::launch(kernel, grid, block, args, seed) }
}

/// The GPU's code for a device with TF32 cores, whose float32 products are three of split factors, or for one without.
fn gpu(has_tf32: bool) -> Compute {
    let driver = OnCpu::new(launch, gpu_on_cpu::parameters, has_tf32);
    // The models of the tests are narrow, and split as wide ones are.
    let gpu = Gpu::new(Arc::new(driver), Precision::F32, has_tf32).unwrap().splitting_from(1);
    Compute::on(gpu, &Device::Cpu).unwrap()
}

#[test]
fn logits_and_gradients_are_the_references() {
    for (family, model, _) in MODELS {
        let (reference, rounding) = (reference(model), rounding(model));
        for has_tf32 in [true, false] {
            let compute = gpu(has_tf32);
            let mut worst = [(0.0, String::new()), (0.0, String::new())];
            for size in &reference.sizes {
                each_case(family, model, &reference, size, &compute, |case, what, found, expected| {
                    let (difference, length) = off(found, expected);
                    let (limit, worst) =
                        if what == "logits" { (1e-5, &mut worst[0]) } else { (1e-4, &mut worst[1]) };
                    // The true gradient of a key's bias is 0; what there is, is rounding of gradients near 1.
                    let limit = if is_noise(what) { 1e-6 } else { limit * length };
                    let limit = limit.max(tolerance(rounding[&size.name][case][what], length));
                    let about = format!("{model} {} {case}: {what}", size.name);
                    assert!(difference <= limit, "{about} is off by {difference:.2e} of {length:.2e}");
                    if difference / limit > worst.0 {
                        *worst = (difference / limit, about);
                    }
                });
            }
            let name = if has_tf32 { "3xTF32" } else { "float32" };
            for (what, (share, about)) in ["logits", "gradients"].iter().zip(worst) {
                println!("{name}, {what}: at most {share:.2} of the tolerance ({about})");
            }
        }
    }
}

#[test]
fn twenty_updates_are_the_references() {
    let compute = gpu(true);
    for (family, model, _) in MODELS {
        let reference = reference(model);
        for size in &reference.sizes {
            let (config, tensors) = (size.config(family), read(model, &size.name));
            for run in &size.runs {
                let found = train(&config, &reference, size, &tensors, run, &compute);
                let after = under(&tensors, &format!("{} {} after ", run.mode, run.settings));
                let distances = distances(&found, run, &after);
                let about = format!("{model} {} {} {}", size.name, run.mode, run.settings);
                println!("{about}: losses, val loss, weights off by {distances:.3?} of 1e-5");
                assert!(distances.iter().all(|&distance| distance <= 1.0), "{about}: {distances:?}");
            }
        }
    }
}

/// Trains as the stage does: rows in order, without dropout.
fn train(
    config: &Config,
    reference: &Reference,
    size: &Size,
    tensors: &Tensors,
    run: &Run,
    compute: &Compute,
) -> Found {
    let Settings { lr, eps, weight_decay } = reference.settings[&run.settings];
    let &Reference { updates, warm_up, batch, .. } = reference;
    let params = ParamStore::new(size.weights(tensors, run.mode), |name| run.mode.trains(name)).unwrap();
    let params = params.with_compute(compute.clone());
    let (model, frozen) = (config.build(&params).unwrap(), config.build(&params.frozen()).unwrap());
    let adamw = AdamWConfig { eps, weight_decay, ..AdamWConfig::default() };
    let mut adamw = AdamW::new(&params, adamw, decays).unwrap();
    let dropout = Dropout::new(0.0, 0).unwrap();
    let rows = |split| (0..size.rows.len()).filter(|&row| size.rows[row].split == split).collect::<Vec<_>>();
    let (train, val) = (rows(Split::Train), rows(Split::Val));
    let loss = |logits: &Tensor, rows: &[usize]| {
        let labels = rows.iter().map(|&row| u32::from(size.rows[row].label));
        let labels = Tensor::from_iter(labels, &Device::Cpu).unwrap();
        cross_entropy(compute, logits, &labels, rows.len()).unwrap()
    };
    let mut losses = Vec::new();
    for (update, rows) in (0..updates).zip(train.chunks(batch).cycle()) {
        let logits = model.logits(&read_rows(reference, size, tensors, rows), Some(&dropout.at(update + 1)));
        let loss = loss(&logits.unwrap(), rows);
        loss.backward().unwrap();
        // The rate of the update before: linear warm-up, then linear decay.
        let rate = if update < warm_up {
            update as f64 / warm_up as f64
        } else {
            (updates - update) as f64 / (updates - warm_up) as f64
        };
        adamw.step(lr * rate).unwrap();
        losses.push(compute.sum(&[loss.detach()]).unwrap());
    }
    let logits = frozen.logits(&read_rows(reference, size, tensors, &val), None).unwrap();
    Found { losses, val_loss: compute.sum(&[loss(&logits, &val)]).unwrap(), after: params.tensors() }
}

/// The batch of `rows`, as the settings of the reference show them to the model: at most so many tokens, the last of them `[SEP]`,
/// and so many regions; padded to the longest.
fn read_rows(reference: &Reference, size: &Size, tensors: &Tensors, rows: &[usize]) -> Batch {
    const SEP: u32 = 3;
    let texts = rows.iter().map(|&row| match &size.rows[row].ids {
        ids if ids.len() <= reference.max_text => ids.clone(),
        ids => [&ids[..reference.max_text - 1], &[SEP]].concat(),
    });
    let texts: Vec<Vec<u32>> = texts.collect();
    let regions = rows.iter().map(|row| {
        let features = &tensors[&format!("regions {row}")];
        features.narrow(0, 0, features.dim(0).unwrap().min(reference.max_regions)).unwrap()
    });
    let regions: Vec<Tensor> = regions.collect();
    let tokens = texts.iter().map(Vec::len).max().unwrap();
    let most = regions.iter().map(|features| features.dim(0).unwrap()).max().unwrap().max(1);
    let places = rows.iter().zip(&regions).map(|(&row, features)| {
        let count = features.dim(0).unwrap();
        let Some(boxes) = tensors.get(&format!("boxes {row}")) else {
            return Tensor::zeros((count, 5), DType::F32, &Device::Cpu).unwrap();
        };
        let (width, height) = size.rows[row].picture;
        let (width, height) = (width as f32, height as f32);
        let boxes = boxes.narrow(0, 0, count).unwrap().to_vec2::<f32>().unwrap();
        let place = boxes.iter().flat_map(|corners| {
            let [left, upper, right, lower] = corners[..] else { panic!("four corners") };
            let area = (lower - upper) * (right - left) / (width * height);
            [left / width, upper / height, right / width, lower / height, area]
        });
        Tensor::from_iter(place, &Device::Cpu).unwrap().reshape((count, 5)).unwrap()
    });
    let padded = |rows: Vec<Tensor>| {
        let pad = |row: Tensor| row.pad_with_zeros(0, 0, most - row.dim(0).unwrap()).unwrap();
        Tensor::stack(&rows.into_iter().map(pad).collect::<Vec<_>>(), 0).unwrap()
    };
    let there = |length: usize, all: usize| (0..all).map(move |at| f32::from(u8::from(at < length)));
    let mask = texts.iter().zip(&regions);
    let mask = mask.flat_map(|(text, features)| {
        there(text.len(), tokens).chain(there(features.dim(0).unwrap(), most)).collect::<Vec<_>>()
    });
    let mask = Tensor::from_iter(mask, &Device::Cpu).unwrap().reshape((rows.len(), tokens + most)).unwrap();
    let ids = texts.iter().flat_map(|text| (0..tokens).map(|at| text.get(at).copied().unwrap_or(0)));
    Batch {
        ids: Tensor::from_iter(ids, &Device::Cpu).unwrap().reshape((rows.len(), tokens)).unwrap(),
        locations: padded(places.collect()),
        regions: padded(regions),
        mask,
    }
}

#[test]
fn a_model_of_the_papers_head_width_has_the_cpus_logits() {
    // Heads of 64 as in the paper, a length that fills no tile, and adapters: what the references are too narrow for.
    let config: Config = serde_json::from_value(serde_json::json!({
        "vocab_size": 40, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 420,
        "max_position_embeddings": 40, "type_vocab_size": 2, "visual_embedding_dim": 70
    }))
    .unwrap();
    assert_eq!(config.family(), Family::VisualBert);
    let (rows, tokens, regions) = (3, 37, 34);
    // All positions there; then a full row, one of a token and a region, one with gaps.
    let full = Tensor::ones((rows, tokens + regions), DType::F32, &Device::Cpu).unwrap();
    let lengths = [(37, 34), (1, 1), (20, 9)];
    let there =
        |at: usize, (text, shown): (usize, usize)| at < text || (tokens..tokens + shown).contains(&at);
    let mask =
        lengths.map(|length| (0..tokens + regions).map(move |at| f32::from(u8::from(there(at, length)))));
    let padded = Tensor::from_iter(mask.into_iter().flatten(), &Device::Cpu).unwrap();
    let masks = [full, padded.reshape((rows, tokens + regions)).unwrap()];
    let normal =
        |name: &str, shape: &[usize]| stages::nn::init::normal(1, name, shape, 1.0, &Device::Cpu).unwrap();
    let batch = |mask: Tensor| Batch {
        ids: Tensor::from_iter((0..rows * tokens).map(|at| (at * 7 % 40) as u32), &Device::Cpu)
            .unwrap()
            .reshape((rows, tokens))
            .unwrap(),
        regions: normal("regions", &[rows, regions, 70]),
        locations: normal("locations", &[rows, regions, 5]),
        mask,
    };
    let names = config.parameters(stages::models::Mode::Pe.parts()).unwrap();
    let weight = |(name, shape): (String, Vec<usize>)| {
        let scaled = stages::nn::init::normal(2, &name, &shape, 0.05, &Device::Cpu).unwrap();
        let is_norm = name.ends_with("LayerNorm.weight");
        (name, if is_norm { (scaled + 1.0).unwrap() } else { scaled })
    };
    let weights: Tensors = names.into_iter().map(weight).collect();
    let gradients = |compute: Compute, mask: &Tensor| {
        let params = ParamStore::new(weights.clone(), |_| true).unwrap().with_compute(compute.clone());
        let dropout = Dropout::new(0.1, 3).unwrap().at(1);
        let logits = config.build(&params).unwrap().logits(&batch(mask.clone()), Some(&dropout)).unwrap();
        let labels = Tensor::new(&[0u32, 1, 1], &Device::Cpu).unwrap();
        cross_entropy(&compute, &logits, &labels, rows).unwrap().backward().unwrap();
        (values(&logits), params.take_gradients().unwrap())
    };
    for mask in &masks {
        let (expected, expected_grads) =
            gradients(Compute::for_device(&Device::Cpu, Precision::F32).unwrap(), mask);
        let (found, grads) = gradients(gpu(true), mask);
        let (difference, length) = off(&found, &expected);
        assert!(difference <= 1e-5 * length, "logits are off by {difference:.2e} of {length:.2e}");
        assert_eq!(grads.len(), expected_grads.len());
        for (name, expected) in expected_grads.iter().filter(|(name, _)| !name.ends_with("key.bias")) {
            let (difference, length) = off(&values(&grads[name]), &values(expected));
            assert!(difference <= 1e-4 * length, "{name} is off by {difference:.2e} of {length:.2e}");
        }
    }
}

#[test]
fn heads_of_few_labels_have_the_cpus_losses_and_gradients() {
    let (rows, inputs) = (13, 70);
    let normal = |name: &str, shape: &[usize]| init::normal(1, name, shape, 1.0, &Device::Cpu).unwrap();
    // The loss, then the gradients of x, weight and bias.
    let losses = |compute: &Compute, outputs: usize| {
        let tensors = [("weight", vec![outputs, inputs]), ("bias", vec![outputs])];
        let tensors = tensors.map(|(name, shape)| (name.to_owned(), normal(name, &shape)));
        let params = ParamStore::new(tensors.into(), |_| true).unwrap().with_compute(compute.clone());
        let [weight, bias] = ["weight", "bias"].map(|name| params.get(name).unwrap().clone());
        let head = Dense::new(compute, Linear { weight, bias, inputs, outputs });
        let x = Var::from_tensor(&normal("x", &[rows, inputs])).unwrap();
        let labels = Tensor::from_iter((0..rows).map(|row| (row % outputs) as u32), &Device::Cpu).unwrap();
        let targets = Tensor::from_iter((0..rows * outputs).map(|at| (at * at % 5 % 2) as f32), &Device::Cpu);
        let targets = targets.unwrap().reshape((rows, outputs)).unwrap();
        let mut found = Vec::new();
        for is_multi_label in [true, false] {
            let logits = head.forward(&x, None).unwrap();
            let loss = match is_multi_label {
                true => binary_cross_entropy(compute, &logits, &targets, 16).unwrap(),
                false => cross_entropy(compute, &logits, &labels, 16).unwrap(),
            };
            let of_x = values(loss.backward().unwrap().get(&x).unwrap());
            let gradients = params.take_gradients().unwrap();
            let of_params = ["weight", "bias"].map(|name| values(&gradients[name]));
            found.extend([values(&loss), of_x].into_iter().chain(of_params));
        }
        found
    };
    for outputs in [1, 3, 6] {
        let expected = losses(&Compute::for_device(&Device::Cpu, Precision::F32).unwrap(), outputs);
        for has_tf32 in [true, false] {
            for (found, expected) in losses(&gpu(has_tf32), outputs).iter().zip(&expected) {
                let (difference, length) = off(found, expected);
                let limit = 1e-5 * length.max(1e-3);
                assert!(difference <= limit, "{outputs} outputs: off by {difference:.2e} of {length:.2e}");
            }
        }
    }
}

/// A detector with each of the published one's parts: grouped convolutions, some of stride 2, Winograd's method, four levels.
fn detector(compute: &Compute) -> FasterRcnn {
    let config = DetectorConfig {
        stem_width: 16,
        blocks: vec![1, 2, 1],
        groups: 4,
        width_per_group: 8,
        stage_widths: vec![64, 64, 96],
        pyramid_width: 64,
        anchor_sizes: vec![32.0, 64.0, 128.0, 256.0],
        proposals: Proposals { before_nms: 300, nms: 0.7, after_nms: 60, over_levels: 100 },
        head_width: 64,
        classes: 9,
        min_size: 96,
        max_size: 160,
        ..DetectorConfig::x152()
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        if name.ends_with("running_var") || (shape.len() == 1 && name.ends_with("weight")) {
            return (name, Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
        }
        let inputs: usize = shape[1..].iter().product();
        let gain = if name.contains("stem") { 1.0 / 64.0 } else { 1.0 };
        let deviation = if shape.len() == 1 { 0.0 } else { gain * (2.0 / inputs as f64).sqrt() };
        let drawn = stages::nn::init::normal(1, &name, &shape, deviation, &Device::Cpu).unwrap();
        (name, drawn)
    };
    let tensors = FasterRcnn::parameters(&config).unwrap().into_iter().map(tensor).collect();
    let params = ParamStore::new(tensors, |_| false).unwrap().with_compute(compute.clone());
    FasterRcnn::build(&config, &params).unwrap()
}

#[test]
fn the_detector_s_regions_are_the_cpus() {
    let (width, height) = (130, 90);
    let rgb = (0..3 * width * height).map(|at| ((at * 2_654_435_761) >> 7) as u8).collect();
    let picture = Picture { width, height, rgb };
    let cpu = detector(&Compute::for_device(&Device::Cpu, Precision::F32).unwrap());
    let expected = cpu.detect(&picture, 40, usize::MAX).unwrap();
    assert!(expected.len() > 5, "only {} regions", expected.len());
    for has_tf32 in [true, false] {
        // The head gets its boxes in parts, and the features are the same.
        let found = detector(&gpu(has_tf32)).detect(&picture, 40, 37).unwrap();
        let furthest = region_distances(&found, &expected);
        println!("with TF32 cores: {has_tf32}; boxes, features, scores are off by {furthest:?}");
        // Drawn weights make the network ill-conditioned: candle's float32 products instead of the CPU's, which differ in the
        // order of sums alone, move boxes by 0.0036, features by 3.6e-4 and scores by 1.1e-5.
        let [distance, off, score] = furthest;
        assert!(distance < 0.02 && off < 1e-3 && score < 5e-5, "{furthest:?}");
    }
}

/// How far apart two choices of the same regions are, at most: boxes in pixels, features relative to their norm, scores.
fn region_distances(found: &[Region], expected: &[Region]) -> [f32; 3] {
    assert_eq!(found.len(), expected.len());
    let mut furthest = [0f32; 3];
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.object, expected.object);
        let distance =
            found.corners.iter().zip(&expected.corners).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>();
        let differences = &mut found.feature.iter().zip(&expected.feature).map(|(a, b)| a - b);
        let off = (square(differences) / square(&mut expected.feature.iter().copied())).sqrt();
        let score = (found.confidence - expected.confidence).abs();
        for (furthest, here) in furthest.iter_mut().zip([distance, off, score]) {
            *furthest = furthest.max(here);
        }
    }
    furthest
}
