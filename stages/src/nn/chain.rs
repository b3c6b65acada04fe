//! Two operations, the second on the result of the first, as one node of the graph: candle then handles no gradient between them.

use candle_core::{Error, Result, Tensor};

use super::Param;
use super::backend::Backend;
use super::composed::Composed;
use super::op::{Forward, Op};

/// `second` of the result of `first`. `second` has one input.
pub(super) struct Chain<A, B> {
    pub first: A,
    pub second: B,
}

/// What both need for their backward passes.
pub(super) struct Saved<A, B, V> {
    first: Option<A>,
    /// The result of the first, where the second reads it again and it is not computed again.
    between: Option<V>,
    second: B,
}

impl<A: Op, B: Op> Chain<A, B> {
    /// Whether the backward pass goes further than the second operation.
    fn goes_on(&self, needs_grad: &[bool]) -> bool {
        needs_grad.contains(&true) || self.first.params().iter().any(|param| param.is_trained())
    }
}

impl<A: Op, B: Op> Op for Chain<A, B> {
    type Saved<C: Backend> = Saved<A::Saved<C>, B::Saved<C>, C::Buffer>;

    fn params(&self) -> Vec<&Param> {
        [self.first.params(), self.second.params()].concat()
    }

    fn reads_inputs(&self) -> bool {
        self.first.reads_inputs()
    }

    fn forward<C: Backend>(
        &self,
        on: &C,
        inputs: &[C::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<C, Self::Saved<C>> {
        let goes_on = keep.is_some_and(|needs_grad| self.goes_on(needs_grad));
        let (between, first) = self.first.forward(on, inputs, keep.filter(|_| goes_on))?;
        let needs_grad = [goes_on];
        let keep = keep.map(|_| &needs_grad[..]);
        let (value, second) = self.second.forward(on, &[on.view(&between)], keep)?;
        let saved = second.map(|second| {
            let is_kept = self.second.reads_inputs() && !(goes_on && self.first.has_result_again());
            let between = Some(between).filter(|_| is_kept);
            Saved { first, between, second }
        });
        Ok((value, saved))
    }

    fn backward<C: Backend>(
        &self,
        on: &C,
        inputs: &[C::View<'_>],
        saved: Self::Saved<C>,
        grad: C::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<C::Buffer>>> {
        let Saved { first, mut between, second } = saved;
        if let (None, Some(first), true) = (&between, &first, self.second.reads_inputs()) {
            between = self.first.result_again(on, first)?;
        }
        let grad = {
            let between: Vec<_> = between.iter().map(|between| on.view(between)).collect();
            self.second.backward(on, &between, second, grad, &[first.is_some()])?.pop().flatten()
        };
        drop(between);
        let Some(first) = first else { return Ok(needs_grad.iter().map(|_| None).collect()) };
        let grad = grad.ok_or_else(|| Error::msg("an operation handed on no gradient"))?;
        self.first.backward(on, inputs, first, on.view(&grad), needs_grad)
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        self.second.composed(on, &[self.first.composed(on, inputs)?])
    }
}
