//! The detector against its reference in PyTorch: `tests/reference/faster_rcnn.py` wrote what is compared with, and
//! has the formula by which both sides compute weights and pictures. Three configurations, nineteen pictures; those of the
//! last are scaled by 0.4, 1, 1.45 and 6.8.

use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::*;
use crate::nn::Precision;
use crate::nn::cpu_tensor::cpu_vec;
use crate::nn::gpu::Gpu;
use crate::nn::gpu::testing::OnCpu;

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Config,
    /// Widths and heights.
    pictures: Vec<[usize; 2]>,
    /// Size of the canvas over size of each picture.
    scales: Vec<f64>,
    /// Every how many-th value of a map was kept.
    every: usize,
    /// Regions a picture.
    regions: usize,
}

fn fixture(ending: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/detector_parity.{ending}"))
}

fn scramble(mut x: u32) -> u32 {
    for (shift, factor) in [(16, 0x7feb_352d), (15, 0x846c_a68b_u32)] {
        x = (x ^ x >> shift).wrapping_mul(factor);
    }
    x ^ x >> 16
}

fn weight(name: &str, shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let gains = [
        ("stem.conv1", 1.0 / 64.0),
        ("fpn_inner", 0.5),
        ("fpn_layer", 0.7),
        ("cls_logits", 0.5),
        ("bbox_pred", 0.15),
    ];
    let gain = gains.iter().chain(&[("cls_score", 0.3)]).find(|(part, _)| name.contains(part));
    let is_flat = shape.len() == 1;
    let (offset, scale) = match name {
        _ if name.ends_with("running_mean") => (0.0, 0.2),
        _ if name.ends_with("running_var") => (1.0, 0.5),
        _ if is_flat && name.ends_with("bn3.weight") => (0.25, 0.05),
        _ if is_flat && name.ends_with("weight") => (1.0, 0.25),
        _ if is_flat => (0.0, 0.1),
        _ => (0.0, gain.map_or(1.0, |(_, gain)| *gain) * (6.0 / (count / shape[0]) as f64).sqrt()),
    };
    let start = crc32fast::hash(name.as_bytes());
    let value = |at: usize| {
        let bits = scramble((at as u32).wrapping_mul(0x9e37_79b9).wrapping_add(start)) >> 8;
        let drawn = bits as f32 / (1 << 23) as f32 - 1.0;
        offset as f32 + scale as f32 * drawn
    };
    Tensor::from_vec((0..count).map(value).collect(), shape, &Device::Cpu).unwrap()
}

fn picture([width, height]: [usize; 2]) -> Picture {
    let mut rgb = Vec::with_capacity(3 * width * height);
    for (y, x, c) in (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
        let square = scramble((((y / 16) * 4096 + x / 16) * 4 + c) as u32) & 0xff;
        let noise = scramble(((y * 4096 + x) * 4 + c + 77) as u32) & 0x3f;
        rgb.push((square * 3 / 4 + noise) as u8);
    }
    Picture { width, height, rgb }
}

/// The length of the difference as a share of the length of what is expected.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
    };
    let difference = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / length(&mut expected.iter().copied())) as f32
}

fn corners(tensor: &Tensor) -> Vec<Corners> {
    tensor.to_vec2::<f32>().unwrap().into_iter().map(|row| row.try_into().unwrap()).collect()
}

/// Pixels that a corner may be off by.
const NEAR: f32 = 0.01;

/// The greatest distance between a corner and its counterpart.
fn distance(found: &[Corners], expected: &[Corners]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.as_flattened().iter().zip(expected.as_flattened());
    pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

/// A GPU's passes, run on this CPU, with or without TF32 cores.
fn gpu_on_cpu(has_tf32: bool) -> Compute {
    fn run(
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        args: &[*mut c_void],
        seed: u64,
    ) -> std::result::Result<(), String> {
        // SAFETY: the device compares the arguments' sizes with the kernel's; the passes name memory that is there.
        #[allow(unsafe_code)]
        unsafe {
            gpu_on_cpu::launch(kernel, grid, block, args, seed)
        }
    }
    let device = Arc::new(OnCpu::new(run, gpu_on_cpu::parameters, has_tf32));
    Compute::on(Gpu::new(device, Precision::F32, true).unwrap(), &Device::Cpu).unwrap()
}

/// The values of a map channel by channel, whatever the device's order.
fn channel_by_channel(compute: &Compute, map: &Tensor) -> Vec<f32> {
    let (size, values) = (compute.map_size(map).unwrap(), compute.values(map).unwrap());
    let places = (0..size.channels).flat_map(|channel| (0..size.places()).map(move |place| (channel, place)));
    places.map(|(channel, place)| values[compute.map_index(size, channel, place)]).collect()
}

#[test]
fn does_what_the_reference_does() {
    does_what_the_reference_does_on(&Compute::for_device(&Device::Cpu, Precision::F32).unwrap(), |_| true);
}

#[test]
fn does_what_the_reference_does_composed_from_candle_s_operations() {
    let composed = Compute::composed(&Device::Cpu, Precision::F32).unwrap();
    does_what_the_reference_does_on(&composed, |number| number == 0);
}

#[test]
fn does_what_the_reference_does_on_a_gpu_s_passes() {
    does_what_the_reference_does_on(&gpu_on_cpu(false), |_| true);
}

#[test]
fn does_what_the_reference_does_on_a_gpu_s_tensor_cores() {
    does_what_the_reference_does_on(&gpu_on_cpu(true), |number| number == 0);
}

/// On the pictures of each configuration whose numbers are `of`.
fn does_what_the_reference_does_on(compute: &Compute, of: impl Fn(usize) -> bool) {
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(fixture("json")).unwrap()).unwrap();
    let kept = candle_core::safetensors::load(fixture("safetensors"), &Device::Cpu).unwrap();
    for case in &cases {
        let tensors: HashMap<String, Tensor> = FasterRcnn::parameters(&case.config)
            .unwrap()
            .into_iter()
            .map(|(name, shape)| (name.clone(), weight(&name, &shape)))
            .collect();
        let params = ParamStore::new(tensors, |_| false).unwrap().with_compute(compute.clone());
        let detector = FasterRcnn::build(&case.config, &params).unwrap();
        let mut sensitive_scales = BTreeSet::new();
        for (number, &size) in case.pictures.iter().enumerate().filter(|(number, _)| of(*number)) {
            let at = format!("{}.{number}", case.name);
            let expected = |part: &str| &kept[&format!("{at}.{part}")];
            let thinned = |tensor: &Tensor| {
                channel_by_channel(compute, tensor).into_iter().step_by(case.every).collect::<Vec<f32>>()
            };
            let picture = picture(size);

            let canvas = preprocess::prepare(&picture, &case.config, &detector.compute).unwrap();
            assert_eq!(canvas.scale, case.scales[number] as f32, "{at}");
            let furthest = thinned(&canvas.pixels)
                .iter()
                .zip(cpu_vec(expected("canvas")).unwrap())
                .map(|(found, expected)| (found - expected).abs())
                .fold(0.0, f32::max);
            assert!(furthest < 1e-4, "{at}: a pixel is off by {furthest}");

            let levels = detector.pyramid.forward(detector.body.forward(canvas.pixels).unwrap()).unwrap();
            assert_eq!(levels.len(), case.config.anchor_sizes.len());
            for (level, map) in levels.iter().enumerate() {
                let off = off(&thinned(map), &cpu_vec(expected(&format!("level{level}"))).unwrap());
                assert!(off < 1e-4, "{at}: level {level} is off by {off}");
            }

            let looked = detector.look(&picture, 37).unwrap();
            let far = distance(&looked.proposals, &corners(expected("proposals")));
            assert!(far < NEAR, "{at}: a proposal is off by {far}");

            let regions = detector.detect(&picture, case.regions, 37).unwrap();
            let found: Vec<Corners> = regions.iter().map(|region| region.corners).collect();
            let far = distance(&found, &corners(expected("boxes")));
            assert!(far < NEAR, "{at}: a box is off by {far}, or at another place");
            let scores = cpu_vec(expected("scores")).unwrap();
            let objects = expected("objects").to_vec1::<i64>().unwrap();
            let features = expected("features").to_vec2::<f32>().unwrap();
            for (place, region) in regions.iter().enumerate() {
                let far = (region.confidence - scores[place]).abs();
                assert!(far < 1e-5, "{at}: the score of region {place} is off by {far}");
                let off = off(&region.feature, &features[place]);
                assert!(off < 1e-3, "{at}: the feature of region {place} is off by {off}");
                assert_eq!(i64::from(region.object), objects[place], "{at}: region {place}");
            }

            // Overlaps measured on the canvas would give other boxes, or the same in another order.
            let probabilities = &looked.described.probabilities;
            let Config { classes, class_nms, .. } = case.config;
            let chosen = |scale| -> Vec<usize> {
                let choices = selection::choose(
                    &looked.proposals,
                    scale,
                    probabilities,
                    classes,
                    class_nms,
                    case.regions,
                );
                choices.into_iter().map(|choice| choice.proposal).collect()
            };
            if chosen(canvas.scale) != chosen(1.0) {
                sensitive_scales.insert(case.scales[number].to_string());
            }
        }
        if case.name == "scales" && (0..case.pictures.len()).all(&of) {
            assert_eq!(sensitive_scales.into_iter().collect::<Vec<_>>(), ["0.4", "1.45", "6.8"]);
        }
    }
}

#[test]
fn weights_that_make_no_numbers_are_an_error() {
    let config = Config::mini(3);
    for spoilt in [
        "backbone.body.stem.conv1.weight",
        "backbone.fpn.fpn_layer1.bias",
        "rpn.head.bbox_pred.bias",
        "roi_heads.box.predictor.cls_score.bias",
    ] {
        let tensors = FasterRcnn::parameters(&config).unwrap().into_iter().map(|(name, shape)| {
            let tensor = weight(&name, &shape);
            let tensor = if name == spoilt { (tensor * f64::NAN).unwrap() } else { tensor };
            (name, tensor)
        });
        let params = ParamStore::new(tensors.collect(), |_| false).unwrap();
        let error =
            FasterRcnn::build(&config, &params).unwrap().detect(&picture([60, 40]), 5, 100).unwrap_err();
        assert!(error.to_string().contains("not a finite number"), "{spoilt}: {error}");
    }
}

fn count(list: &[(String, Vec<usize>)], keep: impl Fn(&str) -> bool) -> usize {
    list.iter().filter(|(name, _)| keep(name)).map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn x152_has_the_published_numbers_of_weights() {
    let list = FasterRcnn::parameters(&Config::x152()).unwrap();
    let is_norm = |name: &str| {
        name.starts_with("backbone.body") && (name.contains(".bn") || name.contains("downsample.1"))
    };
    assert_eq!(count(&list, |name| name.starts_with("backbone.body") && !is_norm(name)), 120_028_352);
    assert_eq!(count(&list, is_norm), 590_080);
    assert_eq!(count(&list, |name| name.starts_with("backbone.fpn")), 11_407_360);
    assert_eq!(count(&list, |name| name.starts_with("rpn")), 2_367_503);
    assert_eq!(count(&list, |name| name.starts_with("roi_heads")), 71_980_869);
    assert_eq!(count(&list, |_| true), 205_784_084 + 590_080);
}

#[test]
fn x152_has_the_published_names_and_shapes() {
    let list = FasterRcnn::parameters(&Config::x152()).unwrap();
    let expected: [(&str, &[usize]); 8] = [
        ("backbone.body.stem.conv1.weight", &[64, 3, 7, 7]),
        ("backbone.body.layer3.35.conv2.weight", &[1024, 32, 3, 3]),
        ("backbone.body.layer4.0.downsample.1.running_var", &[2048]),
        ("backbone.fpn.fpn_inner4.weight", &[512, 2048, 1, 1]),
        ("rpn.head.bbox_pred.weight", &[12, 512, 1, 1]),
        ("roi_heads.box.feature_extractor.fc6.weight", &[2048, 25088]),
        ("roi_heads.box.predictor.cls_score.bias", &[1601]),
        ("roi_heads.box.predictor.bbox_pred.weight", &[6404, 2048]),
    ];
    for (name, shape) in expected {
        assert!(list.iter().any(|(n, s)| n == name && s == shape), "{name}");
    }
    let mut names: Vec<&String> = list.iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), list.len());
}

#[test]
fn both_configs_pass_their_check() {
    Config::x152().check().unwrap();
    Config::mini(9).check().unwrap();
    assert!(Config { size_divisor: 8, ..Config::mini(9) }.check().unwrap_err().contains("size_divisor"));
}
