//! Two linear layers with an activation between them: BERT's feed-forward part, and an adapter.

use candle_core::{Result, Tensor};

use super::fused::{self, Kernel};
use super::linear::{Size, bias_gradient};
use super::{Activation, Kernels, Linear};

/// y = W₂ f(W₁ x + b₁) + b₂.
#[derive(Debug, Clone)]
pub struct Mlp {
    first: Linear,
    second: Linear,
    activation: Activation,
    kernels: Kernels,
}

impl Mlp {
    /// `first`, then `activation`, then `second`.
    pub fn new(first: Linear, activation: Activation, second: Linear) -> Self {
        Self { kernels: first.kernels, first, second, activation }
    }

    /// [.., outer] → [.., outer].
    ///
    /// # Errors
    /// The last dimension of `x` is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.kernels != Kernels::Fused {
            let inner = self.first.forward(x)?;
            let inner = self.kernels.activate(&inner, self.activation)?;
            return self.second.forward(&inner);
        }
        self.first.output_shape(x)?;
        let kernel = Fused { first: self.first.size, second: self.second.size, activation: self.activation };
        let (first, second) = (&self.first, &self.second);
        let inputs = [x, &first.weight, &first.bias, &second.weight, &second.bias];
        fused::apply(kernel, &inputs, x.dims())
    }
}

struct Fused {
    first: Size,
    second: Size,
    activation: Activation,
}

impl Kernel for Fused {
    /// W₁ x + b₁. Its activation is computed again rather than kept: that is the widest of all tensors.
    type Saved = Vec<f32>;

    fn forward(&self, inputs: &[&[f32]], keep: bool) -> (Vec<f32>, Vec<f32>) {
        let &[x, weight1, bias1, weight2, bias2] = inputs else { return Default::default() };
        let mut inner = self.first.forward(x, weight1, bias1);
        let before = if keep { inner.clone() } else { Vec::new() };
        self.activation.in_place(&mut inner);
        (self.second.forward(&inner, weight2, bias2), before)
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        before: &Vec<f32>,
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let &[x, weight1, _, weight2, _] = inputs else { return Vec::new() };
        let mut inner = before.clone();
        let mut grad_inner = vec![0f32; inner.len()];
        let grad = self.second.rows(grad);
        self.second.input_gradient(&mut grad_inner, grad, weight2, false);
        self.activation.backward_in_place(&mut inner, &mut grad_inner);
        let grad_inner = self.first.rows(&grad_inner);
        let grad_x = || {
            let mut grad_x = vec![0f32; x.len()];
            self.first.input_gradient(&mut grad_x, grad_inner, weight1, false);
            grad_x
        };
        vec![
            needs_grad[0].then(grad_x),
            needs_grad[1].then(|| self.first.weight_gradient(grad_inner, x)),
            needs_grad[2].then(|| bias_gradient(grad_inner)),
            needs_grad[3].then(|| self.second.weight_gradient(grad, &inner)),
            needs_grad[4].then(|| bias_gradient(grad)),
        ]
    }
}
