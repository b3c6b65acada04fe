//! Attention.

use super::*;
use crate::nn::backend::{AttentionShape, Columns, Projections};

/// The masked key of a row: its scores are this far below the others.
const MASKED: f32 = -10_000.0;

/// Where queries, keys and values are: in one matrix, or queries in one of their own.
struct Memory {
    together: Vec<f32>,
    query: Option<Vec<f32>>,
    columns: usize,
}

impl Memory {
    fn new(draw: &mut Draw, shape: &AttentionShape, is_together: bool) -> Self {
        let columns = shape.heads * shape.width;
        let layers = if is_together { 3 } else { 2 };
        // So that the probabilities differ.
        let mut values = |count| draw.values(count).iter().map(|x| 2.0 * x).collect();
        let together = values(shape.batch * shape.keys * layers * columns);
        let query = (!is_together).then(|| values(shape.batch * shape.queries * columns));
        Self { together, query, columns }
    }

    fn projections<V: Copy>(&self, together: V, query: Option<V>) -> Projections<V> {
        let columns = self.columns;
        let stride = if query.is_some() { 2 * columns } else { 3 * columns };
        let part = |place: usize| Columns { values: together, first: place * columns, stride };
        let query = query.map_or(part(2), |values| Columns { values, first: 0, stride: columns });
        Projections { query, key: part(0), value: part(1) }
    }
}

/// The element of head `h` of a row.
fn at(of: &Columns<&[f32]>, row: usize, place: usize) -> f64 {
    f64::from(of.values[row * of.stride + of.first + place])
}

/// The results, and the gradients of queries, keys and values, given that of the results.
struct Expected {
    result: Vec<f64>,
    gradients: [Vec<f64>; 3],
}

fn expected(
    shape: &AttentionShape,
    of: &Projections<&[f32]>,
    bias: &[f32],
    mask: Option<Mask>,
    grad: &[f32],
) -> Expected {
    let AttentionShape { batch, heads, width, queries, keys, .. } = *shape;
    let columns = heads * width;
    let scale = 1.0 / (width as f64).sqrt();
    let factors = factors(mask, batch * heads * queries * keys);
    let mut result = vec![0.0; batch * queries * columns];
    let [mut dq, mut dk, mut dv] = [queries, keys, keys].map(|rows| vec![0.0; batch * rows * columns]);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..queries {
                let (q_row, first) = (b * queries + i, h * width);
                let dot = |j: usize| {
                    (0..width)
                        .map(|c| at(&of.query, q_row, first + c) * at(&of.key, b * keys + j, first + c))
                        .sum::<f64>()
                };
                let scores: Vec<f64> =
                    (0..keys).map(|j| dot(j) * scale + f64::from(bias[b * keys + j])).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| libm::exp(score - most)).sum();
                let p: Vec<f64> = scores.iter().map(|score| libm::exp(score - most) / total).collect();
                let factor = |j: usize| factors[((b * heads + h) * queries + i) * keys + j];
                let grad = |c: usize| f64::from(grad[q_row * columns + first + c]);
                let mut dp = vec![0.0; keys];
                for j in 0..keys {
                    for c in 0..width {
                        let v = at(&of.value, b * keys + j, first + c);
                        result[q_row * columns + first + c] += p[j] * factor(j) * v;
                        dv[(b * keys + j) * columns + first + c] += p[j] * factor(j) * grad(c);
                        dp[j] += grad(c) * v * factor(j);
                    }
                }
                let along: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for j in 0..keys {
                    let ds = p[j] * (dp[j] - along) * scale;
                    for c in 0..width {
                        dq[q_row * columns + first + c] += ds * at(&of.key, b * keys + j, first + c);
                        dk[(b * keys + j) * columns + first + c] += ds * at(&of.query, q_row, first + c);
                    }
                }
            }
        }
    }
    Expected { result, gradients: [dq, dk, dv] }
}

/// Columns `place` of a matrix of `layers` side by side.
fn columns(matrix: &[f32], columns: usize, layers: usize, place: usize) -> Vec<f32> {
    matrix.chunks(layers * columns).flat_map(|row| &row[place * columns..][..columns]).copied().collect()
}

/// A shape with padding.
pub fn shape(
    batch: usize,
    heads: usize,
    width: usize,
    queries: usize,
    keys: usize,
) -> AttentionShape<'static> {
    AttentionShape { batch, heads, width, queries, keys, packed_queries: None, packed_keys: None }
}

#[test]
fn attention_and_its_gradients_follow_their_definition() {
    let mut draw = Draw(1);
    let shapes = [
        (shape(2, 3, 4, 5, 5), true),
        (shape(1, 2, 6, 3, 7), false),
        (shape(1, 2, 12, 70, 70), true),
        (shape(2, 1, 20, 1, 33), false),
        (shape(1, 2, 64, 9, 66), false),
        (shape(2, 1, 68, 37, 37), true),
    ];
    for has_tf32 in [true, false] {
        let gpu = Gpu::new(driver(has_tf32), Precision::F32, true).unwrap();
        for ((shape, is_together), mask) in
            shapes.into_iter().zip([None, Some(mask(0)), Some(mask(9))].into_iter().cycle())
        {
            let AttentionShape { batch, queries, keys, .. } = shape;
            let memory = Memory::new(&mut draw, &shape, is_together);
            let mut bias = draw.values(batch * keys);
            // The first row of the batch is full, the last is padded.
            bias[batch * keys - keys / 3..].fill(MASKED);
            let grad = draw.values(batch * queries * memory.columns);
            let of = memory.projections(&memory.together[..], memory.query.as_deref());
            let expected = expected(&shape, &of, &bias, mask, &grad);

            let together = upload(&gpu, &memory.together);
            let query = memory.query.as_deref().map(|query| upload(&gpu, query));
            let of = memory.projections(together.view(), query.as_ref().map(Buffer::view));
            let (held_bias, held_grad) = (upload(&gpu, &bias), upload(&gpu, &grad));
            let what = format!("{shape:?}, TF32 {has_tf32}, mask {}", mask.is_some());
            let (result, none) = gpu.attend(shape, &of, held_bias.view(), mask, false).unwrap();
            assert!(none.is_none());
            assert_close(&what, &gpu.values(&result).unwrap(), &expected.result, 3e-6);
            let (result, attended) = gpu.attend(shape, &of, held_bias.view(), mask, true).unwrap();
            assert_close(&what, &gpu.values(&result).unwrap(), &expected.result, 3e-6);
            let found = gpu
                .attend_backward(
                    shape,
                    &of,
                    held_bias.view(),
                    mask,
                    &attended.unwrap(),
                    result.view(),
                    held_grad.view(),
                    is_together,
                )
                .unwrap();
            let [dq, dk, dv] = &expected.gradients;
            let all = gpu.values(&found.together).unwrap();
            let layers = if is_together { 3 } else { 2 };
            let part = |place| columns(&all, memory.columns, layers, place);
            assert_close(&format!("keys: {what}"), &part(0), dk, 5e-6);
            assert_close(&format!("values: {what}"), &part(1), dv, 5e-6);
            assert_eq!(found.query.is_some(), !is_together);
            let queries = found.query.map_or_else(|| part(2), |query| gpu.values(&query).unwrap());
            assert_close(&format!("queries: {what}"), &queries, dq, 5e-6);
        }
    }
}

#[test]
fn heads_that_the_kernels_cannot_take_are_refused() {
    let gpu = gpu();
    let values = gpu.zeros(3 * 132).unwrap();
    let part = |first| Columns { values: values.view(), first, stride: 3 * 132 };
    let of = Projections { query: part(0), key: part(132), value: part(264) };
    let bias = gpu.zeros(1).unwrap();
    let shape = shape(1, 1, 132, 1, 1);
    let error = gpu.attend(shape, &of, bias.view(), None, false).unwrap_err().to_string();
    assert!(error.contains("132"), "{error}");
}
