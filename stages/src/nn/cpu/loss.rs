//! The losses with their gradients, and the softmax of rows.

use super::instruction_set::per_instruction_set;
use super::math::{self, largest};

per_instruction_set! {
    /// Rows of `columns` values ← their softmax; `sums` ← Σ exp(x − max) of each row.
    pub fn softmax_rows(x: &mut [f32], sums: &mut [f32], columns: usize) {
        for (x, total) in x.chunks_exact_mut(columns).zip(sums) {
            *total = math::softmax(x);
        }
    }
}

/// Σ over rows of −ln softmax(row)[label], divided by `total`, and its gradient.
pub fn cross_entropy(logits: &[f32], labels: &[usize], classes: usize, total: usize) -> (f32, Vec<f32>) {
    let mut grad = logits.to_vec();
    let mut sums = vec![0f32; labels.len()];
    softmax_rows(&mut grad, &mut sums, classes);
    let rows = logits.chunks_exact(classes).zip(labels).zip(&sums);
    // −ln p = ln Σ exp(x − max) − (x − max), added up in double precision.
    let loss: f64 = rows
        .map(|((logits, &label), &sum)| {
            f64::from(libm::logf(sum)) - f64::from(logits[label] - largest(logits))
        })
        .sum();
    let share = 1.0 / total as f32;
    for (row, &label) in grad.chunks_exact_mut(classes).zip(labels) {
        row[label] -= 1.0;
        row.iter_mut().for_each(|value| *value *= share);
    }
    ((loss / total as f64) as f32, grad)
}

/// Σ of max(x, 0) − x y + ln(1 + exp(−|x|)) over all logits x and targets y, divided by `count`, and its gradient: in double
/// precision, each rounded once. `keep`: whether the gradient is needed.
pub fn binary_cross_entropy(
    logits: &[f32],
    targets: &[f32],
    count: usize,
    keep: bool,
) -> (f32, Option<Vec<f32>>) {
    let count = count as f64;
    let mut loss = 0.0;
    let mut grad = keep.then(|| Vec::with_capacity(logits.len()));
    for (&x, &y) in logits.iter().zip(targets) {
        let (x, y) = (f64::from(x), f64::from(y));
        // The exponent is not positive, so that no logit overflows.
        let e = libm::exp(-x.abs());
        loss += x.max(0.0) - x * y + libm::log1p(e);
        if let Some(grad) = &mut grad {
            let sigmoid = if x < 0.0 { e } else { 1.0 } / (1.0 + e);
            grad.push(((sigmoid - y) / count) as f32);
        }
    }
    ((loss / count) as f32, grad)
}
