//! Attention of every head, forward and backward. The threads share out the rows of the batch, so that a head's scores stay in
//! a core's cache.

use std::borrow::Cow;

use super::instruction_set::per_instruction_set;
use super::{Cpu, math, parallel};
use crate::nn::backend::{AttentionShape, Columns, ProjectionGradients, Projections};
use crate::nn::gemm::{Matrix, WORTH_SHARING, product_from};
use crate::nn::{Mask, dropout};

/// Attention with its projections.
pub struct Attention<'a> {
    pub on: &'a Cpu,
    pub shape: AttentionShape,
    pub of: Projections<&'a [f32]>,
    pub mask: Option<Mask>,
}

impl Attention<'_> {
    /// The weighted sums of values [batch · queries, heads · width], and the probabilities before dropout,
    /// [batch, heads, queries, keys].
    pub fn forward(&self, bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let AttentionShape { batch, heads, width, queries, keys } = self.shape;
        let rounded = self.rounded();
        let of = rounded.columns();
        let (hidden, of_one) = (heads * width, heads * queries * keys);
        let mut probabilities = vec![0f32; batch * of_one];
        let mut result = vec![0f32; batch * queries * hidden];
        parallel::zip(
            &mut probabilities,
            of_one,
            &mut result,
            queries * hidden,
            |b, probabilities, result| {
                let bias = &bias[b * keys..(b + 1) * keys];
                let (mut dropped, worth) = (Vec::new(), self.worth_sharing());
                for head in 0..heads {
                    let [q, k, v] = self.head(&of, b, head);
                    let p = &mut probabilities[head * queries * keys..(head + 1) * queries * keys];
                    product_from(worth, p, keys, q, k.t(), self.scale(), false);
                    softmax(p, bias);
                    let p = self.on.factor(self.dropped(p, b * heads + head, &mut dropped));
                    let p = Matrix::new(&p, queries, keys, keys);
                    product_from(worth, &mut result[head * width..], hidden, p, v, 1.0, false);
                }
            },
        );
        (result, probabilities)
    }

    /// The gradients of the projections, given that of the result; all in one matrix where `together`.
    pub fn backward(
        &self,
        probabilities: &[f32],
        grad: &[f32],
        together: bool,
    ) -> ProjectionGradients<Vec<f32>> {
        let AttentionShape { batch, heads, width, queries, keys } = self.shape;
        let rounded = self.rounded();
        let of = rounded.columns();
        let grad = self.on.factor(grad);
        let (hidden, parts) = (heads * width, if together { 3 } else { 2 });
        let mut all = vec![0f32; batch * keys * parts * hidden];
        let each = |b: usize, all: &mut [f32], query: &mut [f32]| {
            self.backward_of_one(&of, b, probabilities, &grad, all, query);
        };
        if together {
            parallel::pieces(&mut all, keys * parts * hidden, |b, all| each(b, all, &mut []));
            return ProjectionGradients { together: all, query: None };
        }
        let mut query = vec![0f32; batch * queries * hidden];
        parallel::zip(&mut query, queries * hidden, &mut all, keys * parts * hidden, |b, query, all| {
            each(b, all, query);
        });
        ProjectionGradients { together: all, query: Some(query) }
    }

    /// The gradients of the projections of row `b` of the batch, given that of the result of all rows. `query` is empty where
    /// `all` has a place for it.
    fn backward_of_one(
        &self,
        of: &Projections<&[f32]>,
        b: usize,
        probabilities: &[f32],
        grad: &[f32],
        all: &mut [f32],
        query: &mut [f32],
    ) {
        let AttentionShape { heads, width, queries, keys, .. } = self.shape;
        let (hidden, scale, worth) = (heads * width, self.scale(), self.worth_sharing());
        let stride = if query.is_empty() { 3 * hidden } else { 2 * hidden };
        let (mut dropped, mut grad_p) = (Vec::new(), vec![0f32; queries * keys]);
        for head in 0..heads {
            let [q, k, v] = self.head(of, b, head);
            let index = b * heads + head;
            let grad = Matrix::new(&grad[b * queries * hidden + head * width..], queries, width, hidden);
            let p = &probabilities[index * queries * keys..(index + 1) * queries * keys];
            {
                let after = self.on.factor(self.dropped(p, index, &mut dropped));
                let after = Matrix::new(&after, queries, keys, keys);
                product_from(worth, &mut all[hidden + head * width..], stride, after.t(), grad, 1.0, false);
            }
            product_from(worth, &mut grad_p, keys, grad, v.t(), 1.0, false);
            if let Some(mask) = &self.mask {
                dropout::scale(mask, index * queries * keys, &mut grad_p);
            }
            softmax_backward(&mut grad_p, p, keys);
            let grad_p = self.on.factor(&grad_p);
            let grad_p = Matrix::new(&grad_p, queries, keys, keys);
            product_from(worth, &mut all[head * width..], stride, grad_p.t(), q, scale, false);
            let (grad_q, stride) = if query.is_empty() {
                (&mut all[2 * hidden + head * width..], stride)
            } else {
                (&mut query[head * width..], hidden)
            };
            product_from(worth, grad_q, stride, grad_p, k, scale, false);
        }
    }

    /// What scores are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / (self.shape.width as f32).sqrt()
    }

    /// Multiplications from which on threads share a product of a head: never where they share out the rows of the batch.
    fn worth_sharing(&self) -> usize {
        if self.shape.batch > 1 { usize::MAX } else { WORTH_SHARING }
    }

    /// Queries, keys and values of a head for row `b` of the batch.
    fn head<'b>(&self, of: &Projections<&'b [f32]>, b: usize, head: usize) -> [Matrix<'b>; 3] {
        let AttentionShape { width, queries, keys, .. } = self.shape;
        let part = |Columns { values, first, stride }: Columns<&'b [f32]>, rows: usize| {
            Matrix::new(&values[b * rows * stride + first + head * width..], rows, width, stride)
        };
        [part(of.query, queries), part(of.key, keys), part(of.value, keys)]
    }

    /// The probabilities of head `index` (counted over the batch) after dropout, in `buffer` if they change.
    fn dropped<'b>(&self, p: &'b [f32], index: usize, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        let Some(mask) = &self.mask else { return p };
        buffer.clear();
        buffer.extend_from_slice(p);
        dropout::scale(mask, index * p.len(), buffer);
        buffer
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
    fn softmax(p: &mut [f32], bias: &[f32]) {
        for p in p.chunks_exact_mut(bias.len()) {
            for (p, bias) in p.iter_mut().zip(bias) {
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
