//! Activations and their derivatives.

use super::instruction_set::per_instruction_set;
use super::math::normal;
use super::parallel;
use crate::nn::Activation;
use crate::nn::cpu_tensor::rectified;

/// f(`x`), and `x` where `keep`.
pub fn forward(activation: Activation, mut x: Vec<f32>, keep: bool) -> (Vec<f32>, Option<Vec<f32>>) {
    if keep {
        (parallel::copied(&x, 1, |_, x| apply(activation, x)), Some(x))
    } else {
        parallel::rows(&mut x, 1, |_, x| apply(activation, x));
        (x, None)
    }
}

/// `x` ← f(`x`).
fn apply(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Gelu => gelu(x),
        Activation::Relu => x.iter_mut().for_each(|x| *x = rectified(*x)),
        Activation::Tanh => x.iter_mut().for_each(|x| *x = libm::tanhf(*x)),
    }
}

/// `grad` ← `grad` · f′(`x`), and `x` ← f(`x`).
pub fn backward(activation: Activation, x: &mut [f32], grad: &mut [f32]) {
    parallel::rows2(x, 1, grad, 1, |_, x, grad| match activation {
        Activation::Gelu => gelu_backward(x, grad),
        Activation::Relu => relu_backward(x, grad),
        Activation::Tanh => tanh_backward(x, grad),
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_returns_zeros_without_a_sign_and_keeps_what_is_no_number() {
        let mut x = [-2.0, -0.0, 0.0, 3.0, f32::NAN];
        apply(Activation::Relu, &mut x);
        let bits = x.map(f32::to_bits);
        assert_eq!(bits[..4], [0.0f32, 0.0, 0.0, 3.0].map(f32::to_bits));
        assert!(x[4].is_nan());
        let (mut x, mut grad) = ([-0.0, 0.5], [7.0, 7.0]);
        backward(Activation::Relu, &mut x, &mut grad);
        assert_eq!((x.map(f32::to_bits), grad), ([0.0f32, 0.5].map(f32::to_bits), [0.0, 7.0]));
    }
}
