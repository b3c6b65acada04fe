//! The feed-forward part of a layer: two linear layers with a GELU between them, then [`ResidualNorm`].

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::backend::{Backend, RowMask};
use super::composed::Composed;
use super::layer_norm::{ResidualNorm, SavedNorm};
use super::op::{Forward, Op};
use super::packing::Packing;
use super::{Activation, DropoutAt, Linear, Mask, Param, Site};

/// end(W₂ gelu(W₁ x + b₁) + b₂, x).
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// W₁ and b₁.
    pub up: Linear,
    /// W₂ and b₂.
    pub down: Linear,
    /// What follows.
    pub end: ResidualNorm,
    /// Dropout of the result of the second layer.
    pub site: Site,
}

impl FeedForward {
    /// The operation on `elements` values, counted with padding; the rows are those of `packing`, if there is one.
    pub(super) fn op(
        &self,
        elements: usize,
        packing: Option<Arc<Packing>>,
        dropout: Option<&DropoutAt>,
    ) -> FeedForwardOp {
        let mask = dropout.map(|dropout| dropout.site(self.site).over(elements));
        let (up, down, end) = (self.up.clone(), self.down.clone(), self.end.clone());
        FeedForwardOp { up, down, end, mask, packing }
    }
}

pub(super) struct FeedForwardOp {
    up: Linear,
    down: Linear,
    end: ResidualNorm,
    mask: Option<Mask>,
    packing: Option<Arc<Packing>>,
}

pub(super) struct Saved<B> {
    /// W₁ x + b₁, where a gradient goes further than the end. Its activation is computed again rather than kept: that is the
    /// widest of all tensors.
    before: Option<B>,
    end: Option<SavedNorm<B>>,
}

impl FeedForwardOp {
    fn rows(&self) -> RowMask<'_> {
        RowMask { mask: self.mask, packing: self.packing.as_deref() }
    }

    /// Whether the backward pass goes further than the end.
    fn goes_on(&self, needs_grad: &[bool]) -> bool {
        needs_grad[0] || self.up.is_trained() || self.down.is_trained()
    }
}

impl Op for FeedForwardOp {
    type Saved<B: Backend> = Saved<B::Buffer>;

    fn params(&self) -> Vec<&Param> {
        let linear = [&self.up, &self.down].into_iter().flat_map(Linear::params);
        linear.chain(self.end.params()).collect()
    }

    fn reads_inputs(&self) -> bool {
        self.up.is_trained()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Saved<B::Buffer>> {
        let goes_on = keep.is_some_and(|needs_grad| self.goes_on(needs_grad));
        let (inner, before) = on.activate(on.linear(inputs[0], &[&self.up])?, Activation::Gelu, goes_on)?;
        let x = on.linear_of(inner, &[&self.down])?;
        let (y, end) = self.end.forward(on, x, self.rows(), inputs[0], keep.is_some())?;
        Ok((y, keep.map(|_| Saved { before, end })))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        saved: Saved<B::Buffer>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let Saved { before, end: Some(end) } = saved else { return Ok(vec![None]) };
        let grads = self.end.backward(on, end, self.rows(), grad)?;
        let Some(before) = before else { return Ok(vec![None]) };
        let grad = on.input_gradient(on.view(&grads.product), &[&self.down], None)?;
        let (grad, inner) = on.activate_backward(grad, before, Activation::Gelu, self.down.is_trained())?;
        if let Some(inner) = inner {
            on.linear_gradients(
                on.view(&grads.product),
                on.view(&inner),
                &[&self.down],
                self.packing.as_deref(),
            )?;
        }
        if let Some(x) = inputs.first().filter(|_| self.up.is_trained()) {
            on.linear_gradients(on.view(&grad), *x, &[&self.up], self.packing.as_deref())?;
        }
        if !needs_grad[0] {
            return Ok(vec![None]);
        }
        let sum = grads.into_sum();
        Ok(vec![Some(on.finish(on.input_gradient_of(grad, &[&self.up], Some(sum))?)?)])
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let inner = on.activate(&on.linear(&inputs[0], &self.up)?, Activation::Gelu)?;
        self.end.composed(on, &on.linear(&inner, &self.down)?, self.mask, &inputs[0])
    }
}
