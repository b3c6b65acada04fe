//! Our side of `benches/detector/run.py`: the detector with random weights on pictures of one size, each timed alone.
//! It takes the file that `run.py` writes and answers with one JSON line.

mod peak;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use stages::models::faster_rcnn::{Config, FasterRcnn, Picture};
use stages::nn::{ParamStore, init, tune_allocator};

#[derive(Deserialize)]
struct Work {
    config: Config,
    width: usize,
    height: usize,
    pictures: usize,
    regions: usize,
    threads: usize,
    /// `cpu` or `cuda`.
    device: String,
    /// Pictures are spread over the threads, as the stage does with small ones, and timed together.
    together: bool,
    /// Threads with a picture each, as the stage does on a GPU; all pictures are then timed together.
    in_flight: usize,
}

/// Kernels for ReLU networks; normalisations that keep their input's size.
fn weight(name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    let device = &Device::Cpu;
    if name.ends_with("running_var") || (shape.len() == 1 && name.ends_with("weight")) {
        let size = if name.ends_with("bn3.weight") { 0.25f32 } else { 1.0 };
        return Tensor::full(size, shape, device);
    }
    let gain = match name {
        _ if shape.len() == 1 => 0.0,
        _ if name.contains("stem") => 1.0 / 64.0,
        _ if name.contains("bbox_pred") => 0.1,
        _ if name.contains("cls_") => 0.3,
        _ => 1.0,
    };
    let inputs: usize = shape[1..].iter().product();
    init::normal(1, name, shape, gain * (2.0 / inputs.max(1) as f64).sqrt(), device)
}

fn picture(work: &Work, number: usize) -> Picture {
    let value = |at: usize| {
        let square =
            (at / 3 % work.width / 16 * 7919 + at / 3 / work.width / 16 * 104_729 + at % 3 * 31) % 200;
        (square + (at * 2_654_435_761 + number) % 50) as u8
    };
    let rgb = (0..3 * work.width * work.height).map(value).collect();
    Picture { width: work.width, height: work.height, rgb }
}

fn seconds(work: &Work) -> candle_core::Result<Vec<f64>> {
    let device = if work.device == "cpu" { Device::Cpu } else { stages::nn::gpu::open(0)? };
    let tensors: candle_core::Result<HashMap<String, Tensor>> = FasterRcnn::parameters(&work.config)?
        .into_iter()
        .map(|(name, shape)| {
            let tensor = weight(&name, &shape)?.to_device(&device)?;
            Ok((name, tensor))
        })
        .collect();
    let detector = FasterRcnn::build(&work.config, &ParamStore::new(tensors?, |_| false)?)?;
    let detect = |number: usize| {
        detector.detect(&picture(work, number), work.regions, usize::MAX).map(|found| found.len())
    };
    if work.together {
        use rayon::prelude::*;
        detect(0)?;
        let start = Instant::now();
        (0..work.pictures).into_par_iter().try_for_each(|number| detect(number).map(drop))?;
        return Ok(vec![start.elapsed().as_secs_f64() / work.pictures as f64]);
    }
    if work.in_flight > 1 {
        // Each thread's first picture does not count: it fills the device's pool of memory.
        let both = |pictures: usize| {
            let next = AtomicUsize::new(0);
            let each = || {
                while next.fetch_add(1, Ordering::Relaxed) < pictures {
                    detect(0)?;
                }
                Ok::<_, candle_core::Error>(())
            };
            thread::scope(|scope| {
                let threads: Vec<_> = (0..work.in_flight).map(|_| scope.spawn(each)).collect();
                threads.into_iter().try_for_each(|thread| thread.join().expect("a thread that ends"))
            })
        };
        both(work.in_flight)?;
        let start = Instant::now();
        both(work.pictures)?;
        return Ok(vec![start.elapsed().as_secs_f64() / work.pictures as f64]);
    }
    let one = |number: usize| {
        let start = Instant::now();
        detect(number).map(|_| start.elapsed().as_secs_f64())
    };
    // The first does not count: it makes the threads and touches the pages.
    (0..=work.pictures).map(one).skip(1).collect()
}

#[allow(clippy::print_stdout)]
fn main() {
    let Some(file) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        return println!("takes a file that benches/detector/run.py writes");
    };
    let text = std::fs::read(&file).expect("the file of the work");
    let work: Work = serde_json::from_slice(&text).expect("work as run.py writes it");
    tune_allocator();
    rayon::ThreadPoolBuilder::new().num_threads(work.threads).build_global().expect("threads");
    let seconds = seconds(&work).expect("pictures");
    println!("{}", serde_json::json!({"seconds": seconds, "peak_mb": peak::peak()}));
}
