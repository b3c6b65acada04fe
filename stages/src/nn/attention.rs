//! The attention part of a layer: projections to queries, keys and values, the weighted sums of values, the projection of their
//! result, then [`ResidualNorm`]. Queries come from the sequence of keys and values or from another one.

use std::sync::Arc;

use candle_core::{Error, Result, Tensor};

use super::backend::{AttentionShape, Backend, Columns, Projections, RowMask};
use super::composed::Composed;
use super::layer_norm::{ResidualNorm, SavedNorm};
use super::op::{Forward, Locked, Op};
use super::packing::{Packing, Sequences};
use super::{DropoutAt, Linear, Mask, Param, Site};

/// Which rows of a sequence a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// All of them.
    All,
    /// The first alone; all others are still attended to.
    First,
}

/// end(W_o softmax(q kᵀ / √d + bias) v + b_o, what the queries come from), with dropout of the probabilities and of the
/// projected result.
#[derive(Debug, Clone)]
pub struct Attention {
    /// To queries.
    pub query: Linear,
    /// To keys.
    pub key: Linear,
    /// To values.
    pub value: Linear,
    /// Of the heads' results.
    pub output: Linear,
    /// What follows.
    pub end: ResidualNorm,
    /// How many heads share the projections' width.
    pub heads: usize,
    /// Dropout of probabilities.
    pub probabilities: Site,
    /// Dropout of the projected result.
    pub site: Site,
}

impl Attention {
    /// What `rows` of an x of the shape `x` attend to in it, and the shape of the result.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(super) fn op(
        &self,
        x: &[usize],
        sequences: &Sequences,
        rows: Rows,
        dropout: Option<&DropoutAt>,
    ) -> Result<(AttentionOp, Vec<usize>)> {
        match rows {
            Rows::All => self.op_of(Source::Own, (x, Some(sequences)), (x, sequences), dropout),
            Rows::First => self.op_of(Source::First, (x, None), (x, sequences), dropout),
        }
    }

    /// What each row of what has the shape `own` attends to in what has that of `other`, and the shape of the result.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(super) fn op_to(
        &self,
        (own, queries): (&[usize], &Sequences),
        other: (&[usize], &Sequences),
        dropout: Option<&DropoutAt>,
    ) -> Result<(AttentionOp, Vec<usize>)> {
        self.op_of(Source::Other, (own, Some(queries)), other, dropout)
    }

    fn op_of(
        &self,
        source: Source,
        (own, queries): (&[usize], Option<&Sequences>),
        (read, keys): (&[usize], &Sequences),
        dropout: Option<&DropoutAt>,
    ) -> Result<(AttentionOp, Vec<usize>)> {
        let batch = keys.batch;
        let fits = read == keys.shape(self.key.inputs)
            && queries
                .is_none_or(|queries| queries.batch == batch && own == queries.shape(self.query.inputs));
        if !fits {
            let mask = [batch, keys.length];
            return Err(Error::msg(format!("attention of {own:?} to {read:?} with a mask {mask:?}")));
        }
        let result = queries.map_or_else(
            || vec![batch, 1, self.output.outputs],
            |queries| queries.shape(self.output.outputs),
        );
        let length = queries.map_or(1, |queries| queries.length);
        let mask = |site: Site, elements: usize| dropout.map(|dropout| dropout.site(site).over(elements));
        let op = AttentionOp {
            layer: self.clone(),
            source,
            batch,
            queries: (length, queries.and_then(|queries| queries.packing.clone())),
            keys: (keys.length, keys.packing.clone()),
            bias: keys.bias.clone(),
            probabilities: mask(self.probabilities, batch * self.heads * length * keys.length),
            mask: mask(self.site, batch * length * self.output.outputs),
        };
        Ok((op, result))
    }
}

/// Where queries come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// All rows of the sequence of keys and values.
    Own,
    /// The first row of each of the batch.
    First,
    /// Another sequence: the first of two inputs.
    Other,
}

pub(super) struct AttentionOp {
    layer: Attention,
    source: Source,
    /// Sequences.
    batch: usize,
    /// Positions of a sequence of queries, with padding, and which rows they are, where they are without.
    queries: (usize, Option<Arc<Packing>>),
    /// The same of keys.
    keys: (usize, Option<Arc<Packing>>),
    bias: Option<Tensor>,
    probabilities: Option<Mask>,
    mask: Option<Mask>,
}

pub(super) struct Saved<B: Backend> {
    /// Where a gradient goes further than the end.
    projected: Option<Projected<B>>,
    end: Option<SavedNorm<B::Buffer>>,
}

pub(super) struct Projected<B: Backend> {
    /// Keys, values and, of [`Source::Own`], queries next to each other.
    together: B::Buffer,
    query: Option<B::Buffer>,
    /// What queries of [`Source::First`] come from.
    first: Option<B::Buffer>,
    attended: B::Attended,
    /// The heads' results.
    result: B::Buffer,
}

impl AttentionOp {
    /// Whether the backward pass goes further than the end.
    fn goes_on(&self, needs_grad: &[bool]) -> bool {
        let Attention { query, key, value, output, .. } = &self.layer;
        needs_grad.contains(&true) || [query, key, value, output].into_iter().any(Linear::is_trained)
    }

    /// Values of the result, with padding.
    pub(super) fn elements(&self) -> usize {
        self.batch * self.queries.0 * self.layer.output.outputs
    }

    /// Which rows the result has, where it is without padding.
    pub(super) fn packed_queries(&self) -> Option<Arc<Packing>> {
        self.queries.1.clone()
    }

    fn shape(&self) -> AttentionShape<'_> {
        let Attention { heads, query, .. } = &self.layer;
        AttentionShape {
            batch: self.batch,
            heads: *heads,
            width: query.outputs / heads,
            queries: self.queries.0,
            keys: self.keys.0,
            packed_queries: self.queries.1.as_deref(),
            packed_keys: self.keys.1.as_deref(),
        }
    }

    fn bias(&self) -> Result<Option<Locked<'_>>> {
        self.bias.as_ref().map(Locked::new).transpose()
    }

    /// The rows of the result.
    fn rows(&self) -> RowMask<'_> {
        RowMask { mask: self.mask, packing: self.queries.1.as_deref() }
    }

    /// The layers that read the sequence of keys and values, in the order of their results.
    fn together(&self) -> Vec<&Linear> {
        let Attention { query, key, value, .. } = &self.layer;
        if self.source == Source::Own { vec![key, value, query] } else { vec![key, value] }
    }

    fn projections<V: Copy>(&self, together: V, query: Option<V>) -> Projections<V> {
        let hidden = self.layer.query.outputs;
        let stride = if query.is_some() { 2 * hidden } else { 3 * hidden };
        let part = |first: usize| Columns { values: together, first, stride };
        Projections {
            key: part(0),
            value: part(hidden),
            query: query.map_or(part(2 * hidden), |values| Columns { values, first: 0, stride: hidden }),
        }
    }
}

impl Op for AttentionOp {
    type Saved<B: Backend> = Saved<B>;

    fn params(&self) -> Vec<&Param> {
        let Attention { query, key, value, output, end, .. } = &self.layer;
        let linear = [query, key, value, output].into_iter().flat_map(Linear::params);
        linear.chain(end.params()).collect()
    }

    fn reads_inputs(&self) -> bool {
        let Attention { query, key, value, .. } = &self.layer;
        [query, key, value].into_iter().any(Linear::is_trained)
    }

    fn has_result_again(&self) -> bool {
        true
    }

    fn result_again<B: Backend>(&self, on: &B, saved: &Saved<B>) -> Result<Option<B::Buffer>> {
        saved.end.as_ref().map(|end| self.layer.end.result_again(on, end)).transpose()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Saved<B>> {
        let (own, read) = (inputs[0], inputs[inputs.len() - 1]);
        let first = match self.source {
            Source::First => Some(on.first_rows(own, self.shape(), self.layer.query.inputs)?),
            Source::Own | Source::Other => None,
        };
        let own = first.as_ref().map_or_else(|| on.reborrow(own), |first| on.view(first));
        let together = on.finish(on.linear(read, &self.together())?)?;
        let query = match self.source {
            Source::Own => None,
            Source::First | Source::Other => Some(on.finish(on.linear(own, &[&self.layer.query])?)?),
        };
        let of = self.projections(on.view(&together), query.as_ref().map(|query| on.view(query)));
        let goes_on = keep.is_some_and(|needs_grad| self.goes_on(needs_grad));
        let bias = self.bias()?;
        let bias = bias.as_ref().map(|bias| bias.view(on)).transpose()?;
        let (result, attended) = on.attend(self.shape(), &of, bias, self.probabilities, goes_on)?;
        let x = on.linear(on.view(&result), &[&self.layer.output])?;
        let (y, end) = self.layer.end.forward(on, x, self.rows(), own, keep.is_some())?;
        let projected = attended.map(|attended| Projected { together, query, first, attended, result });
        Ok((y, keep.map(|_| Saved { projected, end })))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        saved: Saved<B>,
        grad: B::View<'_>,
        needs_grad: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        let nothing = || needs_grad.iter().map(|_| None).collect();
        let Saved { projected, end: Some(end) } = saved else { return Ok(nothing()) };
        let grads = self.layer.end.backward(on, end, self.rows(), grad)?;
        let Some(Projected { together, query, first, attended, result }) = projected else {
            return Ok(nothing());
        };
        let output = [&self.layer.output];
        on.linear_gradients(on.view(&grads.product), on.view(&result), &output, self.rows().packing)?;
        let grad = on.finish(on.input_gradient(on.view(&grads.product), &output, None)?)?;
        let residual = grads.into_sum();
        let of = self.projections(on.view(&together), query.as_ref().map(|query| on.view(query)));
        let bias = self.bias()?;
        let bias = bias.as_ref().map(|bias| bias.view(on)).transpose()?;
        let projections = on.attend_backward(
            self.shape(),
            &of,
            bias,
            self.probabilities,
            &attended,
            on.view(&result),
            on.view(&grad),
            self.source == Source::Own,
        )?;
        drop((grad, result, attended, together));

        let layers = self.together();
        if let Some(read) = inputs.last() {
            let packing = self.shape().packed_keys;
            on.linear_gradients(on.view(&projections.together), *read, &layers, packing)?;
        }
        let read_grad = |plus: Option<B::Buffer>| {
            on.finish(on.input_gradient(on.view(&projections.together), &layers, plus)?)
        };
        let Some(query) = &projections.query else {
            return Ok(vec![if needs_grad[0] { Some(read_grad(Some(residual))?) } else { None }]);
        };
        let own = first.as_ref().map(|first| on.view(first)).or(inputs.first().map(|own| on.reborrow(*own)));
        if let Some(own) = own {
            on.linear_gradients(on.view(query), own, &[&self.layer.query], self.rows().packing)?;
        }
        let own_grad =
            || on.finish(on.input_gradient(on.view(query), &[&self.layer.query], Some(residual))?);
        if self.source == Source::Other {
            let own = if needs_grad[0] { Some(own_grad()?) } else { None };
            return Ok(vec![own, if needs_grad[1] { Some(read_grad(None)?) } else { None }]);
        }
        if !needs_grad[0] {
            return Ok(vec![None]);
        }
        let (mut x, first) = (read_grad(None)?, own_grad()?);
        on.add_to_first_rows(&mut x, on.view(&first), self.shape(), self.layer.query.inputs)?;
        Ok(vec![Some(x)])
    }

    fn composed(&self, on: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let AttentionShape { batch, heads, width, queries, keys, .. } = self.shape();
        let read = &inputs[inputs.len() - 1];
        let own = match self.source {
            Source::Own | Source::Other => inputs[0].clone(),
            Source::First => inputs[0].narrow(1, 0, 1)?.contiguous()?,
        };
        let split = |x: Tensor, length: usize| {
            x.reshape((batch, length, heads, width))?.transpose(1, 2)?.contiguous()
        };
        let Attention { query, key, value, output, end, .. } = &self.layer;
        let q = split(on.linear(&own, query)?, queries)?;
        let (k, v) = (split(on.linear(read, key)?, keys)?, split(on.linear(read, value)?, keys)?);
        let scores = (on.product(&q, &k.transpose(2, 3)?.contiguous()?)? / (width as f64).sqrt())?;
        let scores = match &self.bias {
            Some(bias) => scores.broadcast_add(&bias.reshape((batch, 1, 1, keys))?)?,
            None => scores,
        };
        let probabilities = candle_nn::ops::softmax(&scores, 3)?;
        let probabilities = on.dropout(&probabilities, self.probabilities)?;
        let result =
            on.product(&probabilities, &v)?.transpose(1, 2)?.reshape((batch, queries, heads * width))?;
        end.composed(on, &on.linear(&result, output)?, self.mask, &own)
    }
}
