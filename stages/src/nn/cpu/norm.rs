//! LayerNorm over the rows of a sum, forward and backward.

use candle_core::Result;

use super::instruction_set::per_instruction_set;
use super::math::{dot, sum};
use super::products::replace_or_add;
use super::{Cpu, Values, parallel};
use crate::nn::backend::{NormGradients, NormInput, Normal, Normed, RowMask};
use crate::nn::packing::Packing;
use crate::nn::{LayerNorm, dropout};

/// LayerNorm(dropout(x) + residual), and what the backward pass needs where `keep`.
pub fn forward(
    x: Vec<f32>,
    NormInput { rows: which, residual }: NormInput<'_, &[f32]>,
    norm: &LayerNorm,
    keep: bool,
) -> Result<Normed<Vec<f32>>> {
    let (weight, bias, size) =
        (Values::lock(norm.weight.value())?, Values::lock(norm.bias.value())?, norm.size);
    let mut rows = x;
    let mut scale = vec![0f32; rows.len() / size];
    parallel::rows2(&mut rows, size, &mut scale, 1, |first, rows, scale| {
        let start = first * size;
        dropout::scale_rows(which, first, size, rows);
        let residual = residual.map_or(&[][..], |residual| &residual[start..start + rows.len()]);
        normalise(rows, residual, scale, size, norm.eps as f32);
        if !keep {
            scale_and_shift(rows, &weight, &bias);
        }
    });
    if !keep {
        return Ok((rows, None));
    }
    let normal = Normal { rows, scale };
    Ok((again(&normal, norm)?, Some(normal)))
}

/// LayerNorm(dropout(x)) and dropout(x) + residual.
#[allow(clippy::type_complexity, reason = "three results of one pass")]
pub fn apart(
    mut x: Vec<f32>,
    rows: RowMask<'_>,
    residual: &[f32],
    norm: &LayerNorm,
    keep: bool,
) -> Result<(Vec<f32>, Vec<f32>, Option<Normal<Vec<f32>>>)> {
    if rows.mask.is_some() {
        parallel::rows(&mut x, norm.size, |first, x| dropout::scale_rows(rows, first, norm.size, x));
    }
    let sum = parallel::copied(residual, 1, |first, sum| add(sum, &x[first..][..sum.len()]));
    let (y, normal) = forward(x, NormInput { rows: rows.unmasked(), residual: None }, norm, keep)?;
    Ok((y, sum, normal))
}

/// normal · weight + bias.
pub fn again(normal: &Normal<Vec<f32>>, norm: &LayerNorm) -> Result<Vec<f32>> {
    let (weight, bias) = (Values::lock(norm.weight.value())?, Values::lock(norm.bias.value())?);
    Ok(parallel::copied(&normal.rows, norm.size, |_, y| scale_and_shift(y, &weight, &bias)))
}

/// The gradients of the sum and, under `mask`, of the product.
pub fn backward(
    on: &Cpu,
    grad: Vec<f32>,
    normal: &Normal<Vec<f32>>,
    norm: &LayerNorm,
    plus: Option<&[f32]>,
    rows: RowMask<'_>,
    keep_sum: bool,
) -> Result<NormGradients<Vec<f32>>> {
    parameter_gradients(on, &grad, normal, norm, rows.packing)?;
    let (weight, size) = (Values::lock(norm.weight.value())?, norm.size);
    let mut sum = grad;
    parallel::rows(&mut sum, size, |first, grad| {
        let range = first * size..first * size + grad.len();
        input_gradient(grad, &normal.rows[range.clone()], &normal.scale[first..], &weight);
        if let Some(plus) = plus {
            add(grad, &plus[range]);
        }
    });
    if rows.mask.is_none() {
        return Ok(NormGradients { product: sum, sum: None });
    }
    let drop = |first: usize, grad: &mut [f32]| dropout::scale_rows(rows, first, size, grad);
    if keep_sum {
        return Ok(NormGradients { product: parallel::copied(&sum, size, drop), sum: Some(sum) });
    }
    parallel::rows(&mut sum, size, drop);
    Ok(NormGradients { product: sum, sum: None })
}

fn parameter_gradients(
    on: &Cpu,
    grad: &[f32],
    normal: &Normal<Vec<f32>>,
    norm: &LayerNorm,
    packing: Option<&Packing>,
) -> Result<()> {
    if !(norm.weight.is_trained() || norm.bias.is_trained()) {
        return Ok(());
    }
    let size = norm.size;
    let sums = parallel::sum_rows(grad.len() / size, size, 2 * size, packing, |first, end, sums| {
        let range = first * size..end * size;
        let (weight, bias) = sums.split_at_mut(size);
        weight_and_bias(&grad[range.clone()], &normal.rows[range], weight, bias);
    });
    for (param, sums) in [(&norm.weight, &sums[..size]), (&norm.bias, &sums[size..])] {
        if let Some(gradient) = param.gradient() {
            gradient.accumulate(on, size, |sum, add| {
                replace_or_add(sum, sums, add);
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

per_instruction_set! {
    /// Rows of `y` (plus `residual`, if there is one) ← normalised; `scale` ← 1 / deviation.
    fn normalise(y: &mut [f32], residual: &[f32], scale: &mut [f32], size: usize, eps: f32) {
        for (y, residual) in y.iter_mut().zip(residual) {
            *y += residual;
        }
        for (y, scale) in y.chunks_exact_mut(size).zip(scale) {
            let mean = sum(y) / size as f32;
            for y in y.iter_mut() {
                *y -= mean;
            }
            *scale = 1.0 / (dot(y, y) / size as f32 + eps).sqrt();
            for y in y.iter_mut() {
                *y *= *scale;
            }
        }
    }
}

per_instruction_set! {
    fn scale_and_shift(y: &mut [f32], weight: &[f32], bias: &[f32]) {
        for y in y.chunks_exact_mut(weight.len()) {
            for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
                *y = *y * weight + bias;
            }
        }
    }
}

per_instruction_set! {
    fn weight_and_bias(grad: &[f32], normal: &[f32], weight: &mut [f32], bias: &mut [f32]) {
        let size = weight.len();
        for (grad, normal) in grad.chunks_exact(size).zip(normal.chunks_exact(size)) {
            for (((grad, normal), weight), bias) in grad.iter().zip(normal).zip(&mut *weight).zip(&mut *bias) {
                *weight += grad * normal;
                *bias += grad;
            }
        }
    }
}

per_instruction_set! {
    /// With n the normalised row, s = 1 / deviation and h = g·γ: `grad` ← s (h − mean(h) − n mean(h·n)).
    fn input_gradient(grad: &mut [f32], normal: &[f32], scale: &[f32], weight: &[f32]) {
        let size = weight.len();
        let rows = grad.chunks_exact_mut(size).zip(normal.chunks_exact(size)).zip(scale);
        for ((grad, normal), scale) in rows {
            for (grad, weight) in grad.iter_mut().zip(weight) {
                *grad *= weight;
            }
            let mean = sum(grad) / size as f32;
            let along = dot(grad, normal) / size as f32;
            for (grad, normal) in grad.iter_mut().zip(normal) {
                *grad = scale * (*grad - mean - normal * along);
            }
        }
    }
}
