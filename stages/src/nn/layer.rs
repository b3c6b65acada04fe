//! A layer of a transformer: its attention part, then its feed-forward part.

use candle_core::{Result, Tensor};

use super::DropoutAt;
use super::attention::{Attention, AttentionOp, Rows};
use super::chain::Chain;
use super::compute::Compute;
use super::feed_forward::FeedForward;
use super::packing::Sequences;

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
    /// Of `x`, whose rows `sequences` describe and which attends to itself, the rows `rows`: shaped as `x`, or [B, 1, H].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        sequences: &Sequences,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        self.apply(self.attention.op(x, sequences, rows, dropout)?, &[x], dropout)
    }

    /// `own`, which attends to `other`, each with what describes its rows: shaped as `own`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_to(
        &self,
        own: (&Tensor, &Sequences),
        other: (&Tensor, &Sequences),
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        self.apply(self.attention.op_to(own, other, dropout)?, &[own.0, other.0], dropout)
    }

    fn apply(
        &self,
        (first, shape): (AttentionOp, Vec<usize>),
        inputs: &[&Tensor],
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let second = self.feed_forward.op(first.elements(), first.packed_queries(), dropout);
        self.compute.apply(Chain { first, second }, inputs, &shape)
    }
}
