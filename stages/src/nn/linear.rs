//! The linear layer.

use candle_core::{Error, Result, Tensor};

use super::Kernels;
use super::cpu::per_instruction_set;
use super::fused::{self, Kernel, parallel};
use super::gemm::{Matrix, product};

/// y = x Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) size: Size,
    pub(super) kernels: Kernels,
}

impl Linear {
    /// The layer of `weight` `[out, in]` and `bias` `[out]`.
    ///
    /// # Errors
    /// `weight` is not a matrix.
    pub fn new(weight: Tensor, bias: Tensor, kernels: Kernels) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        Ok(Self { weight, bias, size: Size { inputs, outputs }, kernels })
    }

    /// [.., in] → [.., out].
    ///
    /// # Errors
    /// The last dimension of `x` is not `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shape = self.output_shape(x)?;
        if self.kernels == Kernels::Fused {
            return fused::apply(self.size, &[x, &self.weight, &self.bias], &shape);
        }
        let x = x.reshape(((), self.size.inputs))?;
        self.kernels.product(&x, &self.weight.t()?)?.broadcast_add(&self.bias)?.reshape(shape)
    }

    /// The shape of the output for `x`.
    pub(super) fn output_shape(&self, x: &Tensor) -> Result<Vec<usize>> {
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.size.inputs => *last = self.size.outputs,
            _ => {
                let (inputs, found) = (self.size.inputs, x.dims());
                return Err(Error::msg(format!("a linear layer of {inputs} inputs got a tensor {found:?}")));
            }
        }
        Ok(shape)
    }
}

/// Dimensions of a linear layer, and its kernels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub inputs: usize,
    pub outputs: usize,
}

impl Size {
    /// x Wᵀ + b.
    pub fn forward(self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs } = self;
        let rows = x.len() / inputs;
        let mut y = Vec::with_capacity(rows * outputs);
        (0..rows).for_each(|_| y.extend_from_slice(bias));
        let (x, weight) =
            (Matrix::new(x, rows, inputs, inputs), Matrix::new(weight, outputs, inputs, inputs));
        product(&mut y, outputs, x, weight.t(), 1.0, true);
        y
    }

    /// As many rows of outputs, or of their gradients, as `values` holds.
    pub fn rows(self, values: &[f32]) -> Matrix<'_> {
        Matrix::new(values, values.len() / self.outputs, self.outputs, self.outputs)
    }

    /// The gradient of x: g W, added to `grad_x` if `add`.
    pub fn input_gradient(self, grad_x: &mut [f32], grad: Matrix, weight: &[f32], add: bool) {
        let Self { inputs, outputs } = self;
        product(grad_x, inputs, grad, Matrix::new(weight, outputs, inputs, inputs), 1.0, add);
    }

    /// The gradient of W: gᵀ x.
    pub fn weight_gradient(self, grad: Matrix, x: &[f32]) -> Vec<f32> {
        let Self { inputs, outputs } = self;
        let mut grad_weight = vec![0f32; outputs * inputs];
        let x = Matrix::new(x, grad.rows, inputs, inputs);
        product(&mut grad_weight, inputs, grad.t(), x, 1.0, false);
        grad_weight
    }
}

/// The gradient of a bias: the sum of the rows of g.
pub(super) fn bias_gradient(grad: Matrix) -> Vec<f32> {
    let width = grad.columns;
    parallel::sum_rows(grad.rows, width, width, |first, end, sums| {
        add_rows(grad.between(first, end), grad.stride(), sums);
    })
}

per_instruction_set! {
    /// `sums` ← `sums` + the rows of `x`, which lie `stride` apart.
    fn add_rows(x: &[f32], stride: usize, sums: &mut [f32]) {
        for row in x.chunks(stride) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

impl Kernel for Size {
    type Saved = ();

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, ()) {
        (Size::forward(*self, inputs[0], inputs[1], inputs[2]), ())
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        (): &(),
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let &[x, weight, _] = inputs else { return Vec::new() };
        let grad_x = || {
            let mut grad_x = vec![0f32; x.len()];
            self.input_gradient(&mut grad_x, self.rows(grad), weight, false);
            grad_x
        };
        vec![
            needs_grad[0].then(grad_x),
            needs_grad[1].then(|| self.weight_gradient(self.rows(grad), x)),
            needs_grad[2].then(|| bias_gradient(self.rows(grad))),
        ]
    }
}
