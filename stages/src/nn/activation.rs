//! Activations and their derivatives.

use candle_core::{Result, Tensor};

use super::cpu::per_instruction_set;
use super::cpu_tensor::rectified;
use super::fused::math::normal;
use super::fused::{self, Kernel, parallel};

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with Φ the distribution function of the standard normal.
    Gelu,
    /// max(x, 0), with derivative 0 at 0 as in PyTorch.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// `x` ← f(`x`).
    pub fn in_place(self, x: &mut [f32]) {
        parallel::rows(x, 1, |_, x| match self {
            Self::Gelu => gelu(x),
            Self::Relu => x.iter_mut().for_each(|x| *x = rectified(*x)),
            Self::Tanh => x.iter_mut().for_each(|x| *x = libm::tanhf(*x)),
        });
    }

    /// `grad` ← `grad` · f′(`x`), and `x` ← f(`x`).
    pub fn backward_in_place(self, x: &mut [f32], grad: &mut [f32]) {
        parallel::rows2(x, 1, grad, 1, |_, x, grad| match self {
            Self::Gelu => gelu_backward(x, grad),
            Self::Relu => relu_backward(x, grad),
            Self::Tanh => tanh_backward(x, grad),
        });
    }
}

per_instruction_set! {
    fn gelu(x: &mut [f32]) {
        for x in x {
            *x *= normal(*x).0;
        }
    }
}

per_instruction_set! {
    fn gelu_backward(x: &mut [f32], grad: &mut [f32]) {
        for (x, grad) in x.iter_mut().zip(grad) {
            let (distribution, density) = normal(*x);
            *grad *= distribution + *x * density;
            *x *= distribution;
        }
    }
}

per_instruction_set! {
    fn relu_backward(x: &mut [f32], grad: &mut [f32]) {
        for (x, grad) in x.iter_mut().zip(grad) {
            *grad = if *x > 0.0 { *grad } else { 0.0 };
            *x = rectified(*x);
        }
    }
}

fn tanh_backward(x: &mut [f32], grad: &mut [f32]) {
    for (x, grad) in x.iter_mut().zip(grad) {
        *x = libm::tanhf(*x);
        *grad *= 1.0 - *x * *x;
    }
}

/// The activation of a tensor on the CPU as a graph node.
pub fn fused(x: &Tensor, activation: Activation) -> Result<Tensor> {
    fused::apply(activation, &[x], x.dims())
}

impl Kernel for Activation {
    type Saved = ();

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, ()) {
        let mut y = inputs[0].to_vec();
        self.in_place(&mut y);
        (y, ())
    }

    fn backward(&self, inputs: &[&[f32]], (): &(), grad: &[f32], _: &[bool]) -> Vec<Option<Vec<f32>>> {
        let mut grad = grad.to_vec();
        self.backward_in_place(&mut inputs[0].to_vec(), &mut grad);
        vec![Some(grad)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_returns_zeros_without_a_sign_and_keeps_what_is_no_number() {
        let mut x = [-2.0, -0.0, 0.0, 3.0, f32::NAN];
        Activation::Relu.in_place(&mut x);
        let bits = x.map(f32::to_bits);
        assert_eq!(bits[..4], [0.0f32, 0.0, 0.0, 3.0].map(f32::to_bits));
        assert!(x[4].is_nan());
        let (mut x, mut grad) = ([-0.0, 0.5], [7.0, 7.0]);
        Activation::Relu.backward_in_place(&mut x, &mut grad);
        assert_eq!((x.map(f32::to_bits), grad), ([0.0f32, 0.5].map(f32::to_bits), [0.0, 7.0]));
    }
}
