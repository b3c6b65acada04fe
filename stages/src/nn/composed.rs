//! Operations composed from candle's own, which give their gradients too: the reference that tests compare with, and the way of
//! devices without kernels. Fine-grained, so slow, and readable as the definition.

use std::collections::HashMap;

use candle_core::{D, DType, Result, Tensor, TensorId, Var};

use super::backend::Memory;
use super::dropout::Mask;
use super::op::Op;
use super::{Activation, LayerNorm, Linear, Param, Precision};

/// candle's operations, with products of factors in `precision`; TF32 is a matter of the device's own products.
#[derive(Debug, Clone, Default)]
pub struct Composed {
    pub precision: Precision,
    /// What stands in for a parameter's value, so that it gets a gradient: by the value's id.
    variables: HashMap<TensorId, Tensor>,
}

impl Composed {
    /// With products of factors in `precision`.
    pub fn new(precision: Precision) -> Self {
        Self { precision, variables: HashMap::new() }
    }

    /// The value of a parameter.
    pub fn param(&self, param: &Param) -> Tensor {
        let value = param.value();
        self.variables.get(&value.id()).cloned().unwrap_or_else(|| value.detach())
    }

    /// a · b.
    pub fn product(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self.precision {
            Precision::F32 | Precision::Tf32 => a.matmul(b),
            Precision::Bf16 => {
                a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?.to_dtype(DType::F32)
            }
        }
    }

    /// x Wᵀ + b, [.., in] → [.., out].
    pub fn linear(&self, x: &Tensor, layer: &Linear) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = layer.outputs;
        }
        let x = x.reshape(((), layer.inputs))?;
        let y = self.product(&x, &self.param(&layer.weight).t()?)?;
        y.broadcast_add(&self.param(&layer.bias))?.reshape(shape)
    }

    /// The activation of every element. GELU is the exact one, x·Φ(x) with Φ from erf (not the tanh approximation).
    pub fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Gelu => x.gelu_erf(),
            Activation::Relu => x.relu(),
            Activation::Tanh => x.tanh(),
        }
    }

    /// LayerNorm over the last dimension.
    pub fn norm(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + norm.eps)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?;
        normal.broadcast_mul(&self.param(&norm.weight))?.broadcast_add(&self.param(&norm.bias))
    }

    /// `x` under `mask`, or as it is without one.
    pub fn dropout(&self, x: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        match mask {
            None => Ok(x.clone()),
            Some(mask) => mask.apply(x),
        }
    }

    /// The gradients of `inputs` that need one, given that of the result of `op`; those of trained parameters are added to their
    /// own buffers. The operation is computed again, with variables.
    pub(super) fn backward<O: Op>(
        &self,
        op: &O,
        inputs: &[&Tensor],
        needs_grad: &[bool],
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let variable = |tensor: &Tensor| Var::from_tensor(&tensor.detach()).map(Var::into_inner);
        let inputs = inputs.iter().map(|input| variable(input)).collect::<Result<Vec<_>>>()?;
        let params = op.params();
        let trained = params.iter().filter_map(|param| Some((param, param.gradient()?)));
        let trained = trained
            .map(|(param, gradient)| Ok((param, gradient, variable(param.value())?)))
            .collect::<Result<Vec<_>>>()?;
        let variables =
            trained.iter().map(|(param, _, variable)| (param.value().id(), variable.clone())).collect();
        let result = op.composed(&Self { variables, ..self.clone() }, &inputs)?;
        let grads = (result.reshape(grad.shape())? * grad)?.sum_all()?.backward()?;
        for (_, gradient, variable) in &trained {
            if let Some(grad) = grads.get(variable) {
                gradient.add(grad)?;
            }
        }
        let inputs = inputs.iter().zip(needs_grad);
        Ok(inputs.map(|(input, needs_grad)| grads.get(input).filter(|_| *needs_grad).cloned()).collect())
    }
}

impl super::param::Gradient {
    /// Adds `grad`.
    pub(super) fn add(&self, grad: &Tensor) -> Result<()> {
        self.update(|memory| match memory {
            Some(Memory::Tensor(sum)) => Ok(Memory::Tensor((sum + grad)?)),
            _ => Ok(Memory::Tensor(grad.detach())),
        })
    }
}
