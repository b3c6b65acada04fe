//! Mean and spread of the channels of a layer's outputs, and the layer rescaled by them. It does not know what the layer is for.
//!
//! All sums are in double precision and in an order that depends on the sizes alone: a channel of a map in [`LANES`] sums, then
//! map after map; rows one after the other. The variance is summed about the mean, in a second pass.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use crate::nn::cpu_tensor::with_cpu_values;

/// Mean and variance of each channel.
pub(super) struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

/// Channels that hardly vary are not blown up: their spread counts as this.
const LEAST_STD: f64 = 1e-4;
/// Sums side by side: value `i` goes into sum `i mod LANES`, and the sums are added in order.
const LANES: usize = 8;

impl Moments {
    /// Of maps `[1, channels, height, width]`, over places and maps.
    pub(super) fn from_maps(maps: &[Tensor]) -> Result<Self> {
        let channels = maps.first().map_or(Ok(0), |map| map.dim(1))?;
        let places: usize = maps.iter().map(|map| map.elem_count() / channels).sum();
        let nothing = vec![0.0; channels];
        let mean = channel_sums(maps, &nothing, |value, _| value)?;
        let mean: Vec<f64> = mean.iter().map(|sum| sum / places as f64).collect();
        let squares = channel_sums(maps, &mean, |value, mean| (value - mean) * (value - mean))?;
        Ok(Self { mean, variance: squares.iter().map(|sum| sum / places as f64).collect() })
    }

    /// Of rows of `channels` values.
    pub(super) fn from_rows(values: &[f32], channels: usize) -> Self {
        let count = (values.len() / channels) as f64;
        let mut mean = vec![0.0; channels];
        for row in values.chunks_exact(channels) {
            mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        mean.iter_mut().for_each(|sum| *sum /= count);
        let mut variance = vec![0.0; channels];
        for row in values.chunks_exact(channels) {
            for ((sum, mean), &value) in variance.iter_mut().zip(&mean).zip(row) {
                let off = f64::from(value) - mean;
                *sum += off * off;
            }
        }
        variance.iter_mut().for_each(|sum| *sum /= count);
        Self { mean, variance }
    }

    /// Mean of each channel.
    pub(super) fn mean(&self) -> Vec<f32> {
        self.mean.iter().map(|mean| *mean as f32).collect()
    }

    /// Standard deviation of each channel.
    pub(super) fn std(&self) -> Vec<f32> {
        let least = LEAST_STD * LEAST_STD;
        self.variance.iter().map(|variance| variance.max(least).sqrt() as f32).collect()
    }

    /// Weight and bias of the layer whose outputs, measured with `weight` (`[channels, …]`) and no bias, get
    /// mean 0 and the given spread.
    pub(super) fn rescale(&self, weight: &Tensor, spread: f32) -> Result<(Tensor, Tensor)> {
        let (mean, std) = (self.mean(), self.std());
        let mut shape = vec![1; weight.rank()];
        shape[0] = std.len();
        let scale: Vec<f32> = std.iter().map(|std| spread / std).collect();
        let bias: Vec<f32> = mean.iter().zip(&scale).map(|(mean, scale)| -mean * scale).collect();
        let channels = bias.len();
        let scale = Tensor::from_vec(scale, shape, &Device::Cpu)?;
        Ok((weight.broadcast_mul(&scale)?, Tensor::from_vec(bias, channels, &Device::Cpu)?))
    }
}

/// The sum of `f(value, about)` over places and maps, for each channel with its own `about`.
fn channel_sums(maps: &[Tensor], about: &[f64], f: impl Fn(f64, f64) -> f64 + Sync) -> Result<Vec<f64>> {
    let of_map = |map: &Tensor| {
        let plane = map.elem_count() / about.len();
        with_cpu_values(&map.contiguous()?, |values| {
            let planes = values.chunks_exact(plane).zip(about);
            planes.map(|(plane, &about)| sum(plane, |value| f(value, about))).collect::<Vec<f64>>()
        })
    };
    let of_maps = maps.par_iter().map(of_map).collect::<Result<Vec<_>>>()?;
    let mut sums = vec![0.0; about.len()];
    for of_map in of_maps {
        sums.iter_mut().zip(of_map).for_each(|(sum, of_map)| *sum += of_map);
    }
    Ok(sums)
}

fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0f64; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        sums.iter_mut().zip(vector).for_each(|(sum, &value)| *sum += f(f64::from(value)));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, &value)| *sum += f(f64::from(value)));
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::cpu_tensor::cpu_vec;

    #[test]
    fn rescaling_gives_the_spread() {
        let rows = [1.0f32, 10.0, 3.0, 30.0];
        let weight = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (weight, bias) = Moments::from_rows(&rows, 2).rescale(&weight, 2.0).unwrap();
        assert_eq!(cpu_vec(&weight).unwrap()[3..5], [2.0, 0.2]);
        assert_eq!(cpu_vec(&bias).unwrap(), [-4.0, -4.0]);
    }

    #[test]
    fn a_large_mean_does_not_hide_the_spread() {
        // Two maps of 3 × 5 places; the second channel is at 4096 with a spread of 1/8.
        let map = |number: usize| {
            let values = (0..30).map(|i| {
                let sign = if (i + number).is_multiple_of(2) { 1.0 } else { -1.0 };
                if i < 15 { sign } else { 4096.0 + sign / 8.0 }
            });
            Tensor::from_vec(values.collect::<Vec<f32>>(), (1, 2, 3, 5), &Device::Cpu).unwrap()
        };
        let moments = Moments::from_maps(&[map(0), map(1)]).unwrap();
        assert_eq!((moments.mean(), moments.std()), (vec![0.0, 4096.0], vec![1.0, 0.125]));
    }
}
