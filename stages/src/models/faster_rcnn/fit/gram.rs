//! Sums of products of columns in double precision: what a least-squares fit needs of its data. It knows no fit.
//!
//! A sum runs over the rows in order, one product and one addition after the other, each rounded. Vectors lie across the columns
//! of the result, threads share its rows. So the bits depend neither on the instruction set nor on the number of threads. There is
//! no fused multiply-add: CPUs without it would have to imitate it, slowly, for the same bits.

use rayon::prelude::*;

use crate::nn::cpu::per_instruction_set;

/// Columns of a panel: a vector register of AVX-512, two of AVX2.
const LANES: usize = 8;
/// Rows of a tile's half: its sums fill half of the registers of AVX2.
const HALF: usize = LANES / 2;
/// Rows that are added to a tile at once: two panels of that height fit into a core's first-level cache.
const DEPTH: usize = 128;
/// Parts that the result's rows are shared in, at least, where there are as many panels.
const PARTS: usize = 24;

type Vector = [f64; LANES];

/// Columns in panels of [`LANES`]: a panel has a vector for each row, and zeros where there are no columns left.
pub(super) struct Panels {
    rows: usize,
    columns: usize,
    vectors: Vec<Vector>,
}

impl Panels {
    /// `(value − shift of the column) · scale of the row` of row-major `values`.
    pub(super) fn new(values: &[f32], shift: &[f64], scale: &[f64]) -> Self {
        let (rows, columns) = (scale.len(), shift.len());
        let mut vectors = vec![[0.0; LANES]; rows * columns.div_ceil(LANES)];
        let panels = vectors.par_chunks_exact_mut(rows.max(1)).zip(shift.par_chunks(LANES)).enumerate();
        panels.for_each(|(number, (panel, shift))| {
            let rows = panel.iter_mut().zip(values.chunks_exact(columns)).zip(scale);
            for ((vector, values), scale) in rows {
                let values = &values[number * LANES..][..shift.len()];
                for ((to, value), shift) in vector.iter_mut().zip(values).zip(shift) {
                    *to = (f64::from(*value) - shift) * scale;
                }
            }
        });
        Self { rows, columns, vectors }
    }

    /// The sum over all rows of each column of `self` times each column of `other`, row-major `[columns, other's columns]`.
    pub(super) fn products(&self, other: &Self) -> Vec<f64> {
        self.products_from(other, |_| 0)
    }

    /// The same with itself: all of a symmetric matrix.
    pub(super) fn gram(&self) -> Vec<f64> {
        let mut gram = self.products_from(self, |panel| panel);
        for row in 1..self.columns {
            for column in 0..row {
                gram[row * self.columns + column] = gram[column * self.columns + row];
            }
        }
        gram
    }

    /// The products of each panel with the other's panels from `first(panel)` on; the others stay 0.
    fn products_from(&self, other: &Self, first: impl Fn(usize) -> usize + Sync) -> Vec<f64> {
        assert_eq!(self.rows, other.rows, "the columns of a product differ in length");
        let width = other.columns;
        let mut out = vec![0.0; self.columns * width];
        if out.is_empty() || self.rows == 0 {
            return out;
        }
        let part = self.columns.div_ceil(LANES).div_ceil(PARTS);
        let parts = out.par_chunks_mut(part * LANES * width).zip(self.vectors.par_chunks(part * self.rows));
        parts.enumerate().for_each(|(number, (out, panels))| {
            for start in (0..self.rows).step_by(DEPTH) {
                let depth = DEPTH.min(self.rows - start);
                let lefts = panels.chunks_exact(self.rows).zip(out.chunks_mut(LANES * width)).enumerate();
                for (panel, (left, out)) in lefts {
                    let left = &left[start..][..depth];
                    let rights = other.vectors.chunks_exact(self.rows).enumerate();
                    for (right_panel, right) in rights.skip(first(number * part + panel)) {
                        add_products(out, width, right_panel * LANES, left, &right[start..][..depth]);
                    }
                }
            }
        });
        out
    }
}

per_instruction_set! {
    /// Adds the products of two panels, row after row, to a tile of `out`, whose rows are `width` long, from `column` on. Rows and
    /// columns that `out` does not have are left out.
    fn add_products(out: &mut [f64], width: usize, column: usize, left: &[Vector], right: &[Vector]) {
        let columns = LANES.min(width - column);
        for (half, out) in out.chunks_mut(HALF * width).enumerate() {
            let mut tile = [[0f64; LANES]; HALF];
            for (sums, out) in tile.iter_mut().zip(out.chunks_exact(width)) {
                sums[..columns].copy_from_slice(&out[column..][..columns]);
            }
            for (left, right) in left.iter().zip(right) {
                let left = &left.as_chunks::<HALF>().0[half];
                for (sums, left) in tile.iter_mut().zip(left) {
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum += left * right;
                    }
                }
            }
            for (sums, out) in tile.iter().zip(out.chunks_exact_mut(width)) {
                out[column..][..columns].copy_from_slice(&sums[..columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_row_after_row_whatever_the_threads() {
        // Sizes on both sides of a panel, a part and a depth.
        for (rows, columns, others) in [(1, 1, 1), (127, 7, 9), (300, 24, 1), (129, 203, 17)] {
            let values = |count: usize, step: usize| {
                (0..count).map(|i| ((i * step % 1009) as f32 - 500.0) / 7.0).collect::<Vec<f32>>()
            };
            let (x, y) = (values(rows * columns, 37), values(rows * others, 101));
            let (shift, scale) =
                (vec![0.3; columns], (0..rows).map(|row| 0.1 + row as f64).collect::<Vec<_>>());
            let value = |x: &[f32], columns: usize, row: usize, column: usize, shift: f64| {
                (f64::from(x[row * columns + column]) - shift) * scale[row]
            };
            let expected = |y: &[f32], others: usize, other_shift: f64| {
                let mut sums = Vec::new();
                for (i, j) in (0..columns).flat_map(|i| (0..others).map(move |j| (i, j))) {
                    let products = (0..rows)
                        .map(|row| value(&x, columns, row, i, 0.3) * value(y, others, row, j, other_shift));
                    sums.push(products.fold(0.0, |sum, product| sum + product));
                }
                sums
            };
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let x = Panels::new(&x, &shift, &scale);
                    let y = Panels::new(&y, &vec![0.0; others], &scale);
                    (x.gram(), x.products(&y))
                })
            };
            let one = run(1);
            assert!(
                one == (expected(&x, columns, 0.3), expected(&y, others, 0.0)),
                "{rows} {columns} {others}"
            );
            assert!(one == run(3));
        }
    }
}
