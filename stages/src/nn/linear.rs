//! Linear layers, alone or with what follows them: activation, LayerNorm, dropout.

use candle_core::{Error, Result, Tensor};

use super::backend::{Backend, NormInput, Normal, RowMask};
use super::composed::Composed;
use super::compute::Compute;
use super::op::{Forward, Op};
use super::{Activation, LayerNorm, Mask, Param};

/// y = x Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    /// W, [outputs, inputs].
    pub weight: Param,
    /// b, `[outputs]`.
    pub bias: Param,
    /// Width of x.
    pub inputs: usize,
    /// Width of y.
    pub outputs: usize,
}

impl Linear {
    /// Whether any of it is trained.
    pub(super) fn is_trained(&self) -> bool {
        self.weight.is_trained() || self.bias.is_trained()
    }

    pub(super) fn params(&self) -> [&Param; 2] {
        [&self.weight, &self.bias]
    }

    /// The shape of y.
    ///
    /// # Errors
    /// The last dimension of x is another than `inputs`.
    pub(super) fn output_shape(&self, x: &Tensor) -> Result<Vec<usize>> {
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.inputs => *last = self.outputs,
            _ => {
                let (inputs, found) = (self.inputs, x.dims());
                return Err(Error::msg(format!("a linear layer of {inputs} inputs got a tensor {found:?}")));
            }
        }
        Ok(shape)
    }
}

/// dropout(LayerNorm(f(x Wᵀ + b))), of which all but the linear layer may be absent.
#[derive(Debug, Clone)]
pub struct Dense {
    compute: Compute,
    linear: Linear,
    activation: Option<Activation>,
    norm: Option<LayerNorm>,
}

impl Dense {
    /// The linear layer alone.
    pub fn new(compute: &Compute, linear: Linear) -> Self {
        Self { compute: compute.clone(), linear, activation: None, norm: None }
    }

    /// Followed by an activation.
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation: Some(activation), ..self }
    }

    /// Followed by a LayerNorm, after the activation.
    pub fn with_norm(self, norm: LayerNorm) -> Self {
        Self { norm: Some(norm), ..self }
    }

    /// [.., in] → [.., out], the result under `mask`.
    ///
    /// # Errors
    /// The last dimension of `x` is not `in`.
    pub fn forward(&self, x: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        let shape = self.linear.output_shape(x)?;
        let mask = mask.map(|mask| mask.over(shape.iter().product()));
        let Self { linear, activation, norm, .. } = self.clone();
        self.compute.apply(DenseOp { linear, activation, norm, mask }, &[x], &shape)
    }
}

struct DenseOp {
    linear: Linear,
    activation: Option<Activation>,
    norm: Option<LayerNorm>,
    mask: Option<Mask>,
}

struct Saved<B> {
    /// x Wᵀ + b, where there is an activation.
    before: Option<B>,
    normal: Option<Normal<B>>,
}

impl Op for DenseOp {
    type Saved<B: Backend> = Saved<B::Buffer>;

    fn params(&self) -> Vec<&Param> {
        let norm = self.norm.iter().flat_map(LayerNorm::params);
        self.linear.params().into_iter().chain(norm).collect()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Saved<B::Buffer>> {
        let x = on.linear(inputs[0], &[&self.linear])?;
        let (mut y, before) = match self.activation {
            Some(activation) => on.activate(x, activation, keep.is_some())?,
            None => (on.finish(x)?, None),
        };
        let mut normal = None;
        if let Some(norm) = &self.norm {
            let input = NormInput { rows: RowMask::default(), residual: None };
            (y, normal) = on.norm(on.product_of(y), input, norm, keep.is_some())?;
        }
        if let Some(mask) = self.mask {
            on.dropout(&mut y, mask)?;
        }
        Ok((y, keep.map(|_| Saved { before, normal })))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        saved: Saved<B::Buffer>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let mut grad = on.copy(grad)?;
        if let Some(mask) = self.mask {
            on.dropout(&mut grad, mask)?;
        }
        if let (Some(norm), Some(normal)) = (&self.norm, &saved.normal) {
            let product = on.product_of(grad);
            grad = on.norm_backward(product, normal, norm, None, RowMask::default(), false)?.product;
        }
        if let (Some(activation), Some(before)) = (self.activation, saved.before) {
            let product = on.product_of(grad);
            grad = on.activate_backward(product, before, activation, false)?.0;
        }
        on.linear_gradients(on.view(&grad), inputs[0], &[&self.linear], None)?;
        if !needs_grad[0] {
            return Ok(vec![None]);
        }
        Ok(vec![Some(on.finish(on.input_gradient(on.view(&grad), &[&self.linear], None)?)?)])
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let mut x = on.linear(&inputs[0], &self.linear)?;
        if let Some(activation) = self.activation {
            x = on.activate(&x, activation)?;
        }
        if let Some(norm) = &self.norm {
            x = on.norm(&x, norm)?;
        }
        on.dropout(&x, self.mask)
    }
}
