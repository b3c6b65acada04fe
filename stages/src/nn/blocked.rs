//! Products of large matrices on x86-64 CPUs with AVX2 and fused multiply-add, in blocks that fit the caches. The library's
//! kernel for these CPUs reaches 0.6 of what their registers can do, this one 0.75. It uses none of AVX-512's registers: with
//! those the library serves. It knows strides and no layer.
//!
//! The result is cut into parts, one task each. In a part, a block of b (`DEPTH` x `WIDTH`, for the third-level cache) and then
//! blocks of a (`HEIGHT` x `DEPTH`, for the second) are packed into panels as wide as the kernel's tile, which sums 6 x 16
//! values in registers while a panel of b stays in the first-level cache.

use std::arch::x86_64::*;
use std::cell::RefCell;

use rayon::prelude::*;

use super::product::Matrix;

/// Rows of a tile and values of a vector register: a tile of 6 rows of 2 registers takes 12 of the 16 there are.
const ROWS: usize = 6;
const LANES: usize = 8;
/// Columns of a tile.
const COLUMNS: usize = 2 * LANES;
/// Steps of the inner dimension between two additions to the result, at most: its blocks are of equal size but for the last.
const DEPTH: usize = 384;
/// Rows of a packed block of a: 288 KiB.
const HEIGHT: usize = 192;
/// Columns of a packed block of b.
const WIDTH: usize = 1056;
/// Steps of the inner dimension that the loop does in one go.
const UNROLLED: usize = 4;
/// How many rows ahead of the one being packed memory is asked for the next.
const AHEAD: usize = 3;
/// Tasks for each thread, so that one that is held up does not keep the others waiting for long.
const TASKS: usize = 4;
/// Multiplications that a task should have at least, as a power of two: some 20 µs.
const TASK: usize = 20;

/// A line of a panel of b.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; COLUMNS]);

/// The blocks that a thread has packed; kept, since the pages of new memory would be cleared first.
#[derive(Default)]
struct Packed {
    a: Vec<[f32; ROWS]>,
    b: Vec<Line>,
}

thread_local! {
    static PACKED: RefCell<Packed> = RefCell::default();
}

/// The place of a result, of which each task writes rows and columns of its own.
#[derive(Clone, Copy)]
struct Place {
    at: *mut f32,
    stride: usize,
}

// SAFETY: a place is only an address; whoever writes through it vouches for that.
#[allow(unsafe_code)]
unsafe impl Send for Place {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Place {}

impl Place {
    /// The place of element (`row`, `column`).
    fn from(self, row: usize, column: usize) -> Self {
        Self { at: self.at.wrapping_add(row * self.stride + column), ..self }
    }
}

/// What is added to a result, and how.
#[derive(Clone, Copy)]
struct How {
    scale: f32,
    add: bool,
}

/// Whether this CPU can do it.
pub fn runs() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether this CPU is one of those that this file is for.
pub fn suits() -> bool {
    runs() && !is_x86_feature_detected!("avx512f")
}

/// `out` ← `scale` · a b, or `out` + that if `add`, on all threads if `is_shared`. Bits do not depend on their number: an
/// element is one task's, and its sum is cut by the inner dimension alone.
///
/// # Safety
/// This CPU [`runs`] it; all rows of the result fit at `out`, `stride` apart; nothing else reads or writes them,
/// and they hold values if `add`.
#[allow(unsafe_code)]
pub unsafe fn multiply(
    is_shared: bool,
    out: *mut f32,
    stride: usize,
    a: Matrix,
    b: Matrix,
    scale: f32,
    add: bool,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let out = Place { at: out, stride };
    let (down, across) = if is_shared { parts(m, n, k) } else { (1, 1) };
    let rows = m.div_ceil(down).next_multiple_of(ROWS);
    let columns = n.div_ceil(across).next_multiple_of(COLUMNS);
    let depth = k.div_ceil(k.div_ceil(DEPTH));
    let part = |number: usize| {
        let (top, left) = (number / across * rows, number % across * columns);
        let (bottom, right) = ((top + rows).min(m), (left + columns).min(n));
        PACKED.with_borrow_mut(|Packed { a: panels_a, b: panels_b }| {
            for left in (left..right).step_by(WIDTH) {
                let columns = WIDTH.min(right - left);
                for first in (0..k).step_by(depth) {
                    let steps = depth.min(k - first);
                    let panels_b = pack_b(panels_b, b, (first, steps), (left, columns));
                    let how = How { scale, add: add || first > 0 };
                    for top in (top..bottom).step_by(HEIGHT) {
                        let rows = HEIGHT.min(bottom - top);
                        let panels_a = pack_a(panels_a, a, (first, steps), (top, rows));
                        // SAFETY: the caller vouches for CPU and result; this part of it is this task's alone.
                        unsafe { block(out.from(top, left), panels_a, panels_b, steps, (rows, columns), how) }
                    }
                }
            }
        });
    };
    if down * across == 1 {
        part(0);
    } else {
        (0..down * across).into_par_iter().with_max_len(1).for_each(part);
    }
}

/// Into how many parts, down and across, the result is cut: those for which the least is packed more than once. Packing
/// a value of a, across its rows, takes twice the time of one of b.
fn parts(m: usize, n: usize, k: usize) -> (usize, usize) {
    let tasks = (TASKS * rayon::current_num_threads()).min((m * n * k) >> TASK).max(1);
    let divisors = (1..=tasks).filter(|across| tasks.is_multiple_of(*across));
    let across = divisors.min_by_key(|across| tasks / across * n + 2 * across * m).unwrap_or(1);
    (tasks / across, across)
}

/// Rows `top.0..` of a, `top.1` of them, steps `first.0..` of the inner dimension: `[panel, step, row]`. Rows that there are
/// not hold anything.
fn pack_a<'p>(
    panels: &'p mut Vec<[f32; ROWS]>,
    a: Matrix,
    (first, steps): (usize, usize),
    (top, rows): (usize, usize),
) -> &'p [[f32; ROWS]] {
    let panels = of_length(panels, rows.div_ceil(ROWS) * steps, [0.0; ROWS]);
    if a.is_row_major() {
        for (number, panel) in panels.chunks_exact_mut(steps).enumerate() {
            let row = |i: usize| &a.row(top + (number * ROWS + i).min(rows - 1))[first..][..steps];
            let lines: [&[f32]; ROWS] = std::array::from_fn(row);
            for (step, to) in panel.iter_mut().enumerate() {
                *to = std::array::from_fn(|i| lines[i][step]);
            }
        }
    } else {
        let a = a.t();
        for step in 0..steps {
            ask_for(a, first + step + AHEAD, (top, rows));
            let (whole, rest) = a.row(first + step)[top..][..rows].as_chunks::<ROWS>();
            for (number, from) in whole.iter().enumerate() {
                panels[number * steps + step] = *from;
            }
            if !rest.is_empty() {
                panels[whole.len() * steps + step][..rest.len()].copy_from_slice(rest);
            }
        }
    }
    panels
}

/// Columns `left.0..` of b, `left.1` of them, steps `first.0..` of the inner dimension: `[panel, step, column]`. Columns that
/// there are not hold anything.
fn pack_b<'p>(
    panels: &'p mut Vec<Line>,
    b: Matrix,
    (first, steps): (usize, usize),
    (left, columns): (usize, usize),
) -> &'p [Line] {
    let panels = of_length(panels, columns.div_ceil(COLUMNS) * steps, Line([0.0; COLUMNS]));
    if b.is_row_major() {
        for step in 0..steps {
            ask_for(b, first + step + AHEAD, (left, columns));
            let (whole, rest) = b.row(first + step)[left..][..columns].as_chunks::<COLUMNS>();
            for (number, from) in whole.iter().enumerate() {
                panels[number * steps + step] = Line(*from);
            }
            if !rest.is_empty() {
                panels[whole.len() * steps + step].0[..rest.len()].copy_from_slice(rest);
            }
        }
    } else {
        let b = b.t();
        for (number, panel) in panels.chunks_exact_mut(steps).enumerate() {
            let row = |i: usize| &b.row(left + (number * COLUMNS + i).min(columns - 1))[first..][..steps];
            let lines: [&[f32]; COLUMNS] = std::array::from_fn(row);
            for (step, to) in panel.iter_mut().enumerate() {
                *to = Line(std::array::from_fn(|i| lines[i][step]));
            }
        }
    }
    panels
}

/// Asks for columns `first..` of a row, `count` of them, to be brought from memory, if there is such a row. Rows lie a page or
/// more apart, where the CPU does not guess which comes next.
fn ask_for(matrix: Matrix, row: usize, (first, count): (usize, usize)) {
    if row < matrix.rows {
        for value in matrix.row(row)[first..][..count].iter().step_by(COLUMNS) {
            let at = std::ptr::from_ref(value).cast();
            // SAFETY: every x86-64 CPU has the instruction, which reads nothing.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at);
            }
        }
    }
}

/// The first `count` elements of `buffer`, which grows if need be.
fn of_length<T: Clone>(buffer: &mut Vec<T>, count: usize, empty: T) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, empty);
    }
    &mut buffer[..count]
}

/// The product of a packed block of a and one of b, `rows` x `columns`.
///
/// # Safety
/// As [`multiply`]; the panels hold `steps` lines each.
#[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
#[target_feature(enable = "avx2,fma")]
unsafe fn block(
    out: Place,
    a: &[[f32; ROWS]],
    b: &[Line],
    steps: usize,
    (rows, columns): (usize, usize),
    how: How,
) {
    for (left, b) in (0..columns).step_by(COLUMNS).zip(b.chunks_exact(steps)) {
        let width = COLUMNS.min(columns - left);
        for (top, a) in (0..rows).step_by(ROWS).zip(a.chunks_exact(steps)) {
            let height = ROWS.min(rows - top);
            let out = out.from(top, left);
            if (height, width) == (ROWS, COLUMNS) {
                // SAFETY: a whole tile of the result lies here.
                unsafe { tile(out, a, b, how) };
                continue;
            }
            let mut sums = [[0f32; COLUMNS]; ROWS];
            let place = Place { at: sums.as_mut_ptr().cast(), stride: COLUMNS };
            // SAFETY: `sums` is a whole tile, nobody else's.
            unsafe { tile(place, a, b, How { add: false, ..how }) };
            for (row, sums) in sums.iter().enumerate().take(height) {
                // SAFETY: `width` values of the result lie here, and `row` is one of its rows.
                let line = unsafe { std::slice::from_raw_parts_mut(out.from(row, 0).at, width) };
                match how.add {
                    true => line.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
                    false => line.copy_from_slice(&sums[..width]),
                }
            }
        }
    }
}

/// The product of a panel of a and one of b. Written with intrinsics, because from loops over arrays the compiler makes code
/// that keeps some sums and factors in memory, at half the speed.
///
/// # Safety
/// 6 rows of 16 values lie at `out`, written by nobody else, holding values if `how.add`; `a` is as long as `b`.
#[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile(out: Place, a: &[[f32; ROWS]], b: &[Line], how: How) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for row in 0..ROWS {
        // A row that begins within a cache line ends in the next.
        let at = out.from(row, 0).at.cast::<i8>();
        _mm_prefetch::<_MM_HINT_T0>(at);
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * COLUMNS - 4));
    }
    let mut step = |a: &[f32; ROWS], b: &Line| {
        // SAFETY: a line is 16 values at a multiple of 64 bytes.
        let (left, right) =
            unsafe { (_mm256_load_ps(b.0.as_ptr()), _mm256_load_ps(b.0.as_ptr().add(LANES))) };
        for (sums, factor) in sums.iter_mut().zip(a) {
            let factor = _mm256_broadcast_ss(factor);
            sums[0] = _mm256_fmadd_ps(factor, left, sums[0]);
            sums[1] = _mm256_fmadd_ps(factor, right, sums[1]);
        }
    };
    let (many_a, rest_a) = a.as_chunks::<UNROLLED>();
    let (many_b, rest_b) = b.as_chunks::<UNROLLED>();
    for (a, b) in many_a.iter().zip(many_b) {
        for (a, b) in a.iter().zip(b) {
            step(a, b);
        }
    }
    for (a, b) in rest_a.iter().zip(rest_b) {
        step(a, b);
    }
    let scale = _mm256_set1_ps(how.scale);
    for (row, sums) in sums.iter().enumerate() {
        for (half, &sum) in sums.iter().enumerate() {
            let at = out.from(row, half * LANES).at;
            // SAFETY: the caller vouches for 16 values in each of 6 rows.
            unsafe {
                let value = match how.add {
                    true => _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(at)),
                    false => _mm256_mul_ps(sum, scale),
                };
                _mm256_storeu_ps(at, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, factor: usize) -> Vec<f32> {
        (0..count).map(|i| (i * factor % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// In double precision.
    fn expected(a: Matrix, b: Matrix, row: usize, column: usize) -> f64 {
        let at = |matrix: Matrix, i: usize, j: usize| {
            f64::from(if matrix.is_row_major() { matrix.row(i)[j] } else { matrix.t().row(j)[i] })
        };
        (0..a.columns).map(|k| at(a, row, k) * at(b, k, column)).sum()
    }

    #[test]
    #[allow(unsafe_code, reason = "what is tested is unsafe")]
    fn multiplies_matrices_of_every_shape_and_order() {
        if !runs() {
            return;
        }
        // Below, at and above tile, block and depth, and a result wider than the product.
        for (m, n, k) in
            [(1, 1, 1), (6, 16, 384), (7, 17, 385), (5, 1100, 3), (200, 15, 800), (199, 1070, 11)]
        {
            let (stride, gap) = (n + 3, 5);
            for (is_a_row_major, is_b_row_major) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let (a, b) = (values((m + gap) * (k + gap), 37), values((k + gap) * (n + gap), 53));
                let a = if is_a_row_major {
                    Matrix::new(&a, m, k, k + gap)
                } else {
                    Matrix::new(&a, k, m, m + gap).t()
                };
                let b = if is_b_row_major {
                    Matrix::new(&b, k, n, n + gap)
                } else {
                    Matrix::new(&b, n, k, k + gap).t()
                };
                for (is_shared, add) in [(false, false), (true, true)] {
                    let mut out = vec![0.5f32; m * stride];
                    // SAFETY: the CPU does it, and `out` has room for all rows.
                    unsafe { multiply(is_shared, out.as_mut_ptr(), stride, a, b, 2.0, add) };
                    for (row, line) in out.chunks(stride).enumerate() {
                        assert_eq!(line[n..], [0.5; 3], "{m} x {n} x {k} wrote past its columns");
                        // Every element of a small one, some of a large one.
                        for column in (0..n).step_by(n / 20 + 1).chain([n - 1]) {
                            let value = 2.0 * expected(a, b, row, column) + if add { 0.5 } else { 0.0 };
                            let off = (f64::from(line[column]) - value).abs();
                            assert!(
                                off < 1e-6 * (k as f64 + 10.0),
                                "{m} x {n} x {k} at {row}, {column}: {off}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn cuts_a_result_into_as_many_parts_as_are_worth_a_task() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            assert_eq!(parts(64, 64, 64), (1, 1));
            assert_eq!(parts(128, 128, 128), (2, 1));
            assert_eq!(parts(4000, 64, 4000), (12, 1));
            assert_eq!(parts(64, 4000, 4000), (1, 12));
            let (down, across) = parts(3000, 3000, 3000);
            assert_eq!(down * across, 12);
        });
    }
}
