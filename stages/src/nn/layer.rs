//! A layer of a transformer: its attention part, then its feed-forward part.

use candle_core::{Result, Tensor};

use super::DropoutAt;
use super::attention::{Attention, AttentionOp, Rows};
use super::chain::Chain;
use super::compute::Compute;
use super::feed_forward::FeedForward;

/// A layer with the LayerNorm after each residual sum, as in BERT.
#[derive(Debug, Clone)]
pub struct TransformerLayer {
    /// What computes it.
    pub compute: Compute,
    /// The first part.
    pub attention: Attention,
    /// The second part.
    pub feed_forward: FeedForward,
}

impl TransformerLayer {
    /// Of `x` [B, S, H], which attends to itself, the rows `rows`: [B, S, H] or [B, 1, H]. `bias` [B, S] is added to every score of
    /// a key.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        bias: &Tensor,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        self.apply(self.attention.op(x, bias, rows, dropout)?, &[x], dropout)
    }

    /// `own` [B, Q, H], which attends to `other` [B, S, K], whose keys have the `bias` [B, S]: [B, Q, H].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_to(
        &self,
        own: &Tensor,
        other: &Tensor,
        bias: &Tensor,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        self.apply(self.attention.op_to(own, other, bias, dropout)?, &[own, other], dropout)
    }

    fn apply(
        &self,
        (first, shape): (AttentionOp, [usize; 3]),
        inputs: &[&Tensor],
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let second = self.feed_forward.op(shape.iter().product(), dropout);
        self.compute.apply(Chain { first, second }, inputs, &shape)
    }
}
