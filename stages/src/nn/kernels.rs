//! Which implementation computes a layer. The first two give the same numbers, to rounding; the tests hold them
//! together. The third rounds what it multiplies.

use candle_core::{DType, Device, Result, Tensor};

use super::dropout::Mask;
use super::{Activation, activation, add_rows, dropout};

/// An implementation of the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Composed from candle's operations: runs on every device.
    Composed,
    /// Hand-written passes over f32 on the CPU.
    Fused,
    /// As [`Kernels::Composed`], but what goes into matrix products is rounded to bfloat16. Everything else, and what
    /// is trained, stays in f32: PyTorch's autocast.
    Bf16,
}

impl Kernels {
    /// The faster one on `device`.
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Fused } else { Self::Composed }
    }

    /// a · b.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(super) fn product(self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Composed | Self::Fused => a.matmul(b),
            Self::Bf16 => a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?.to_dtype(DType::F32),
        }
    }

    /// The activation of every element. GELU is the exact one, x·Φ(x) with Φ from erf (not the tanh approximation).
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn activate(self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match (self, activation) {
            (Self::Fused, _) => activation::fused(x, activation),
            (Self::Composed | Self::Bf16, Activation::Gelu) => x.gelu_erf(),
            (Self::Composed | Self::Bf16, Activation::Relu) => x.relu(),
            (Self::Composed | Self::Bf16, Activation::Tanh) => x.tanh(),
        }
    }

    /// `x` [.., n, d] plus `rows` [n, d], broadcast over the dimensions before.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_rows(self, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Fused => add_rows::fused(x, rows),
            Self::Composed | Self::Bf16 => x.broadcast_add(rows),
        }
    }

    /// `x` under `mask`, or as it is without one.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn dropout(self, x: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        match (mask.map(|mask| mask.over(x.elem_count())), self) {
            (None, _) => Ok(x.clone()),
            #[cfg(feature = "cuda")]
            (Some(mask), Self::Composed | Self::Bf16) if x.device().is_cuda() => {
                super::cuda::dropout(x, mask)
            }
            (Some(mask), Self::Composed | Self::Bf16) => mask.apply(x),
            (Some(mask), Self::Fused) => dropout::fused(x, mask),
        }
    }
}
