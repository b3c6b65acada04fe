//! Multi-head attention: the projections to queries, keys and values, and what is attended to. Who asks and what is
//! attended to may be one sequence or two, of one width or two.

use candle_core::{D, Error, Result, Tensor};
use multiversion::multiversion;

use super::dropout::Mask;
use super::fused::math::{exp, sum};
use super::fused::product::{Matrix, product};
use super::fused::{self, Kernel, parallel};
use super::linear::Size;
use super::{Kernels, Linear, Params};

/// softmax(q kᵀ / √d + bias), dropped out, times v, for each head.
#[derive(Debug, Clone)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    kernels: Kernels,
}

/// Widths of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Of what asks.
    pub asking: usize,
    /// Of what is attended to.
    pub attended: usize,
    /// Of all heads together, and so of the result.
    pub heads: usize,
}

impl Widths {
    /// A sequence of this width that attends to itself.
    pub fn all(width: usize) -> Self {
        Self { asking: width, attended: width, heads: width }
    }
}

impl Attention {
    /// The layer of the parameters `names`: queries of what asks, keys and values of what is attended to.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn load(
        params: &Params,
        [query, key, value]: [&str; 3],
        widths: Widths,
        heads: usize,
    ) -> Result<Self> {
        Ok(Self {
            query: Linear::load(params, query, widths.asking, widths.heads)?,
            key: Linear::load(params, key, widths.attended, widths.heads)?,
            value: Linear::load(params, value, widths.attended, widths.heads)?,
            heads,
            kernels: params.kernels(),
        })
    }

    /// What each of `wanted` [B, Q, asking] finds in `x` [B, S, attended]: [B, Q, H], heads side by side. `bias`
    /// [B, S] is added to every score of a key; `mask` drops probabilities, laid out as [B, heads, Q, S].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, wanted: &Tensor, x: &Tensor, bias: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        let (batch, queries, _) = wanted.dims3()?;
        let keys = x.dim(1)?;
        if x.dims() != [batch, keys, self.key.size.inputs] || bias.dims() != [batch, keys] {
            let (x, bias) = (x.dims(), bias.dims());
            let problem = format!("attention of {:?} to {x:?} with a bias {bias:?}", wanted.dims());
            return Err(Error::msg(problem));
        }
        if self.kernels != Kernels::Fused {
            return self.plain(wanted, x, bias, mask);
        }
        let shape = self.query.output_shape(wanted)?;
        let (query, key) = (self.query.size, self.key.size);
        let sizes = Sizes { batch, queries, keys, query, key, heads: self.heads };
        let bias = bias.flatten_all()?.to_vec1()?;
        let mask = mask.map(|mask| mask.over(batch * self.heads * queries * keys));
        // Where both are one tensor its gradient is computed in one piece.
        let same = wanted.id() == x.id();
        let mut inputs = vec![x];
        for Linear { weight, bias, .. } in [&self.query, &self.key, &self.value] {
            inputs.extend([weight, bias]);
        }
        if !same {
            inputs.push(wanted);
        }
        fused::apply(Fused { sizes, bias, mask }, &inputs, &shape)
    }

    fn plain(&self, wanted: &Tensor, x: &Tensor, bias: &Tensor, mask: Option<Mask>) -> Result<Tensor> {
        let (batch, queries, _) = wanted.dims3()?;
        let (heads, keys, hidden) = (self.heads, x.dim(1)?, self.query.size.outputs);
        let size = hidden / heads;
        let split =
            |x: Tensor, len: usize| x.reshape((batch, len, heads, size))?.transpose(1, 2)?.contiguous();
        let q = split(self.query.forward(wanted)?, queries)?;
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
}

/// Inputs: x, then weight and bias of query, key and value, then `wanted` if it is another tensor than x.
struct Fused {
    sizes: Sizes,
    bias: Vec<f32>,
    mask: Option<Mask>,
}

struct Saved {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Before dropout, [B, heads, Q, S].
    probabilities: Vec<f32>,
}

impl Kernel for Fused {
    type Saved = Saved;

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, Saved) {
        let Sizes { batch, queries, keys, query, key, heads } = self.sizes;
        let (x, hidden) = (inputs[0], query.outputs);
        let q = query.forward(inputs.get(7).unwrap_or(&x), inputs[1], inputs[2]);
        let (k, v) = (key.forward(x, inputs[3], inputs[4]), key.forward(x, inputs[5], inputs[6]));
        let size = hidden / heads;
        let scale = 1.0 / (size as f32).sqrt();
        let (of_one, all) = (heads * queries * keys, batch * heads * queries * keys);
        let mut probabilities = vec![0f32; all];
        let mut context = vec![0f32; batch * queries * hidden];
        parallel::zip(
            &mut probabilities,
            of_one,
            &mut context,
            queries * hidden,
            |b, probabilities, context| {
                let bias = &self.bias[b * keys..(b + 1) * keys];
                let mut dropped = Vec::new();
                for head in 0..heads {
                    let [q, k, v] = [(&q, queries), (&k, keys), (&v, keys)].map(|(x, rows)| {
                        Matrix::new(&x[b * rows * hidden + head * size..], rows, size, hidden)
                    });
                    let p = &mut probabilities[head * queries * keys..(head + 1) * queries * keys];
                    product(p, keys, q, k.t(), scale, false);
                    softmax(p, bias);
                    let p = self.dropped(p, b * heads + head, &mut dropped);
                    let p = Matrix::new(p, queries, keys, keys);
                    product(&mut context[head * size..], hidden, p, v, 1.0, false);
                }
            },
        );
        (context, Saved { q, k, v, probabilities })
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: &Saved,
        grad: &[f32],
        wanted: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let Sizes { queries, keys, query, key, heads, .. } = self.sizes;
        let hidden = query.outputs;
        let Saved { q, k, v, probabilities } = saved;
        let size = hidden / heads;
        let scale = 1.0 / (size as f32).sqrt();
        let mut grad_q = vec![0f32; q.len()];
        // Keys and values side by side, so that one picture's gradients are one piece of memory.
        let mut grad_kv = vec![0f32; 2 * k.len()];
        parallel::zip(
            &mut grad_q,
            queries * hidden,
            &mut grad_kv,
            2 * keys * hidden,
            |b, grad_q, grad_kv| {
                let (grad_k, grad_v) = grad_kv.split_at_mut(keys * hidden);
                let (mut dropped, mut grad_p) = (Vec::new(), vec![0f32; queries * keys]);
                for head in 0..heads {
                    let [q, k, v, grad] =
                        [(&q[..], queries), (&k[..], keys), (&v[..], keys), (grad, queries)].map(
                            |(x, rows)| {
                                Matrix::new(&x[b * rows * hidden + head * size..], rows, size, hidden)
                            },
                        );
                    let index = b * heads + head;
                    let p = &probabilities[index * queries * keys..(index + 1) * queries * keys];
                    let after = Matrix::new(self.dropped(p, index, &mut dropped), queries, keys, keys);
                    product(&mut grad_v[head * size..], hidden, after.t(), grad, 1.0, false);
                    product(&mut grad_p, keys, grad, v.t(), 1.0, false);
                    if let Some(mask) = &self.mask {
                        super::dropout::scale(mask, index * queries * keys, &mut grad_p);
                    }
                    softmax_backward(&mut grad_p, p, keys);
                    let grad_p = Matrix::new(&grad_p, queries, keys, keys);
                    product(&mut grad_q[head * size..], hidden, grad_p, k, scale, false);
                    product(&mut grad_k[head * size..], hidden, grad_p.t(), q, scale, false);
                }
            },
        );
        let (grad_k, grad_v) = self.untangle(&grad_kv);
        let x = inputs[0];
        let queried = inputs.get(7).unwrap_or(&x);
        let parameters = [(query, &grad_q, *queried), (key, &grad_k, x), (key, &grad_v, x)];
        let mut gradients = vec![wanted[0].then(|| {
            let mut grad_x = vec![0f32; x.len()];
            key.input_gradient(&mut grad_x, &grad_k, inputs[3], false);
            key.input_gradient(&mut grad_x, &grad_v, inputs[5], true);
            if inputs.len() == 7 {
                query.input_gradient(&mut grad_x, &grad_q, inputs[1], true);
            }
            grad_x
        })];
        for (index, (linear, grad, x)) in parameters.into_iter().enumerate() {
            gradients.push(wanted[1 + 2 * index].then(|| linear.weight_gradient(grad, x)));
            gradients.push(wanted[2 + 2 * index].then(|| linear.bias_gradient(grad)));
        }
        if let Some(wanted) = wanted.get(7) {
            gradients.push(wanted.then(|| {
                let mut grad_queried = vec![0f32; queried.len()];
                query.input_gradient(&mut grad_queried, &grad_q, inputs[1], false);
                grad_queried
            }));
        }
        gradients
    }
}

impl Fused {
    /// The probabilities of head `index` (counted over the batch) after dropout, in `buffer` if they change.
    fn dropped<'a>(&self, p: &'a [f32], index: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let Some(mask) = &self.mask else { return p };
        buffer.clear();
        buffer.extend_from_slice(p);
        super::dropout::scale(mask, index * p.len(), buffer);
        buffer
    }

    /// Gradients of keys and values, each [B, S, H], from the two side by side for each picture.
    fn untangle(&self, both: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let len = self.sizes.keys * self.sizes.key.outputs;
        let (mut k, mut v) = (Vec::with_capacity(both.len() / 2), Vec::with_capacity(both.len() / 2));
        for both in both.chunks_exact(2 * len) {
            k.extend_from_slice(&both[..len]);
            v.extend_from_slice(&both[len..]);
        }
        (k, v)
    }
}

/// Rows of `p` ← softmax(`p` + `bias`).
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn softmax(p: &mut [f32], bias: &[f32]) {
    for p in p.chunks_exact_mut(bias.len()) {
        let mut largest = f32::NEG_INFINITY;
        for (p, bias) in p.iter_mut().zip(bias) {
            *p += bias;
            largest = if *p > largest { *p } else { largest };
        }
        for p in p.iter_mut() {
            *p = exp(*p - largest);
        }
        let scale = 1.0 / sum(p);
        for p in p.iter_mut() {
            *p *= scale;
        }
    }
}

/// With the probabilities p: `grad` ← p (`grad` − Σ `grad`·p), row by row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn softmax_backward(grad: &mut [f32], p: &[f32], keys: usize) {
    for (grad, p) in grad.chunks_exact_mut(keys).zip(p.chunks_exact(keys)) {
        let along = super::fused::math::dot(grad, p);
        for (grad, p) in grad.iter_mut().zip(p) {
            *grad = p * (*grad - along);
        }
    }
}
