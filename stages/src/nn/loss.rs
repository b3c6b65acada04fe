//! The loss.

use candle_core::{Result, Tensor};

/// Softmax cross-entropy, the mean over rows: `logits` [N, C], `labels` u32 [N] → a scalar.
///
/// # Errors
/// Shapes that do not fit, or a label that is no column of `logits`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, labels)
}
