//! Means, spreads and ridge regression. It does not know what the numbers stand for.

use candle_core::{Device, Error, Result, Tensor};

use crate::nn::host::{host_vec, with_host_values};

/// Mean and variance of each channel.
pub(super) struct Moments {
    count: f64,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

/// Channels that hardly vary are not blown up: their spread counts as this.
const LEAST_STD: f64 = 1e-4;

impl Moments {
    /// Of maps `[1, channels, height, width]`, over places and maps.
    pub(super) fn of_maps(maps: &[Tensor]) -> Result<Self> {
        let channels = maps.first().map_or(Ok(0), |map| map.dim(1))?;
        let mut moments = Self { count: 0.0, sum: vec![0.0; channels], squares: vec![0.0; channels] };
        for map in maps {
            let plane = map.elem_count() / channels;
            with_host_values(&map.contiguous()?, |values| {
                for (channel, values) in values.chunks(plane).enumerate() {
                    for &value in values {
                        moments.sum[channel] += f64::from(value);
                        moments.squares[channel] += f64::from(value) * f64::from(value);
                    }
                }
            })?;
            moments.count += plane as f64;
        }
        Ok(moments)
    }

    /// Of rows of `channels` values.
    pub(super) fn of_rows(values: &[f32], channels: usize) -> Self {
        let count = (values.len() / channels) as f64;
        let mut moments = Self { count, sum: vec![0.0; channels], squares: vec![0.0; channels] };
        for row in values.chunks(channels) {
            for (channel, &value) in row.iter().enumerate() {
                moments.sum[channel] += f64::from(value);
                moments.squares[channel] += f64::from(value) * f64::from(value);
            }
        }
        moments
    }

    /// Mean of each channel.
    pub(super) fn mean(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| (sum / self.count) as f32).collect()
    }

    /// Standard deviation of each channel.
    pub(super) fn std(&self) -> Vec<f32> {
        let both = self.sum.iter().zip(&self.squares);
        both.map(|(sum, squares)| {
            let mean = sum / self.count;
            (squares / self.count - mean * mean).max(LEAST_STD * LEAST_STD).sqrt() as f32
        })
        .collect()
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

/// Weight `[k, d]` and bias `[k]` that predict `targets` `[n, k]` from `inputs` `[n, d]` with the least
/// (weighted) squared error, plus `penalty` times the inputs' mean variance on the squared weights; the bias is
/// free.
///
/// # Errors
/// Shapes that do not fit; inputs or targets that are not finite.
pub(super) fn ridge(
    inputs: &Tensor,
    targets: &Tensor,
    weights: Option<&[f32]>,
    penalty: f64,
) -> Result<(Tensor, Tensor)> {
    let ((n, d), (_, k)) = (inputs.dims2()?, targets.dims2()?);
    let share = match weights {
        Some(weights) => {
            let total: f32 = weights.iter().sum();
            Tensor::from_vec(weights.iter().map(|weight| weight / total).collect(), (n, 1), &Device::Cpu)?
        }
        None => Tensor::full(1.0 / n as f32, (n, 1), &Device::Cpu)?,
    };
    let mean = |x: &Tensor| x.broadcast_mul(&share)?.sum_keepdim(0);
    let (input_mean, target_mean) = (mean(inputs)?, mean(targets)?);
    let (x, y) = (inputs.broadcast_sub(&input_mean)?, targets.broadcast_sub(&target_mean)?);
    let weighted = x.broadcast_mul(&share)?.t()?;
    let to_f64 = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
    let mut gram = to_f64(host_vec(&weighted.matmul(&x)?)?);
    let mut right = to_f64(host_vec(&weighted.matmul(&y)?)?);
    let variance = (0..d).map(|i| gram[i * d + i]).sum::<f64>() / d as f64;
    (0..d).for_each(|i| gram[i * d + i] += penalty * variance + 1e-12);
    solve(&mut gram, &mut right, d, k)?;
    let solution = right.into_iter().map(|value| value as f32).collect();
    let weight = Tensor::from_vec(solution, (d, k), &Device::Cpu)?.t()?.contiguous()?;
    let bias = (target_mean - input_mean.matmul(&weight.t()?)?)?.squeeze(0)?;
    Ok((weight, bias))
}

/// Solves `a · x = b` for symmetric positive definite `a` (`d × d`) by Cholesky; `b` (`d × k`) becomes `x`.
fn solve(a: &mut [f64], b: &mut [f64], d: usize, k: usize) -> Result<()> {
    for column in 0..d {
        let (done, rest) = a.split_at_mut(column * d + d);
        let pivot_row = &mut done[column * d..];
        let pivot = pivot_row[column] - pivot_row[..column].iter().map(|value| value * value).sum::<f64>();
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(Error::Msg("the inputs of a least-squares fit are not finite".to_owned()));
        }
        pivot_row[column] = pivot.sqrt();
        for row in rest.chunks_mut(d) {
            let known: f64 = row[..column].iter().zip(&pivot_row[..column]).map(|(a, b)| a * b).sum();
            row[column] = (row[column] - known) / pivot_row[column];
        }
    }
    for row in 0..d {
        let (known, rest) = b.split_at_mut(row * k);
        for (column, value) in rest[..k].iter_mut().enumerate() {
            let sum: f64 = (0..row).map(|i| a[row * d + i] * known[i * k + column]).sum();
            *value = (*value - sum) / a[row * d + row];
        }
    }
    for row in (0..d).rev() {
        let (rest, known) = b.split_at_mut((row + 1) * k);
        for (column, value) in rest[row * k..].iter_mut().enumerate() {
            let sum: f64 = (row + 1..d).map(|i| a[i * d + row] * known[(i - row - 1) * k + column]).sum();
            *value = (*value - sum) / a[row * d + row];
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_finds_an_exact_linear_map() {
        let x: Vec<f32> = (0..60).map(|i| ((i * i) as f32 * 1.7).sin()).collect();
        let y: Vec<f32> = x.chunks(3).flat_map(|x| [2.0 * x[0] - x[2] + 0.5, x[1] - 3.0]).collect();
        let x = Tensor::from_vec(x, (20, 3), &Device::Cpu).unwrap();
        let y = Tensor::from_vec(y, (20, 2), &Device::Cpu).unwrap();
        let weights: Vec<f32> = (0..20).map(|i| 1.0 + (i % 3) as f32).collect();
        for weights in [None, Some(weights.as_slice())] {
            let (weight, bias) = ridge(&x, &y, weights, 1e-9).unwrap();
            let found = [host_vec(&weight).unwrap(), host_vec(&bias).unwrap()].concat();
            for (found, expected) in found.iter().zip([2.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.5, -3.0]) {
                assert!((found - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }

    #[test]
    fn ridge_refuses_what_is_not_finite() {
        let x = Tensor::from_slice(&[f32::NAN, 1.0], (2, 1), &Device::Cpu).unwrap();
        assert!(ridge(&x, &x, None, 1.0).is_err());
    }

    #[test]
    fn rescaling_gives_the_spread() {
        let rows = [1.0f32, 10.0, 3.0, 30.0];
        let weight = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let (weight, bias) = Moments::of_rows(&rows, 2).rescale(&weight, 2.0).unwrap();
        assert_eq!(host_vec(&weight).unwrap()[3..5], [2.0, 0.2]);
        assert_eq!(host_vec(&bias).unwrap(), [-4.0, -4.0]);
    }
}
