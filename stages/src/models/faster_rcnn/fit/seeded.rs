//! Random weights from a seed. It does not know what they will be fitted to.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::models::faster_rcnn::{Config, FasterRcnn};
use crate::nn::rng::StandardNormal;

/// Every tensor of a detector: kernels normal with variance `2 / fan-in`, the stem's kernels smooth, biases and
/// means 0, normalisation weights and variances 1. Each tensor has its own stream of random numbers, so it
/// does not depend on the others.
pub(super) fn tensors(config: &Config, seed: u64) -> Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for (number, (name, shape)) in FasterRcnn::parameters(config)?.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        let tensor = match (name.as_str(), shape.len()) {
            ("backbone.body.stem.conv1.weight", _) => stem(shape[0], &mut rng, &shape)?,
            ("roi_heads.box.predictor.bbox_pred.weight", _) => zeros(&shape)?,
            (_, 2 | 4) => normal(&shape, &mut rng)?,
            (name, _) if name.ends_with("running_var") || name.ends_with("weight") => {
                Tensor::ones(shape, DType::F32, &Device::Cpu)?
            }
            _ => zeros(&shape)?,
        };
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn zeros(shape: &[usize]) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, &Device::Cpu)
}

fn normal(shape: &[usize], rng: impl Rng) -> Result<Tensor> {
    let fan_in: usize = shape[1..].iter().product();
    let spread = (2.0 / fan_in as f32).sqrt();
    let count = shape.iter().product();
    let mut normal = StandardNormal::new(rng);
    let values: Vec<f32> = (0..count).map(|_| spread * normal.sample() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Kernels 7×7 as the first layers of trained networks have them: a direction in colour times a soft spot, for
/// every third one, or a soft grating.
fn stem(channels: usize, rng: &mut impl Rng, shape: &[usize]) -> Result<Tensor> {
    let mut values = Vec::with_capacity(channels * 3 * 49);
    for channel in 0..channels {
        let mut normal = StandardNormal::new(&mut *rng);
        let colour: [f32; 3] = std::array::from_fn(|_| normal.sample() as f32);
        let frequency = if channel % 3 == 0 { 0.0 } else { rng.random_range(0.3..1.0f32) };
        let (angle, phase) = (rng.random_range(0.0..std::f32::consts::PI), rng.random_range(0.0..2.0f32));
        let (sin, cos) = libm::sincosf(angle);
        for weight in colour {
            for place in 0..49 {
                let (x, y) = ((place % 7) as f32 - 3.0, (place / 7) as f32 - 3.0);
                let soft = libm::expf(-(x * x + y * y) / (2.0 * 1.7 * 1.7));
                let wave = libm::cosf(frequency * (x * cos + y * sin) + phase);
                values.push(weight * soft * wave / 49.0);
            }
        }
    }
    Tensor::from_vec(values, shape, &Device::Cpu)
}
