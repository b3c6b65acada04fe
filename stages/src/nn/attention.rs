//! Multi-head attention over projected queries, keys and values.

use candle_core::{D, Result, Tensor};

use super::Mask;

/// softmax(q kᵀ / √d + bias), dropped out, times v, for each head.
///
/// `q` [B, Q, H]; `k`, `v` [B, S, H]; `bias` [B, S] is added to every score of a key; `dropout` masks the
/// probabilities, which are laid out as [B, heads, Q, S]. Result [B, Q, H], heads side by side.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: &Tensor,
    heads: usize,
    dropout: Option<Mask>,
) -> Result<Tensor> {
    let (batch, queries, hidden) = q.dims3()?;
    let keys = k.dim(1)?;
    let size = hidden / heads;
    let split = |x: &Tensor, len: usize| x.reshape((batch, len, heads, size))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q, queries)?, split(k, keys)?, split(v, keys)?);
    let scores = (q.matmul(&k.transpose(D::Minus2, D::Minus1)?)? / (size as f64).sqrt())?;
    let scores = scores.broadcast_add(&bias.reshape((batch, 1, 1, keys))?)?;
    let mut probabilities = candle_nn::ops::softmax(&scores, D::Minus1)?;
    if let Some(mask) = dropout {
        probabilities = mask.apply(&probabilities)?;
    }
    probabilities.matmul(&v)?.transpose(1, 2)?.reshape((batch, queries, hidden))
}
