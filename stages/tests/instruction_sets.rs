//! Every instruction set gives the same bits: training, evaluation, a detector and convolutions as X-152 has them.
//!
//! The kernels compute by the instruction set that is selected for the whole process, so one test goes through all of them. The
//! other, small enough for an emulated processor, uses the one that is selected while it runs: any gives its bits.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use stages::models::faster_rcnn::{Config as DetectorConfig, FasterRcnn, Picture, config::Proposals};
use stages::models::{Batch, Family, Mode, SmallConfig, Start, init_from_pretrained, init_random};
use stages::nn::conv::{Conv2d, Window};
use stages::nn::cpu::{InstructionSet, select, selected};
use stages::nn::cpu_tensor::cpu_vec;
use stages::nn::maps::Addend;
use stages::nn::{AdamW, AdamWConfig, Compute, Dropout, ParamStore, Precision, cross_entropy, decays, init};

type Bits = Vec<(String, Vec<u32>)>;

fn bits(tensor: &Tensor) -> Vec<u32> {
    cpu_vec(tensor).unwrap().into_iter().map(f32::to_bits).collect()
}

fn normal(name: &str, shape: &[usize], deviation: f64) -> Tensor {
    init::normal(1, name, shape, deviation, &Device::Cpu).unwrap()
}

fn batch(number: u64, features: usize) -> Batch {
    let (rows, tokens, regions) = (5, 9, 7);
    let ids: Vec<u32> = (0..rows * tokens).map(|i| ((i * 31 + number as usize * 7) % 90) as u32).collect();
    let mask: Vec<f32> = (0..rows * (tokens + regions)).map(|i| f32::from(u8::from(i % 11 != 7))).collect();
    Batch {
        ids: Tensor::from_vec(ids, (rows, tokens), &Device::Cpu).unwrap(),
        regions: normal(&format!("regions {number}"), &[rows, regions, features], 1.0).relu().unwrap(),
        locations: normal(&format!("locations {number}"), &[rows, regions, 5], 0.3),
        mask: Tensor::from_vec(mask, (rows, tokens + regions), &Device::Cpu).unwrap(),
    }
}

/// Some updates with dropout, then the logits of an evaluation; losses, logits and weights.
fn training(family: Family, mode: Mode, updates: u64) -> Bits {
    let config = family.small(&SmallConfig {
        words: 90,
        positions: 16,
        features: 40,
        hidden: 48,
        layers: 2,
        heads: 3,
        intermediate: 100,
        dropout: 0.1,
        initializer_range: 0.1,
    });
    let base = init_random(&*config, 1, &Device::Cpu).unwrap();
    let tensors = init_from_pretrained(&base, &*config, mode, Start::Base, 1, &Device::Cpu).unwrap();
    let params = ParamStore::new(tensors, |name| mode.trains(name)).unwrap();
    let model = config.build(&params).unwrap();
    let mut optimizer = AdamW::new(&params, AdamWConfig::default(), decays).unwrap();
    let dropout = Dropout::new(0.1, 1).unwrap();
    let labels = Tensor::new(&[0u32, 1, 1, 0, 1], &Device::Cpu).unwrap();
    let mut found = Bits::new();
    for update in 0..updates {
        let logits = model.logits(&batch(update, 40), Some(&dropout.at(update))).unwrap();
        let loss = cross_entropy(params.compute(), &logits, &labels, labels.elem_count()).unwrap();
        loss.backward().unwrap();
        optimizer.step(1e-3).unwrap();
        found.push((format!("loss of update {update}"), bits(&loss)));
    }
    found.push(("logits".to_owned(), bits(&model.logits(&batch(99, 40), None).unwrap())));
    found.extend(params.trained().map(|(name, param)| (name.to_owned(), bits(param.value()))));
    found
}

/// Regions of a picture whose shorter side is resized to `min_size` pixels.
fn detector(min_size: usize) -> Bits {
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
        min_size,
        max_size: 2 * min_size,
        ..DetectorConfig::x152()
    };
    let tensor = |name: &str, shape: &[usize]| {
        if name.ends_with("running_var") || (shape.len() == 1 && name.ends_with("weight")) {
            return Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        }
        let inputs: usize = shape[1..].iter().product();
        let gain = if name.contains("stem") { 1.0 / 64.0 } else { 1.0 };
        normal(name, shape, if shape.len() == 1 { 0.0 } else { gain * (2.0 / inputs as f64).sqrt() })
    };
    let tensors: HashMap<String, Tensor> = FasterRcnn::parameters(&config)
        .unwrap()
        .into_iter()
        .map(|(name, shape)| (name.clone(), tensor(&name, &shape)))
        .collect();
    let params = ParamStore::new(tensors, |_| false).unwrap();
    let (width, height) = (230, 170);
    let rgb = (0..3 * width * height).map(|at| ((at * 2_654_435_761) >> 7) as u8).collect();
    let regions = FasterRcnn::build(&config, &params).unwrap();
    let regions = regions.detect(&Picture { width, height, rgb }, 40, usize::MAX).unwrap();
    assert!(regions.len() > 5, "only {} regions", regions.len());
    let values = regions.iter().map(|region| {
        let numbers = region.corners.iter().chain([&region.confidence]).chain(&region.feature);
        let bits = numbers.map(|value| value.to_bits()).chain([region.object]).collect();
        ("a region".to_owned(), bits)
    });
    values.collect()
}

/// A convolution of `inputs` to `outputs` channels on a map of `side` x `side`, with ReLU and shortcut.
fn convolution(kernel: usize, (inputs, outputs): (usize, usize), groups: usize, side: usize) -> Bits {
    let weight = normal("weight", &[outputs, inputs / groups, kernel, kernel], 0.1);
    let window = Window { stride: 1, padding: kernel / 2, groups };
    let compute = Compute::for_device(&Device::Cpu, Precision::F32).unwrap();
    let conv = Conv2d::new(&compute, &weight, normal("bias", &[outputs], 0.1), window).unwrap().with_relu();
    let x = normal("x", &[1, inputs, side, side], 1.0);
    let shortcut = normal("shortcut", &[1, outputs, side, side], 1.0);
    let name = format!("{kernel} x {kernel}, {inputs} to {outputs} channels in {groups} groups");
    vec![(name, bits(&conv.forward(&x, Some(Addend::same(&shortcut))).unwrap()))]
}

fn everything() -> Bits {
    let mut found = Bits::new();
    for family in Family::ALL {
        for mode in Mode::ALL {
            let prefixed = training(family, mode, 20).into_iter();
            found.extend(prefixed.map(|(name, bits)| (format!("{} {mode}: {name}", family.title()), bits)));
        }
    }
    found.extend(detector(200));
    // X-152's first stage: grouped without unrolling; by Winograd's transforms; a plain product; unrolled.
    found.extend(convolution(3, (256, 256), 32, 86));
    found.extend(convolution(3, (64, 96), 1, 40));
    found.extend(convolution(1, (256, 128), 1, 50));
    found.extend(convolution(3, (24, 20), 1, 30));
    found
}

/// Of all bits of [`everything`], as an AMD EPYC with AVX-512 computed them. No CPU gives another; a change of the arithmetic does,
/// and raises `VERSION` of the stages that it changes.
const DIGEST: &str = "eb20c93328149b8dbb3e1119cc5e501f";

fn digest(found: &Bits) -> String {
    let mut hash = Sha256::new();
    for (name, bits) in found {
        hash.update(name);
        bits.iter().for_each(|bits| hash.update(bits.to_le_bytes()));
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_same_bits() {
    let mut expected: Option<Bits> = None;
    for set in InstructionSet::supported() {
        select(set).unwrap();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(everything);
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_eq!(expected.len(), found.len());
            for ((name, expected), (_, found)) in expected.iter().zip(&found) {
                let differ = expected.iter().zip(found).filter(|(a, b)| a != b).count();
                let all = expected.len();
                assert!(
                    all == found.len() && differ == 0,
                    "{set}, {threads} threads: {name}: {differ} of {all} values differ"
                );
            }
            assert_eq!(
                digest(&found),
                DIGEST,
                "{set}, {threads} threads: all are alike here, and not what other CPUs give"
            );
        }
    }
}

/// Of one update and one picture, as an AMD EPYC with AVX-512 computed them.
const SMALL_DIGEST: &str = "fa8957d05ed32e4884c97cae7fc35c27";

#[test]
fn one_update_and_one_picture_give_the_kept_bits() {
    let mut found = training(Family::VisualBert, Mode::Pe, 1);
    found.extend(detector(64));
    assert_eq!(digest(&found), SMALL_DIGEST, "by {}: not what other CPUs give", selected());
}
