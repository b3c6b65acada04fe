//! Attention of every head, forward and backward. The threads share out the rows of the batch, so that a head's scores stay in
//! a core's cache.

use std::borrow::Cow;
use std::ops::Range;

use super::instruction_set::per_instruction_set;
use super::products::packed_ends;
use super::{Cpu, math, parallel};
use crate::nn::backend::{AttentionShape, Columns, ProjectionGradients, Projections};
use crate::nn::gemm::{Matrix, WORTH_SHARING, product_from};
use crate::nn::packing::{Packing, Run};
use crate::nn::{Mask, dropout};

/// Attention with its projections.
pub struct Attention<'a> {
    pub on: &'a Cpu,
    pub shape: AttentionShape<'a>,
    pub of: Projections<&'a [f32]>,
    pub mask: Option<Mask>,
}

/// One sequence of the batch.
struct Sequence {
    /// Its number.
    b: usize,
    /// Its rows among the queries.
    queries: Range<usize>,
    /// Its rows among the keys.
    keys: Range<usize>,
    /// The positions of its keys, where they are without padding.
    runs: Option<Vec<Run>>,
    /// Where blocks of a product's inner dimension end that is its queries, where they are without padding.
    query_ends: Option<Vec<usize>>,
    /// The same of its keys.
    key_ends: Option<Vec<usize>>,
}

/// Memory that the heads of a sequence use one after the other.
#[derive(Default)]
struct Scratch {
    /// Probabilities after dropout.
    dropped: Vec<f32>,
    /// Values of all positions of a query's keys, padding included.
    row: Vec<f32>,
}

impl Attention<'_> {
    /// The weighted sums of values [queries of all, heads · width] and, where `keep`, the probabilities before dropout: of each
    /// sequence [heads, queries, keys].
    pub fn forward(&self, bias: Option<&[f32]>, keep: bool) -> (Vec<f32>, Option<Vec<f32>>) {
        let AttentionShape { batch, heads, width, keys, .. } = self.shape;
        let (rounded, hidden, worth) = (self.rounded(), heads * width, self.worth_sharing());
        let of = rounded.columns();
        let results: Vec<usize> = (0..batch).map(|b| self.queries(b).end * hidden).collect();
        let scores = if keep { self.score_ends() } else { vec![0; batch] };
        let (result, probabilities) = parallel::in_pieces(&results, &scores, |b, result, kept| {
            let (sequence, mut scratch) = (self.sequence(b), Scratch::default());
            let (rows, columns) = (sequence.queries.len(), sequence.keys.len());
            let mut p = vec![0f32; if keep { 0 } else { rows * columns }];
            for head in 0..heads {
                let [q, k, v] = self.head(&of, &sequence, head);
                let p = if keep { &mut kept[head * rows * columns..][..rows * columns] } else { &mut p };
                product_from(worth, p, columns, q, k.t(), self.scale(), false);
                match &sequence.runs {
                    None => softmax(p, keys, bias.map(|bias| &bias[b * keys..(b + 1) * keys])),
                    Some(runs) => softmax_of_runs(p, columns, runs, scratch.row(keys)),
                }
                let p = self.on.factor(self.dropped(p, &sequence, head, &mut scratch));
                let p = in_blocks(Matrix::new(&p, rows, columns, columns), &sequence.key_ends);
                product_from(worth, &mut result[head * width..], hidden, p, v, 1.0, false);
            }
        });
        (result, keep.then_some(probabilities))
    }

    /// The gradients of the projections, given that of the result; all in one matrix where `together`.
    pub fn backward(
        &self,
        probabilities: &[f32],
        grad: &[f32],
        together: bool,
    ) -> ProjectionGradients<Vec<f32>> {
        let AttentionShape { batch, heads, width, .. } = self.shape;
        let (rounded, grad, scores) = (self.rounded(), self.on.factor(grad), self.score_ends());
        let of = rounded.columns();
        let (hidden, parts) = (heads * width, if together { 3 } else { 2 });
        let ends = (0..batch).map(|b| self.keys(b).end * parts * hidden).collect::<Vec<_>>();
        let of_queries = |b: usize| if together { 0 } else { self.queries(b).end * hidden };
        let query_ends: Vec<usize> = (0..batch).map(of_queries).collect();
        let (all, query) = parallel::in_pieces(&ends, &query_ends, |b, all, query| {
            let first = if b == 0 { 0 } else { scores[b - 1] };
            self.backward_of_one(&of, b, &probabilities[first..scores[b]], &grad, all, query);
        });
        ProjectionGradients { together: all, query: (!together).then_some(query) }
    }

    /// The gradients of the projections of sequence `b`, given that of the result of all. `query` is empty where `all` has a place
    /// for it.
    fn backward_of_one(
        &self,
        of: &Projections<&[f32]>,
        b: usize,
        probabilities: &[f32],
        grad: &[f32],
        all: &mut [f32],
        query: &mut [f32],
    ) {
        let AttentionShape { heads, width, keys, .. } = self.shape;
        let (hidden, scale, worth) = (heads * width, self.scale(), self.worth_sharing());
        let stride = if query.is_empty() { 3 * hidden } else { 2 * hidden };
        let (sequence, mut scratch) = (self.sequence(b), Scratch::default());
        let (rows, columns) = (sequence.queries.len(), sequence.keys.len());
        let mut grad_p = vec![0f32; rows * columns];
        for head in 0..heads {
            let [q, k, v] = self.head(of, &sequence, head);
            let first = sequence.queries.start * hidden + head * width;
            let grad = Matrix::new(&grad[first..], rows, width, hidden);
            let p = &probabilities[head * rows * columns..][..rows * columns];
            {
                let after = self.on.factor(self.dropped(p, &sequence, head, &mut scratch));
                let after = Matrix::new(&after, rows, columns, columns).t();
                let after = in_blocks(after, &sequence.query_ends);
                product_from(worth, &mut all[hidden + head * width..], stride, after, grad, 1.0, false);
            }
            product_from(worth, &mut grad_p, columns, grad, v.t(), 1.0, false);
            self.drop_out(&mut grad_p, &sequence, head, &mut scratch);
            match &sequence.runs {
                None => softmax_backward(&mut grad_p, p, keys),
                Some(runs) => {
                    let (grads, probabilities) = scratch.row(2 * keys).split_at_mut(keys);
                    softmax_backward_of_runs(&mut grad_p, p, columns, runs, grads, probabilities);
                }
            }
            let grad_p = self.on.factor(&grad_p);
            let grad_p = Matrix::new(&grad_p, rows, columns, columns);
            let of_keys = in_blocks(grad_p.t(), &sequence.query_ends);
            product_from(worth, &mut all[head * width..], stride, of_keys, q, scale, false);
            let (grad_q, stride) = if query.is_empty() {
                (&mut all[2 * hidden + head * width..], stride)
            } else {
                (&mut query[head * width..], hidden)
            };
            let of_queries = in_blocks(grad_p, &sequence.key_ends);
            product_from(worth, grad_q, stride, of_queries, k, scale, false);
        }
    }

    /// Rows of queries of sequence `b`.
    fn queries(&self, b: usize) -> Range<usize> {
        let AttentionShape { queries, packed_queries, .. } = self.shape;
        packed_queries.map_or(b * queries..(b + 1) * queries, |packing| packing.sequence(b))
    }

    /// Rows of keys of sequence `b`.
    fn keys(&self, b: usize) -> Range<usize> {
        let AttentionShape { keys, packed_keys, .. } = self.shape;
        packed_keys.map_or(b * keys..(b + 1) * keys, |packing| packing.sequence(b))
    }

    fn sequence(&self, b: usize) -> Sequence {
        let AttentionShape { queries, keys, packed_queries, packed_keys, .. } = self.shape;
        let ends = |packing: Option<&Packing>, length: usize, first: usize| {
            let packing = packing?;
            Some(packed_ends(length, |position| packing.before(b * length + position) - first))
        };
        let (of_queries, of_keys) = (self.queries(b), self.keys(b));
        Sequence {
            b,
            runs: packed_keys.map(|packing| packing.runs(b)),
            query_ends: ends(packed_queries, queries, of_queries.start),
            key_ends: ends(packed_keys, keys, of_keys.start),
            queries: of_queries,
            keys: of_keys,
        }
    }

    /// Where the scores of each sequence end, all heads of one after the other.
    fn score_ends(&self) -> Vec<usize> {
        let of_one = |b: usize| self.shape.heads * self.queries(b).len() * self.keys(b).len();
        let add = |end: &mut usize, scores: usize| {
            *end += scores;
            Some(*end)
        };
        (0..self.shape.batch).map(of_one).scan(0, add).collect()
    }

    /// What scores are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.width as f32).sqrt()
    }

    /// Multiplications from which on threads share a product of a head: never where they share out the rows of the batch.
    fn worth_sharing(&self) -> usize {
        if self.shape.batch > 1 { usize::MAX } else { WORTH_SHARING }
    }

    /// Queries, keys and values of a head.
    fn head<'b>(&self, of: &Projections<&'b [f32]>, sequence: &Sequence, head: usize) -> [Matrix<'b>; 3] {
        let width = self.shape.width;
        let part = |Columns { values, first, stride }: Columns<&'b [f32]>, rows: &Range<usize>| {
            Matrix::new(&values[rows.start * stride + first + head * width..], rows.len(), width, stride)
        };
        let Sequence { queries, keys, .. } = sequence;
        [part(of.query, queries), part(of.key, keys), part(of.value, keys)]
    }

    /// The probabilities of a head after dropout, in `scratch` if they change.
    fn dropped<'b>(
        &self,
        p: &'b [f32],
        sequence: &Sequence,
        head: usize,
        scratch: &'b mut Scratch,
    ) -> &'b [f32] {
        if self.mask.is_none() {
            return p;
        }
        let mut dropped = std::mem::take(&mut scratch.dropped);
        dropped.clear();
        dropped.extend_from_slice(p);
        self.drop_out(&mut dropped, sequence, head, scratch);
        scratch.dropped = dropped;
        &scratch.dropped
    }

    /// `x`, one value for each query and key of a head, under the mask.
    fn drop_out(&self, x: &mut [f32], sequence: &Sequence, head: usize, scratch: &mut Scratch) {
        let AttentionShape { heads, queries, keys, packed_queries, .. } = self.shape;
        let Some(mask) = &self.mask else { return };
        let first = (sequence.b * heads + head) * queries * keys;
        if packed_queries.is_none() && sequence.runs.is_none() {
            return dropout::scale(mask, first, x);
        }
        for (query, x) in sequence.queries.clone().zip(x.chunks_exact_mut(sequence.keys.len())) {
            let place = packed_queries.map_or(query, |packing| packing.place(query)) - sequence.b * queries;
            let first = first + place * keys;
            let Some(runs) = &sequence.runs else {
                dropout::scale(mask, first, x);
                continue;
            };
            let row = scratch.row(keys);
            dropout::factors(mask, first, row);
            for Run { packed, padded, length } in runs {
                let factors = &row[*padded..][..*length];
                x[*packed..][..*length].iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
            }
        }
    }

    /// The projections as factors of products.
    fn rounded(&self) -> Projections<Cow<'_, [f32]>> {
        Projections {
            query: self.rounded_columns(&self.of.query),
            key: self.rounded_columns(&self.of.key),
            value: self.rounded_columns(&self.of.value),
        }
    }

    fn rounded_columns<'b>(&'b self, of: &Columns<&'b [f32]>) -> Columns<Cow<'b, [f32]>> {
        Columns { values: self.on.factor(of.values), first: of.first, stride: of.stride }
    }
}

impl Projections<Cow<'_, [f32]>> {
    fn columns(&self) -> Projections<&[f32]> {
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|part| Columns {
            values: &*part.values,
            first: part.first,
            stride: part.stride,
        });
        Projections { query, key, value }
    }
}

per_instruction_set! {
    /// Rows of `p` ← softmax(`p` + `bias`).
    fn softmax(p: &mut [f32], keys: usize, bias: Option<&[f32]>) {
        for p in p.chunks_exact_mut(keys) {
            for (p, bias) in p.iter_mut().zip(bias.unwrap_or_default()) {
                *p += bias;
            }
            math::softmax(p);
        }
    }
}

per_instruction_set! {
    /// With the probabilities p: `grad` ← p (`grad` − Σ `grad`·p), row by row.
    fn softmax_backward(grad: &mut [f32], p: &[f32], keys: usize) {
        for (grad, p) in grad.chunks_exact_mut(keys).zip(p.chunks_exact(keys)) {
            let along = math::dot(grad, p);
            for (grad, p) in grad.iter_mut().zip(p) {
                *grad = p * (*grad - along);
            }
        }
    }
}

per_instruction_set! {
    /// As `softmax`, for rows of `columns` without padding, whose places in a row with padding are `runs`: each sum is that of the
    /// row with padding, which adds zeros, in `row`.
    fn softmax_of_runs(p: &mut [f32], columns: usize, runs: &[Run], row: &mut [f32]) {
        row.fill(0.0);
        for p in p.chunks_exact_mut(columns) {
            math::softmax_by(p, |p| {
                pad(p, runs, row);
                math::sum(row)
            });
        }
    }
}

per_instruction_set! {
    /// As `softmax_backward`, in the same way.
    fn softmax_backward_of_runs(
        grad: &mut [f32],
        p: &[f32],
        columns: usize,
        runs: &[Run],
        grads: &mut [f32],
        probabilities: &mut [f32],
    ) {
        grads.fill(0.0);
        probabilities.fill(0.0);
        for (grad, p) in grad.chunks_exact_mut(columns).zip(p.chunks_exact(columns)) {
            pad(grad, runs, grads);
            pad(p, runs, probabilities);
            let along = math::dot(grads, probabilities);
            for (grad, p) in grad.iter_mut().zip(p) {
                *grad = p * (*grad - along);
            }
        }
    }
}

/// Writes the values of `packed` to their places in `padded`.
#[inline(always)]
fn pad(packed: &[f32], runs: &[Run], padded: &mut [f32]) {
    for run in runs {
        padded[run.padded..][..run.length].copy_from_slice(&packed[run.packed..][..run.length]);
    }
}

fn in_blocks<'a>(factor: Matrix<'a>, ends: &'a Option<Vec<usize>>) -> Matrix<'a> {
    ends.as_ref().map_or(factor, |ends| factor.in_blocks(ends))
}

impl Scratch {
    /// Room for `values`.
    fn row(&mut self, values: usize) -> &mut [f32] {
        self.row.resize(values, 0.0);
        &mut self.row
    }
}
