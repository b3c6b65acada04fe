//! Initial values of parameters. It does not know which parameter gets which.

use candle_core::{DType, Device, Error, Result, Tensor};

use super::rng::{self, StandardNormal};

/// A tensor of N(0, `deviation`²), f32. Its values depend on `seed`, `name` and the shape alone.
///
/// # Errors
/// `deviation` is not a finite number ≥ 0.
pub fn normal(seed: u64, name: &str, shape: &[usize], deviation: f64, device: &Device) -> Result<Tensor> {
    if !(deviation.is_finite() && deviation >= 0.0) {
        return Err(Error::msg(format!(
            "a standard deviation must be finite and at least 0, not {deviation}"
        )));
    }
    let mut normal = StandardNormal::new(rng::generator(seed, name));
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| (deviation * normal.sample()) as f32).collect();
    Tensor::from_vec(values, shape, device)
}

/// A tensor of zeros, f32.
///
/// # Errors
/// Only if the allocation fails.
pub fn zeros(shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, device)
}

/// A tensor of ones, f32.
///
/// # Errors
/// Only if the allocation fails.
pub fn ones(shape: &[usize], device: &Device) -> Result<Tensor> {
    Tensor::ones(shape, DType::F32, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_has_its_deviation_and_follows_seed_and_name() {
        let values = |seed, name| {
            let tensor = normal(seed, name, &[200, 100], 0.02, &Device::Cpu).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let sample = values(3, "a");
        let mean = sample.iter().map(|&x| f64::from(x)).sum::<f64>() / sample.len() as f64;
        let square = sample.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / sample.len() as f64;
        // Three standard errors of the mean and of the deviation of 20,000 draws.
        assert!(mean.abs() < 3.0 * 0.02 / 20_000f64.sqrt(), "{mean}");
        assert!((square.sqrt() - 0.02).abs() < 3.0 * 0.02 / 40_000f64.sqrt(), "{}", square.sqrt());
        assert_eq!(sample, values(3, "a"));
        assert_ne!(sample, values(3, "b"));
        assert_ne!(sample, values(4, "a"));
    }
}
