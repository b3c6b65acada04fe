//! Which implementation computes a layer. Both give the same numbers, to rounding; the tests hold them together.

use candle_core::{Device, Result, Tensor};

use super::dropout::Mask;
use super::{activation, dropout};

/// An implementation of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Composed from candle's operations: runs on every device.
    Plain,
    /// Hand-written passes over f32 on the CPU.
    Fused,
}

impl Kernels {
    /// The faster one on `device`.
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() { Self::Fused } else { Self::Plain }
    }

    /// The exact GELU, x·Φ(x) with Φ from erf (not the tanh approximation).
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn gelu(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain => x.gelu_erf(),
            Self::Fused => activation::fused(x),
        }
    }

    /// `x` under `mask`, or as it is without one.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn dropout(self, x: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        match (mask.map(|mask| mask.over(x.elem_count())), self) {
            (None, _) => Ok(x.clone()),
            (Some(mask), Self::Plain) => mask.apply(x),
            (Some(mask), Self::Fused) => dropout::fused(x, mask),
        }
    }
}
