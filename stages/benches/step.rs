//! Our side of `benches/training/run.py`: steps of training or evaluation on batches of given lengths, timed one by
//! one. It takes the file that `run.py` writes and answers with one JSON line.
//!
//! With `{"product": [m, k, n]}` instead it times the matrix product that everything rests on.

mod peak;

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use stages::models::{Batch, Config, Mode, Start, init_from_pretrained, init_random};
use stages::nn::{
    AdamW, AdamWConfig, Compute, Dense, Dropout, Linear, Param, ParamStore, Precision, cross_entropy, decays,
    init, tune_allocator,
};

#[derive(Deserialize)]
struct Work {
    config: Config,
    mode: Mode,
    evaluate: bool,
    threads: usize,
    regions: usize,
    /// `cpu` or `cuda`.
    device: String,
    /// What factors of products are rounded to: `f32`, `tf32` or `bf16`.
    precision: String,
    /// Texts are padded to this length; to the longest of their batch when absent.
    pad: Option<usize>,
    /// Tokens of each text, batch by batch.
    texts: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct Product {
    product: [usize; 3],
    threads: usize,
}

fn batch(work: &Work, lengths: &[usize], number: u64, device: &Device) -> candle_core::Result<Batch> {
    let (rows, regions, model) = (lengths.len(), work.regions, work.config.dimensions());
    let longest = work.pad.or_else(|| lengths.iter().max().copied()).unwrap_or(2);
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (row, &length) in lengths.iter().enumerate() {
        let word = |at: usize| 5 + ((at * 7919 + row * 104_729) % (model.words - 5)) as u32;
        ids.extend((0..longest).map(|at| if at < length { word(at) } else { 0 }));
        mask.extend((0..longest).map(|at| f32::from(u8::from(at < length))));
        mask.extend((0..regions).map(|_| 1f32));
    }
    Ok(Batch {
        ids: Tensor::from_vec(ids, (rows, longest), device)?,
        regions: init::normal(number, "regions", &[rows, regions, model.features], 1.0, device)?.relu()?,
        locations: init::normal(number, "locations", &[rows, regions, 5], 0.3, device)?,
        mask: Tensor::from_vec(mask, (rows, longest + regions), &Device::Cpu)?,
    })
}

fn steps(work: &Work) -> candle_core::Result<Vec<f64>> {
    let device = if work.device == "cpu" { Device::Cpu } else { stages::nn::gpu::open(0)? };
    let base = init_random(&*work.config, 1, &device)?;
    let tensors = init_from_pretrained(&base, &*work.config, work.mode, Start::Base, 1, &device)?;
    drop(base);
    let params = ParamStore::new(tensors, |name| work.mode.trains(name))?;
    let params = if work.evaluate { params.frozen() } else { params };
    let params = params.with_precision(match work.precision.as_str() {
        "tf32" => Precision::Tf32,
        "bf16" => Precision::Bf16,
        _ => Precision::F32,
    })?;
    let model = work.config.build(&params)?;
    let mut adamw = AdamW::new(&params, AdamWConfig::default(), decays)?;
    let dropout = Dropout::new(work.config.dimensions().dropout, 1)?;
    let mut seconds = Vec::new();
    for (number, lengths) in (1..).zip(&work.texts) {
        let batch = batch(work, lengths, number, &device)?;
        let labels: Vec<u32> = (0..lengths.len() as u32).map(|row| row % 2).collect();
        let labels = Tensor::new(labels, &device)?;
        device.synchronize()?;
        let start = Instant::now();
        if work.evaluate {
            model.logits(&batch, None)?.to_vec2::<f32>()?;
        } else {
            let logits = model.logits(&batch, Some(&dropout.at(number)))?;
            let loss = cross_entropy(params.compute(), &logits, &labels, lengths.len())?;
            loss.backward()?;
            adamw.step(5e-5)?;
            params.compute().sum(&[loss.detach()])?;
            device.synchronize()?;
        }
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// A linear layer without gradients: its product decides, its bias is one addition in a thousand.
fn product([m, k, n]: [usize; 3]) -> candle_core::Result<Vec<f64>> {
    let device = &Device::Cpu;
    let weight = init::normal(1, "weight", &[n, k], 1.0, device)?;
    let bias = init::normal(1, "bias", &[n], 1.0, device)?;
    let (weight, bias) = (Param::frozen(weight), Param::frozen(bias));
    let compute = Compute::for_device(device, Precision::F32)?;
    let layer = Dense::new(&compute, Linear { weight, bias, inputs: k, outputs: n });
    let x = init::normal(1, "x", &[m, k], 1.0, device)?;
    let time = || {
        let start = Instant::now();
        layer.forward(&x, None).map(|_| start.elapsed().as_secs_f64())
    };
    (0..8).map(|_| time()).collect()
}

#[allow(clippy::print_stdout)]
fn main() {
    let Some(file) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        return println!("takes a file that benches/training/run.py writes");
    };
    let text = std::fs::read(Path::new(&file)).expect("the file of the work");
    tune_allocator();
    let threads = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    };
    let seconds = if let Ok(work) = serde_json::from_slice::<Product>(&text) {
        threads(work.threads);
        product(work.product)
    } else {
        let work: Work = serde_json::from_slice(&text).expect("work as run.py writes it");
        threads(work.threads);
        steps(&work)
    };
    let answer = serde_json::json!({"seconds": seconds.expect("steps"), "peak_mb": peak::peak()});
    println!("{answer}");
}
