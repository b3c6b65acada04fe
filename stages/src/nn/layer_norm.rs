//! Layer normalisation.

use candle_core::{D, Result, Tensor};

use super::Params;

/// Normalises the last dimension to mean 0 and variance 1 (biased), then scales and shifts it.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// The layer of the parameters `<name>.weight` [size] and `<name>.bias` [size].
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn load(params: &Params, name: &str, size: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: params.get_shaped(&format!("{name}.weight"), &[size])?,
            bias: params.get_shaped(&format!("{name}.bias"), &[size])?,
            eps,
        })
    }

    /// [.., size] → [.., size].
    ///
    /// # Errors
    /// The last dimension of `x` is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}
