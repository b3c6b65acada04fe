//! Layer normalisation, alone or over a residual sum.

use candle_core::{D, Error, Result, Tensor};

use super::Kernels;
use super::cpu::per_instruction_set;
use super::dropout::{self, Mask};
use super::fused::math::{dot, sum};
use super::fused::{self, Kernel, parallel};

/// Normalises the last dimension to mean 0 and variance 1 (biased), then scales and shifts it.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    kernels: Kernels,
}

impl LayerNorm {
    /// The layer of `weight` and `bias`, both `[size]`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64, kernels: Kernels) -> Self {
        Self { weight, bias, eps, kernels }
    }

    /// [.., size] → [.., size].
    ///
    /// # Errors
    /// The last dimension of `x` is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.kernels {
            Kernels::Fused => self.fused(x, None, None),
            Kernels::Composed | Kernels::Bf16 => self.plain(x),
        }
    }

    /// The norm of dropout(`x`) + `residual`, both [.., size].
    ///
    /// # Errors
    /// The last dimension is another, or the two shapes differ.
    pub fn forward_sum(&self, x: &Tensor, mask: Option<Mask>, residual: &Tensor) -> Result<Tensor> {
        match self.kernels {
            Kernels::Fused => self.fused(x, mask, Some(residual)),
            Kernels::Composed | Kernels::Bf16 => self.plain(&(self.kernels.dropout(x, mask)? + residual)?),
        }
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }

    fn fused(&self, x: &Tensor, mask: Option<Mask>, residual: Option<&Tensor>) -> Result<Tensor> {
        let size = self.weight.elem_count();
        let same = residual.is_none_or(|residual| residual.dims() == x.dims());
        if x.dims().last() != Some(&size) || !same {
            let (found, residual) = (x.dims(), residual.map(Tensor::dims));
            return Err(Error::msg(format!("a LayerNorm of {size} got tensors {found:?} and {residual:?}")));
        }
        let mask = mask.map(|mask| mask.over(x.elem_count()));
        let kernel = Fused { size, eps: self.eps as f32, mask };
        let mut inputs = vec![&self.weight, &self.bias, x];
        inputs.extend(residual);
        fused::apply(kernel, &inputs, x.dims())
    }
}

struct Fused {
    size: usize,
    eps: f32,
    mask: Option<Mask>,
}

/// What the backward pass needs: the normalised rows, and the reciprocal of each row's deviation.
struct Saved {
    normal: Vec<f32>,
    scale: Vec<f32>,
}

impl Kernel for Fused {
    type Saved = Saved;

    fn forward(&self, inputs: &[&[f32]], keep: bool) -> (Vec<f32>, Saved) {
        let (weight, bias, x) = (inputs[0], inputs[1], inputs[2]);
        let size = self.size;
        let mut y = x.to_vec();
        let mut scale = vec![0f32; x.len() / size];
        parallel::rows2(&mut y, size, &mut scale, 1, |first, y, scale| {
            let start = first * size;
            if let Some(mask) = &self.mask {
                dropout::scale(mask, start, y);
            }
            let residual = inputs.get(3).map_or(&[][..], |residual| &residual[start..start + y.len()]);
            normalise(y, residual, scale, size, self.eps);
        });
        let normal = if keep { y.clone() } else { Vec::new() };
        parallel::rows(&mut y, size, |_, y| scale_and_shift(y, weight, bias));
        (y, Saved { normal, scale })
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: &Saved,
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let (weight, size) = (inputs[0], self.size);
        let rows = grad.len() / size;
        let (mut grad_weight, mut grad_bias) = (None, None);
        if needs_grad[0] || needs_grad[1] {
            let mut sums = parallel::sum_rows(rows, size, 2 * size, |first, end, sums| {
                let range = first * size..end * size;
                let (weight, bias) = sums.split_at_mut(size);
                parameter_gradients(&grad[range.clone()], &saved.normal[range], weight, bias);
            });
            grad_bias = needs_grad[1].then(|| sums.split_off(size));
            sums.truncate(size);
            grad_weight = needs_grad[0].then_some(sums);
        }
        let mut gradients = vec![grad_weight, grad_bias, None];
        if needs_grad[2..].contains(&true) {
            let mut grad_sum = grad.to_vec();
            parallel::rows(&mut grad_sum, size, |first, grad| {
                let normal = &saved.normal[first * size..first * size + grad.len()];
                input_gradient(grad, normal, &saved.scale[first..], weight);
            });
            let mut grad_x = if needs_grad[2] { Some(grad_sum.clone()) } else { None };
            if let (Some(mask), Some(grad_x)) = (&self.mask, &mut grad_x) {
                parallel::rows(grad_x, size, |first, grad| dropout::scale(mask, first * size, grad));
            }
            gradients[2] = grad_x;
            if let Some(needs_grad) = needs_grad.get(3) {
                gradients.push(needs_grad.then_some(grad_sum));
            }
        } else if needs_grad.len() > 3 {
            gradients.push(None);
        }
        gradients
    }
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
    fn parameter_gradients(grad: &[f32], normal: &[f32], weight: &mut [f32], bias: &mut [f32]) {
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
