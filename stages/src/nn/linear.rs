//! The linear layer.

use candle_core::{Result, Tensor};

use super::Params;

/// y = x Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// The layer of `weight` [out, in] and `bias` [out].
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { weight, bias }
    }

    /// The layer of the parameters `<name>.weight` [out, in] and `<name>.bias` [out].
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn load(params: &Params, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self::new(
            params.get_shaped(&format!("{name}.weight"), &[outputs, inputs])?,
            params.get_shaped(&format!("{name}.bias"), &[outputs])?,
        ))
    }

    /// [.., in] → [.., out].
    ///
    /// # Errors
    /// The last dimension of `x` is not `in`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let rows = shape.iter().rev().skip(1).product::<usize>();
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        let y = x.reshape((rows, self.weight.dim(1)?))?.matmul(&self.weight.t()?)?;
        y.broadcast_add(&self.bias)?.reshape(shape)
    }
}
