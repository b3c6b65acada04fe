//! Activations.

use candle_core::{Result, Tensor};

/// The exact GELU, x·Φ(x) with Φ from erf (not the tanh approximation).
///
/// # Errors
/// Only if the device fails.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}
