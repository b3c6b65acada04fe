//! Activations and their derivatives, fused.

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::fused::math::normal;
use super::fused::{self, Kernel, parallel};

/// An activation between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with Φ the distribution function of the standard normal.
    Gelu,
    /// max(x, 0), with derivative 0 at 0 as in PyTorch.
    Relu,
}

impl Activation {
    /// `x` ← f(`x`).
    pub fn in_place(self, x: &mut [f32]) {
        parallel::rows(x, 1, |_, x| match self {
            Self::Gelu => gelu(x),
            Self::Relu => x.iter_mut().for_each(|x| *x = relu(*x)),
        });
    }

    /// `grad` ← `grad` · f′(`x`), and `x` ← f(`x`).
    pub fn backward_in_place(self, x: &mut [f32], grad: &mut [f32]) {
        parallel::rows2(x, 1, grad, 1, |_, x, grad| match self {
            Self::Gelu => gelu_backward(x, grad),
            Self::Relu => relu_backward(x, grad),
        });
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn gelu(x: &mut [f32]) {
    for x in x {
        *x *= normal(*x).0;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn gelu_backward(x: &mut [f32], grad: &mut [f32]) {
    for (x, grad) in x.iter_mut().zip(grad) {
        let (distribution, density) = normal(*x);
        *grad *= distribution + *x * density;
        *x *= distribution;
    }
}

/// max(x, 0). `f32::max` leaves open which zero it returns for -0; this is always +0.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn relu_backward(x: &mut [f32], grad: &mut [f32]) {
    for (x, grad) in x.iter_mut().zip(grad) {
        *grad = if *x > 0.0 { *grad } else { 0.0 };
        *x = relu(*x);
    }
}

/// The exact GELU as a graph node.
pub fn fused(x: &Tensor) -> Result<Tensor> {
    fused::apply(Gelu, &[x], x.dims())
}

struct Gelu;

impl Kernel for Gelu {
    type Saved = ();

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, ()) {
        let mut y = inputs[0].to_vec();
        Activation::Gelu.in_place(&mut y);
        (y, ())
    }

    fn backward(&self, inputs: &[&[f32]], (): &(), grad: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let mut grad = grad.to_vec();
        Activation::Gelu.backward_in_place(&mut inputs[0].to_vec(), &mut grad);
        vec![Some(grad)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_of_a_negative_zero_is_zero() {
        let mut x = [-0.0f32, 0.0, -1.0, 2.0, f32::NAN].repeat(9);
        Activation::Relu.in_place(&mut x);
        let bits: Vec<u32> = x.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0.0f32, 0.0, 0.0, 2.0, 0.0].map(f32::to_bits).repeat(9));
    }
}
