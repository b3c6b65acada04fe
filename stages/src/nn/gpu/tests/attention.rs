//! Attention.

use super::*;
use crate::nn::backend::{AttentionShape, Columns, Projections};
use crate::nn::cpu::Cpu;
use crate::nn::packing::Packing;

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
        let together = values(rows(shape.packed_keys, shape.batch, shape.keys) * layers * columns);
        let query =
            (!is_together).then(|| values(rows(shape.packed_queries, shape.batch, shape.queries) * columns));
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

/// Rows of `batch` sequences of `length` positions.
fn rows(packing: Option<&Packing>, batch: usize, length: usize) -> usize {
    packing.map_or(batch * length, Packing::rows)
}

/// The rows of sequence `b`, each with its position.
fn of_sequence(packing: Option<&Packing>, b: usize, length: usize) -> Vec<(usize, usize)> {
    let position = |row: usize| packing.map_or(row, |packing| packing.place(row)) - b * length;
    packing
        .map_or(b * length..(b + 1) * length, |packing| packing.sequence(b))
        .map(|row| (row, position(row)))
        .collect()
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
    bias: Option<&[f32]>,
    mask: Option<Mask>,
    grad: &[f32],
) -> Expected {
    let AttentionShape { batch, heads, width, queries, keys, packed_queries, packed_keys } = *shape;
    let columns = heads * width;
    let scale = 1.0 / (width as f64).sqrt();
    let factors = factors(mask, batch * heads * queries * keys);
    let (q_rows, k_rows) = (rows(packed_queries, batch, queries), rows(packed_keys, batch, keys));
    let [mut result, mut dq, mut dk, mut dv] =
        [q_rows, q_rows, k_rows, k_rows].map(|rows| vec![0.0; rows * columns]);
    for b in 0..batch {
        let of_keys = of_sequence(packed_keys, b, keys);
        for h in 0..heads {
            for (q_row, i) in of_sequence(packed_queries, b, queries) {
                let first = h * width;
                let score = |&(row, j): &(usize, usize)| {
                    let dot =
                        (0..width).map(|c| at(&of.query, q_row, first + c) * at(&of.key, row, first + c));
                    dot.sum::<f64>() * scale + bias.map_or(0.0, |bias| f64::from(bias[b * keys + j]))
                };
                let scores: Vec<f64> = of_keys.iter().map(score).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|score| libm::exp(score - most)).sum();
                let p: Vec<f64> = scores.iter().map(|score| libm::exp(score - most) / total).collect();
                let factor = |j: usize| factors[((b * heads + h) * queries + i) * keys + j];
                let grad = |c: usize| f64::from(grad[q_row * columns + first + c]);
                let mut dp = vec![0.0; p.len()];
                for ((&(row, j), p), dp) in of_keys.iter().zip(&p).zip(&mut dp) {
                    for c in 0..width {
                        let v = at(&of.value, row, first + c);
                        result[q_row * columns + first + c] += p * factor(j) * v;
                        dv[row * columns + first + c] += p * factor(j) * grad(c);
                        *dp += grad(c) * v * factor(j);
                    }
                }
                let along: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for ((&(row, _), p), dp) in of_keys.iter().zip(&p).zip(&dp) {
                    let ds = p * (dp - along) * scale;
                    for c in 0..width {
                        dq[q_row * columns + first + c] += ds * at(&of.key, row, first + c);
                        dk[row * columns + first + c] += ds * at(&of.query, q_row, first + c);
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

/// Sequences of which one is full, one has one position, one has a gap.
pub fn packing(length: usize) -> Packing {
    let there = [&[length][..], &[1], &[length / 2, length / 3, 1]];
    let mask = there.iter().flat_map(|runs| {
        let runs = runs.iter().enumerate();
        let there =
            runs.flat_map(|(number, &run)| std::iter::repeat_n(f32::from(u8::from(number % 2 == 0)), run));
        there.chain(std::iter::repeat(0.0)).take(length).collect::<Vec<_>>()
    });
    Packing::new(&mask.collect::<Vec<_>>(), length, &device()).unwrap().unwrap()
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
    let (long, short) = (packing(70), packing(9));
    let packed = |packed_queries, packed_keys, of: AttentionShape<'static>| AttentionShape {
        packed_queries,
        packed_keys,
        ..of
    };
    let shapes = [
        (shape(2, 3, 4, 5, 5), true),
        (shape(1, 2, 6, 3, 7), false),
        (shape(1, 2, 12, 70, 70), true),
        (shape(2, 1, 20, 1, 33), false),
        (shape(1, 2, 64, 9, 66), false),
        (shape(2, 1, 68, 37, 37), true),
        (packed(Some(&long), Some(&long), shape(3, 2, 12, 70, 70)), true),
        (packed(Some(&short), Some(&long), shape(3, 1, 64, 9, 70)), false),
        (packed(Some(&long), None, shape(3, 2, 4, 70, 9)), false),
        (packed(None, Some(&short), shape(3, 1, 68, 1, 9)), false),
        (packed(Some(&short), Some(&short), shape(3, 2, 4, 9, 9)), true),
    ];
    for has_tf32 in [true, false] {
        let gpu = Gpu::new(driver(has_tf32), Precision::F32, true).unwrap();
        for ((shape, is_together), mask) in
            shapes.into_iter().zip([None, Some(mask(0)), Some(mask(9))].into_iter().cycle())
        {
            let AttentionShape { batch, queries, keys, .. } = shape;
            let query_rows = rows(shape.packed_queries, batch, queries);
            let memory = Memory::new(&mut draw, &shape, is_together);
            let mut bias = draw.values(batch * keys);
            // The first row of the batch is full, the last is padded.
            bias[batch * keys - keys / 3..].fill(MASKED);
            let has_bias = shape.packed_keys.is_none();
            let grad = draw.values(query_rows * memory.columns);
            let of = memory.projections(&memory.together[..], memory.query.as_deref());
            let expected = expected(&shape, &of, has_bias.then_some(&bias[..]), mask, &grad);

            let together = upload(&gpu, &memory.together);
            let query = memory.query.as_deref().map(|query| upload(&gpu, query));
            let of = memory.projections(together.view(), query.as_ref().map(Buffer::view));
            let (held_bias, held_grad) = (upload(&gpu, &bias), upload(&gpu, &grad));
            let held_bias = has_bias.then(|| held_bias.view());
            let what = format!("{shape:?}, TF32 {has_tf32}, mask {}", mask.is_some());
            let (result, none) = gpu.attend(shape, &of, held_bias, mask, false).unwrap();
            assert!(none.is_none());
            assert_close(&what, &gpu.values(&result).unwrap(), &expected.result, 3e-6);
            let (result, attended) = gpu.attend(shape, &of, held_bias, mask, true).unwrap();
            assert_close(&what, &gpu.values(&result).unwrap(), &expected.result, 3e-6);
            let found = gpu
                .attend_backward(
                    shape,
                    &of,
                    held_bias,
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
fn without_padding_probabilities_are_dropped_as_on_the_cpu() {
    let (gpu, packing, mask) = (gpu(), packing(40), mask(7));
    let (batch, heads, width, length) = (3, 2, 40, 40);
    let shape = AttentionShape {
        packed_queries: Some(&packing),
        packed_keys: Some(&packing),
        ..shape(batch, heads, width, length, length)
    };
    // Queries and keys are zeros and the values of a sequence the unit matrix: results are probabilities after dropout.
    let columns = heads * width;
    let mut together = vec![0.0; packing.rows() * 3 * columns];
    for b in 0..batch {
        for (place, row) in packing.sequence(b).enumerate() {
            for head in 0..heads {
                together[row * 3 * columns + columns + head * width + place] = 1.0;
            }
        }
    }
    let memory = Memory { together, query: None, columns };
    let of = memory.projections(&memory.together[..], None);
    let (expected, _) =
        Cpu { precision: Precision::F32 }.attend(shape, &of, None, Some(mask), false).unwrap();
    let held = upload(&gpu, &memory.together);
    let (found, _) =
        gpu.attend(shape, &memory.projections(held.view(), None), None, Some(mask), false).unwrap();
    let is_kept = |values: &[f32]| values.iter().map(|value| *value > 0.0).collect::<Vec<_>>();
    let found = is_kept(&gpu.values(&found).unwrap());
    assert!(found == is_kept(&expected));
    for b in 0..batch {
        let rows = of_sequence(Some(&packing), b, length);
        for (row, i) in &rows {
            for head in 0..heads {
                for (place, (_, j)) in rows.iter().enumerate() {
                    let element = ((b * heads + head) * length + i) * length + j;
                    let is_kept = mask.factor(element as u32) > 0.0;
                    assert_eq!(found[row * columns + head * width + place], is_kept, "row {row}, key {j}");
                }
            }
        }
    }
}

#[test]
fn heads_that_the_kernels_cannot_take_are_refused() {
    let gpu = gpu();
    let values = gpu.zeros(3 * 132).unwrap();
    let part = |first| Columns { values: values.view(), first, stride: 3 * 132 };
    let of = Projections { query: part(0), key: part(132), value: part(264) };
    let shape = shape(1, 1, 132, 1, 1);
    let error = gpu.attend(shape, &of, None, None, false).unwrap_err().to_string();
    assert!(error.contains("132"), "{error}");
}
