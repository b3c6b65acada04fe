//! A layer of a transformer: its attention part, then its feed-forward part.

use candle_core::{Result, Tensor};

use super::DropoutAt;
use super::attention::{Attention, AttentionOp, Rows};
use super::chain::Chain;
use super::compute::Compute;
use super::feed_forward::{FeedForward, FeedForwardOp};
use super::op::Op;
use super::packing::Sequences;
use super::stack::Stack;

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
    /// Of `layers` one after the other, the first of which reads `x`, whose rows `sequences` describe, each attending to itself:
    /// what the last makes of its rows `rows`, shaped as `x` or [B, 1, H].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn stack(
        layers: &[Self],
        mut x: Tensor,
        sequences: &Sequences,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<Tensor> {
        let Some(last) = layers.last() else { return Ok(x) };
        let mut shape = x.dims().to_vec();
        let op = |layer: &Self| {
            let rows = if std::ptr::eq(layer, last) { rows } else { Rows::All };
            let (op, result) = layer.op(layer.attention.op(&shape, sequences, rows, dropout)?, dropout);
            shape.clone_from(&result);
            Ok((op, result))
        };
        let ops = layers.iter().map(op).collect::<Result<Vec<_>>>()?;
        let is_kept =
            x.track_op() || ops.iter().any(|(op, _)| op.params().iter().any(|param| param.is_trained()));
        // Without a backward pass no input needs to be kept for longer than its layer. Composed operations are computed again
        // in theirs: one layer at a time needs less memory.
        let at_once = if is_kept && !last.compute.is_composed() { layers.len() } else { 1 };
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            let (part, mut shapes): (Vec<_>, Vec<_>) = ops.by_ref().take(at_once).unzip();
            x = last.compute.apply(Stack(part), &[&x], &shapes.pop().unwrap_or_default())?;
        }
        Ok(x)
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
        let attention = self.attention.op_to((own.0.dims(), own.1), (other.0.dims(), other.1), dropout)?;
        let (op, shape) = self.op(attention, dropout);
        self.compute.apply(op, &[own.0, other.0], &shape)
    }

    /// The layer after its attention, and the shape of the result.
    fn op(
        &self,
        (first, shape): (AttentionOp, Vec<usize>),
        dropout: Option<&DropoutAt>,
    ) -> (Chain<AttentionOp, FeedForwardOp>, Vec<usize>) {
        let second = self.feed_forward.op(first.elements(), first.packed_queries(), dropout);
        (Chain { first, second }, shape)
    }
}
