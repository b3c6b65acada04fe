//! What a GPU computes, against the CPU: the detector's regions, and the time the published detector takes for a picture.
//!
//! `REPRO_TEST_DEVICE=cuda:0 cargo test --release --features cuda --test device -- --ignored --nocapture`

#![allow(clippy::print_stdout)]

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use stage_api::testing;
use stages::models::faster_rcnn::{Config, FasterRcnn, Picture, Region};
use stages::nn::{ParamStore, init};

fn gpu() -> Device {
    let name = testing::device();
    let number = name.strip_prefix("cuda:").expect("REPRO_TEST_DEVICE names a GPU: cuda:0");
    stages::nn::gpu::open(number.parse().unwrap()).unwrap()
}

/// A detector with random weights that let signals through: He's deviation, batch norms that leave things alone.
fn detector(config: &Config, device: &Device) -> FasterRcnn {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let fan_in: usize = shape.iter().skip(1).product();
        let tensor = if shape.len() > 1 {
            init::normal(3, &name, &shape, (1.0 / fan_in as f64).sqrt(), &Device::Cpu).unwrap()
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
        } else {
            Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
        };
        (name, tensor.to_device(device).unwrap())
    };
    let tensors = FasterRcnn::parameters(config).unwrap().into_iter().map(tensor).collect();
    FasterRcnn::build(config, &ParamStore::new(tensors, |_| false).unwrap()).unwrap()
}

/// A picture with structure at several scales.
fn picture(width: usize, height: usize) -> Picture {
    let value = |x: usize, y: usize, c: usize| {
        let (x, y) = (x as f32 / width as f32, y as f32 / height as f32);
        let (across, down) = (libm::sinf(x * 31.0 + c as f32), libm::cosf(y * 23.0 + x * y * 40.0));
        (127.0 + 60.0 * across + 60.0 * down) as u8
    };
    let rgb =
        (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| value(x, y, c)))).collect();
    Picture { width, height, rgb }
}

/// The share of the CPU's regions that a GPU finds too: corners within 0.03 pixels, features within a thousandth of the largest value.
fn agreement(config: &Config, pictures: &[(usize, usize)], regions: usize) -> (usize, usize) {
    let (here, there) = (detector(config, &Device::Cpu), detector(config, &gpu()));
    let (mut matched, mut all) = (0, 0);
    for &(width, height) in pictures {
        let picture = picture(width, height);
        let [expected, found] = [&here, &there]
            .map(|detector| detector.detect(&picture, regions, config.proposals.over_levels).unwrap());
        assert_eq!(found.len(), expected.len());
        assert!(!found.is_empty());
        let near = |a: &f32, b: &f32, scale: f32| (a - b).abs() <= 1e-3 * scale;
        let is_found = |expected: &&Region| {
            let same =
                |found: &&Region| found.corners.iter().zip(&expected.corners).all(|(a, b)| near(a, b, 30.0));
            let scale = expected.feature.iter().fold(0f32, |most, value| most.max(value.abs()));
            found.iter().find(same).is_some_and(|found| {
                found.feature.iter().zip(&expected.feature).all(|(a, b)| near(a, b, scale))
            })
        };
        let of_picture = expected.iter().filter(is_found).count();
        println!("{width}x{height}: {of_picture} of {} regions are the CPU's", expected.len());
        (matched, all) = (matched + of_picture, all + expected.len());
    }
    (matched, all)
}

#[test]
#[ignore = "wants a GPU"]
fn the_detector_finds_on_a_gpu_what_it_finds_on_the_cpu() {
    let (matched, all) = agreement(&Config::mini(12), &[(224, 224), (224, 150), (97, 300)], 36);
    assert!(matched * 100 >= all * 98, "{matched} of {all}");
}

#[test]
#[ignore = "wants a GPU, and minutes of the CPU"]
fn the_published_detector_finds_on_a_gpu_what_it_finds_on_the_cpu() {
    let (matched, all) = agreement(&Config::x152(), &[(1333, 800), (640, 480)], 100);
    assert!(matched * 100 >= all * 98, "{matched} of {all}");
}

#[test]
#[ignore = "wants a GPU"]
fn the_published_detector_takes_a_picture() {
    let detector = detector(&Config::x152(), &gpu());
    let picture = picture(1333, 800);
    for number in 0..6 {
        let start = Instant::now();
        let regions = detector.detect(&picture, 100, 2000).unwrap();
        println!("picture {number}: {} regions, {:.3} s", regions.len(), start.elapsed().as_secs_f64());
        assert!(!regions.is_empty());
    }
}
