//! Operations of one kind, each on the result of the one before, as one node of the graph: candle then handles no gradient between
//! them. It would add each to zeros, on threads of its own.

use candle_core::{Error, Result, Tensor};

use super::Param;
use super::backend::Backend;
use super::composed::Composed;
use super::op::{Forward, Op};

/// The operations, of one input each, the first first; there is one at least.
pub(super) struct Stack<O>(pub Vec<O>);

/// What an operation needs for its backward pass.
pub(super) struct Saved<O, B> {
    of: O,
    /// What it read, where it reads that again and it is not the input of the whole.
    input: Option<B>,
}

impl<O: Op> Op for Stack<O> {
    /// Of those operations that have a backward pass, which are the last ones.
    type Saved<B: Backend> = Vec<Saved<O::Saved<B>, B::Buffer>>;

    fn params(&self) -> Vec<&Param> {
        self.0.iter().flat_map(Op::params).collect()
    }

    fn reads_inputs(&self) -> bool {
        self.0.first().is_some_and(Op::reads_inputs)
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Self::Saved<B>> {
        let mut saved = Vec::new();
        let mut between: Option<B::Buffer> = None;
        // Whether what an operation reads needs a gradient.
        let mut needs_grad = keep.is_some_and(|needs_grad| needs_grad.contains(&true));
        for op in &self.0 {
            let is_trained = op.params().iter().any(|param| param.is_trained());
            let needs = [needs_grad];
            let keep = (keep.is_some() && (needs_grad || is_trained)).then_some(&needs[..]);
            let (value, of) = match &between {
                Some(x) => op.forward(on, &[on.view(x)], keep)?,
                None => op.forward(on, inputs, keep)?,
            };
            let input = between.replace(value);
            if let Some(of) = of {
                saved.push(Saved { of, input: input.filter(|_| op.reads_inputs()) });
            }
            needs_grad |= keep.is_some();
        }
        let value = between.ok_or_else(|| Error::msg("a stack of no operations"))?;
        Ok((value, keep.map(|_| saved)))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        mut saved: Self::Saved<B>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let mut passed: Option<B::Buffer> = None;
        for (number, op) in self.0.iter().enumerate().rev() {
            let Some(Saved { of, input }) = saved.pop() else { break };
            // What is saved of the one before says whether that needs a gradient.
            let needs = if number == 0 { needs_grad.to_vec() } else { vec![!saved.is_empty()] };
            let grad = passed.as_ref().map_or_else(|| on.reborrow(grad), |passed| on.view(passed));
            let mut grads = match &input {
                Some(x) => op.backward(on, &[on.view(x)], of, grad, &needs)?,
                None if number == 0 => op.backward(on, inputs, of, grad, &needs)?,
                None => op.backward(on, &[], of, grad, &needs)?,
            };
            passed = grads.pop().flatten();
            if number == 0 {
                return Ok(vec![passed]);
            }
        }
        Ok(needs_grad.iter().map(|_| None).collect())
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        self.0.iter().try_fold(inputs[0].clone(), |x, op| op.composed(on, &[x]))
    }
}
