//! Multi-head attention: the projections to queries, keys and values, and the weighted sums of values. Queries may come from
//! the sequence of keys and values or from another one, of the same width or of another.

use candle_core::{D, Error, Result, Tensor};

use super::cpu::per_instruction_set;
use super::dropout::Mask;
use super::fused::{self, Kernel, math, parallel};
use super::gemm::{Matrix, WORTH_SHARING, product_from};
use super::linear::{Size, bias_gradient};
use super::{Kernels, Linear};

/// softmax(q kᵀ / √d + bias), dropped out, times v, for each head.
#[derive(Debug, Clone)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    kernels: Kernels,
}

impl Attention {
    /// The layer of these projections, whose outputs `heads` heads share.
    pub fn new(query: Linear, key: Linear, value: Linear, heads: usize) -> Self {
        Self { kernels: query.kernels, query, key, value, heads }
    }

    /// What each of `from` [B, Q, query width] attends to in `x` [B, S, key width]: [B, Q, H], heads side by side. `bias`
    /// [B, S] is added to every score of a key; `mask` drops probabilities, laid out as [B, heads, Q, S].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, from: &Tensor, x: &Tensor, bias: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        let (batch, queries, _) = from.dims3()?;
        let keys = x.dim(1)?;
        if x.dims() != [batch, keys, self.key.size.inputs] || bias.dims() != [batch, keys] {
            let (x, bias) = (x.dims(), bias.dims());
            let problem = format!("attention of {:?} to {x:?} with a bias {bias:?}", from.dims());
            return Err(Error::msg(problem));
        }
        if self.kernels != Kernels::Fused {
            return self.plain(from, x, bias, mask);
        }
        let shape = self.query.output_shape(from)?;
        let (query, key) = (self.query.size, self.key.size);
        let bias = bias.flatten_all()?.to_vec1()?;
        let mask = mask.map(|mask| mask.over(batch * self.heads * queries * keys));
        // What reads one tensor is one product, and that tensor's gradient is computed in one piece.
        let same = from.id() == x.id();
        let sizes = Sizes { batch, queries, keys, query, key, heads: self.heads, same };
        let mut inputs = vec![x];
        for Linear { weight, bias, .. } in [&self.key, &self.value, &self.query] {
            inputs.extend([weight, bias]);
        }
        if !same {
            inputs.push(from);
        }
        fused::apply(Fused { sizes, bias, mask }, &inputs, &shape)
    }

    fn plain(&self, from: &Tensor, x: &Tensor, bias: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        let (batch, queries, _) = from.dims3()?;
        let (heads, keys, hidden) = (self.heads, x.dim(1)?, self.query.size.outputs);
        let size = hidden / heads;
        let split =
            |x: Tensor, len: usize| x.reshape((batch, len, heads, size))?.transpose(1, 2)?.contiguous();
        let q = split(self.query.forward(from)?, queries)?;
        let (k, v) = (split(self.key.forward(x)?, keys)?, split(self.value.forward(x)?, keys)?);
        let keys_t = k.transpose(D::Minus2, D::Minus1)?.contiguous()?;
        let scores = (self.kernels.product(&q, &keys_t)? / (size as f64).sqrt())?;
        let scores = scores.broadcast_add(&bias.reshape((batch, 1, 1, keys))?)?;
        let probabilities = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let probabilities = self.kernels.dropout(&probabilities, mask)?;
        self.kernels.product(&probabilities, &v)?.transpose(1, 2)?.reshape((batch, queries, hidden))
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    /// Of the projection to queries.
    query: Size,
    /// Of the projections to keys and to values.
    key: Size,
    heads: usize,
    /// Whether queries, keys and values come from one tensor.
    same: bool,
}

impl Sizes {
    /// The projections of one tensor, side by side: keys, values and, of a sequence that attends to itself, queries.
    fn packed_size(&self) -> Size {
        Size { inputs: self.key.inputs, outputs: self.key.outputs * if self.same { 3 } else { 2 } }
    }
}

/// Inputs: x, then weight and bias of key, value and query, then `from` if it is another tensor than x.
struct Fused {
    sizes: Sizes,
    bias: Vec<f32>,
    mask: Option<Mask>,
}

struct Saved {
    /// [B, S, 2 or 3 H], see [`Sizes::packed_size`].
    packed_values: Vec<f32>,
    /// Queries of a tensor of their own; empty if there is none.
    queries: Vec<f32>,
    /// Before dropout, [B, heads, Q, S].
    probabilities: Vec<f32>,
}

impl Kernel for Fused {
    type Saved = Saved;

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, Saved) {
        let Sizes { batch, queries: rows, keys, query, heads, .. } = self.sizes;
        let (packed, hidden) = (self.sizes.packed_size(), query.outputs);
        let join = |first: usize| -> Vec<f32> {
            let parts = (0..packed.outputs / hidden).flat_map(|part| inputs[first + 2 * part]);
            parts.copied().collect()
        };
        let packed_values = packed.forward(inputs[0], &join(1), &join(2));
        let queries = inputs.get(7).map(|from| query.forward(from, inputs[5], inputs[6])).unwrap_or_default();
        let (of_one, all) = (heads * rows * keys, batch * heads * rows * keys);
        let mut probabilities = vec![0f32; all];
        let mut context = vec![0f32; batch * rows * hidden];
        parallel::zip(
            &mut probabilities,
            of_one,
            &mut context,
            rows * hidden,
            |b, probabilities, context| {
                let bias = &self.bias[b * keys..(b + 1) * keys];
                let (mut dropped, worth) = (Vec::new(), self.worth_sharing());
                for head in 0..heads {
                    let [q, k, v] = self.head(b, head, &packed_values, &queries);
                    let p = &mut probabilities[head * rows * keys..(head + 1) * rows * keys];
                    product_from(worth, p, keys, q, k.t(), self.scale(), false);
                    softmax(p, bias);
                    let p = self.dropped(p, b * heads + head, &mut dropped);
                    let p = Matrix::new(p, rows, keys, keys);
                    product_from(worth, &mut context[head * v.columns..], hidden, p, v, 1.0, false);
                }
            },
        );
        (context, Saved { packed_values, queries, probabilities })
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: &Saved,
        grad: &[f32],
        needs_grad: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let Sizes { batch, keys, query, key, .. } = self.sizes;
        let (packed, hidden) = (self.sizes.packed_size(), query.outputs);
        let mut grad_packed = vec![0f32; saved.packed_values.len()];
        let mut grad_queries = vec![0f32; saved.queries.len()];
        let piece = keys * packed.outputs;
        if self.sizes.same {
            parallel::pieces(&mut grad_packed, piece, |b, packed_values| {
                self.backward_of_one(b, saved, grad, packed_values, &mut []);
            });
        } else {
            let rows = grad_queries.len() / batch.max(1);
            parallel::zip(&mut grad_queries, rows, &mut grad_packed, piece, |b, queries, packed_values| {
                self.backward_of_one(b, saved, grad, packed_values, queries);
            });
        }
        let x = inputs[0];
        let part = |at: usize| Matrix::new(&grad_packed[at * hidden..], batch * keys, hidden, packed.outputs);
        let mut gradients = vec![needs_grad[0].then(|| {
            let mut grad_x = vec![0f32; x.len()];
            key.input_gradient(&mut grad_x, part(0), inputs[1], false);
            key.input_gradient(&mut grad_x, part(1), inputs[3], true);
            if self.sizes.same {
                query.input_gradient(&mut grad_x, part(2), inputs[5], true);
            }
            grad_x
        })];
        let parts = packed.outputs / hidden;
        let any_needs_grad = (0..parts).any(|at| needs_grad[1 + 2 * at]);
        let weights = any_needs_grad.then(|| packed.weight_gradient(packed.rows(&grad_packed), x));
        for at in 0..parts {
            let weights = weights.as_ref().filter(|_| needs_grad[1 + 2 * at]);
            let len = hidden * packed.inputs;
            gradients.push(weights.map(|weights| weights[at * len..(at + 1) * len].to_vec()));
            gradients.push(needs_grad[2 + 2 * at].then(|| bias_gradient(part(at))));
        }
        if let Some(from) = inputs.get(7) {
            let grad = query.rows(&grad_queries);
            gradients.push(needs_grad[5].then(|| query.weight_gradient(grad, from)));
            gradients.push(needs_grad[6].then(|| bias_gradient(grad)));
            gradients.push(needs_grad[7].then(|| {
                let mut grad_from = vec![0f32; from.len()];
                query.input_gradient(&mut grad_from, grad, inputs[5], false);
                grad_from
            }));
        }
        gradients
    }
}

impl Fused {
    /// What scores are multiplied by.
    fn scale(&self) -> f32 {
        1.0 / ((self.sizes.query.outputs / self.sizes.heads) as f32).sqrt()
    }

    /// Multiplications from which on threads share a product of a head: never where they share out the pictures.
    fn worth_sharing(&self) -> usize {
        if self.sizes.batch > 1 { usize::MAX } else { WORTH_SHARING }
    }

    /// Queries, keys and values of a head for picture `b`.
    fn head<'a>(
        &self,
        b: usize,
        head: usize,
        packed_values: &'a [f32],
        queries: &'a [f32],
    ) -> [Matrix<'a>; 3] {
        let Sizes { queries: rows, keys, query, heads, same, .. } = self.sizes;
        let (hidden, width) = (query.outputs, self.sizes.packed_size().outputs);
        let size = hidden / heads;
        let part = |at: usize| {
            Matrix::new(&packed_values[b * keys * width + at * hidden + head * size..], keys, size, width)
        };
        let q = if same {
            part(2)
        } else {
            Matrix::new(&queries[b * rows * hidden + head * size..], rows, size, hidden)
        };
        [q, part(0), part(1)]
    }

    /// The gradients of picture `b`'s projections, given that of the output of all pictures.
    fn backward_of_one(
        &self,
        b: usize,
        saved: &Saved,
        grad: &[f32],
        grad_packed: &mut [f32],
        grad_queries: &mut [f32],
    ) {
        let Sizes { queries: rows, keys, query, heads, same, .. } = self.sizes;
        let (hidden, width, scale) = (query.outputs, self.sizes.packed_size().outputs, self.scale());
        let (mut dropped, mut grad_p) = (Vec::new(), vec![0f32; rows * keys]);
        let worth = self.worth_sharing();
        for head in 0..heads {
            let [q, k, v] = self.head(b, head, &saved.packed_values, &saved.queries);
            let (size, index) = (v.columns, b * heads + head);
            let grad = Matrix::new(&grad[b * rows * hidden + head * size..], rows, size, hidden);
            let p = &saved.probabilities[index * rows * keys..(index + 1) * rows * keys];
            let after = Matrix::new(self.dropped(p, index, &mut dropped), rows, keys, keys);
            product_from(worth, &mut grad_packed[hidden + head * size..], width, after.t(), grad, 1.0, false);
            product_from(worth, &mut grad_p, keys, grad, v.t(), 1.0, false);
            if let Some(mask) = &self.mask {
                super::dropout::scale(mask, index * rows * keys, &mut grad_p);
            }
            softmax_backward(&mut grad_p, p, keys);
            let grad_p = Matrix::new(&grad_p, rows, keys, keys);
            product_from(worth, &mut grad_packed[head * size..], width, grad_p.t(), q, scale, false);
            let (grad_q, stride) = if same {
                (&mut grad_packed[2 * hidden + head * size..], width)
            } else {
                (&mut grad_queries[head * size..], hidden)
            };
            product_from(worth, grad_q, stride, grad_p, k, scale, false);
        }
    }

    /// The probabilities of head `index` (counted over the batch) after dropout, in `buffer` if they change.
    fn dropped<'a>(&self, p: &'a [f32], index: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(mask) = &self.mask else { return p };
        buffer.clear();
        buffer.extend_from_slice(p);
        super::dropout::scale(mask, index * p.len(), buffer);
        buffer
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
