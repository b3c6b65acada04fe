//! Matrix products on slices: either factor may be read transposed, the result may be added to what is there, and all three
//! may be parts of wider matrices. It knows no layer.
//!
//! An element of the result is defined without regard to the CPU, the number of threads and the shape of the rest. The inner
//! dimension, k long, is cut into blocks of ⌈k / ⌈k / 384⌉⌉ steps, the last of them shorter. A block's sum begins at 0 and
//! takes one fused multiply-add a step, in order. The first block's sum times `scale` is stored, or fused with the multiply added to
//! what is there; every further one is added in the same way. All kernels do this in vector lanes that run across columns, so
//! they give the same bits: see `docs/arithmetic.md`.
//!
//! For speed the result is cut into parts, one task each. In a part, a block of b (`DEPTH` x `WIDTH`, for the third-level cache)
//! and blocks of a (`HEIGHT` x `DEPTH`, for the second) are packed into panels as wide as the kernel's tile, which is summed in
//! registers while a panel of b stays in the first-level cache. A factor that is small enough is read where it is.

mod kernel;
mod pack;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::cpu::{self, InstructionSet};
use super::epilogue::Epilogue;
use kernel::{Kernel, Left, Place, Right, Scalar};
use pack::Panels;

/// Multiplications from which on threads share a product.
pub const WORTH_SHARING: usize = 1 << 21;
/// The same in a network for pictures: of small ones, whose pictures are spread over the threads, nothing else is.
pub const PICTURE_WORTH_SHARING: usize = 1 << 27;
/// Steps of the inner dimension in a block, at most. Part of the definition: another value gives other bits.
const DEPTH: usize = 384;
/// Rows of a packed block of a: 288 KiB. A multiple of every kernel's rows.
const HEIGHT: usize = 192;
/// Columns of a packed block of b. A multiple of every kernel's columns.
const WIDTH: usize = 1056;
/// The same where a has one block of rows: these few columns stay in the second-level cache from packing to their only use.
const NARROW: usize = 352;
/// Values from which on a factor is packed whose steps are rows in memory: smaller ones stay in the caches.
const WORTH_PACKING: usize = 1 << 19;
/// Bytes of a way of the first-level cache. Rows so far apart share a few of its lines, so a is packed.
const WAY: usize = 4096;
/// Blocks of b that all threads pack before they multiply: 16 MiB.
const BLOCKS: usize = 10;
/// Tasks for each thread, so that one that is held up does not keep the others waiting for long.
const TASKS: usize = 4;
/// Multiplications that a task has at least, as a power of two: some 10 µs.
const TASK: usize = 20;
/// Rows that a task has at least where tasks share out rows.
const LEAST_ROWS: usize = 12;
/// Columns of a task that are enough to read all of a for.
const LEAST_COLUMNS: usize = 96;

/// A matrix to read: element (i, j) is `data[i * strides.0 + j * strides.1]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    strides: (usize, usize),
    /// Where blocks of the inner dimension end, if not where [`block_ends`] says.
    ends: Option<&'a [usize]>,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows begin `stride` apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, strides: (stride, 1), ends: None }
    }

    /// The same as a left factor, its columns being some of a longer inner dimension: each block is summed as there. `ends`
    /// ascend, and the last is the number of columns.
    pub fn in_blocks(self, ends: &'a [usize]) -> Self {
        Self { ends: Some(ends), ..self }
    }

    /// The same elements, rows and columns exchanged.
    pub fn t(self) -> Self {
        let (row, column) = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: (column, row), ..self }
    }

    /// The elements of a row-major matrix from row `first` to before row `end`, with the gaps between its rows; none where no row is
    /// between them.
    pub fn between(self, first: usize, end: usize) -> &'a [f32] {
        if first >= end {
            return &[];
        }
        let stride = self.strides.0;
        &self.data[first * stride..(end - 1) * stride + self.columns]
    }

    /// The distance between the beginnings of two rows of a row-major matrix.
    pub fn stride(self) -> usize {
        self.strides.0
    }

    /// Whether the elements of a row are next to each other; else those of a column are.
    fn is_row_major(self) -> bool {
        self.strides.1 == 1
    }

    /// A row of a row-major matrix.
    fn row(self, number: usize) -> &'a [f32] {
        &self.data[number * self.strides.0..][..self.columns]
    }

    fn end(&self) -> usize {
        end(self.rows, self.columns, self.strides)
    }

    /// The blocks of the inner dimension of a left factor, as first step and number of steps; an empty one adds nothing.
    fn blocks(&self) -> Vec<(usize, usize)> {
        let block = |first: &mut usize, end: usize| Some((std::mem::replace(first, end), end));
        let ends = self.ends.map_or_else(|| block_ends(self.columns).collect(), <[usize]>::to_vec);
        let blocks = ends.into_iter().scan(0, block).map(|(first, end)| (first, end - first));
        blocks.filter(|(_, steps)| *steps > 0).collect()
    }
}

/// Where the blocks of an inner dimension of `steps` end.
pub fn block_ends(steps: usize) -> impl Iterator<Item = usize> {
    let block = steps.div_ceil(steps.div_ceil(DEPTH).max(1)).max(1);
    (0..steps).step_by(block).map(move |first| (first + block).min(steps))
}

/// One past the last element that a matrix of these dimensions touches.
fn end(rows: usize, columns: usize, strides: (usize, usize)) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * strides.0 + (columns - 1) * strides.1 + 1 }
}

/// `out` ← `scale` · a b, or `out` + that if `add`; `out` is row-major with rows `stride` apart.
///
/// # Panics
/// Dimensions that do not fit each other or the slices: an error of the calling kernel.
pub fn product(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, scale: f32, add: bool) {
    product_from(WORTH_SHARING, out, stride, a, b, scale, add);
}

/// As [`product`], shared by the threads from `worth` multiplications on.
///
/// # Panics
/// As [`product`].
pub fn product_from(
    worth: usize,
    out: &mut [f32],
    stride: usize,
    a: Matrix,
    b: Matrix,
    scale: f32,
    add: bool,
) {
    assert!(
        stride >= b.columns && out.len() >= end(a.rows, b.columns, (stride, 1)),
        "a product's result does not fit"
    );
    // SAFETY: `out` is borrowed mutably, so nothing else reads or writes it, and holds the result.
    #[allow(unsafe_code)]
    unsafe {
        let out = Place { at: out.as_mut_ptr(), stride };
        multiply(worth, out, a, b, How { scale, plus: add.then_some(out) }, None);
    }
}

/// a b, row-major, in memory that was not filled with zeros before; shared from `worth` multiplications on.
///
/// # Panics
/// Inner dimensions that differ, a factor that is too short.
pub fn new_product(worth: usize, a: Matrix, b: Matrix) -> Vec<f32> {
    let values = a.rows * b.columns;
    let mut out = Vec::with_capacity(values);
    // SAFETY: there is room for all rows, which have no gaps; what is not added to is written, all of it, and not read.
    #[allow(unsafe_code)]
    unsafe {
        let place = Place { at: out.as_mut_ptr(), stride: b.columns };
        multiply(worth, place, a, b, How { scale: 1.0, plus: None }, None);
        out.set_len(values);
    }
    out
}

/// a bᵢ + cᵢ for each matrix bᵢ and row cᵢ of `factors`, side by side, row-major.
///
/// # Panics
/// As [`new_product`]; a row whose length is not its matrix's number of columns.
pub fn new_affine(worth: usize, a: Matrix, factors: &[(Matrix, &[f32])]) -> Vec<f32> {
    let stride = factors.iter().map(|(b, _)| b.columns).sum();
    let mut out = Vec::with_capacity(a.rows * stride);
    let mut first = 0;
    for &(b, c) in factors {
        assert_eq!(b.columns, c.len(), "a row to add has another length than a product's rows");
        let place = Place { at: out.as_mut_ptr(), stride }.from(0, first);
        let plus = Place { at: c.as_ptr().cast_mut(), stride: 0 };
        // SAFETY: there is room for all rows; each product writes all elements of its columns and reads none.
        #[allow(unsafe_code)]
        unsafe {
            multiply(worth, place, a, b, How { scale: 1.0, plus: Some(plus) }, None);
        }
        first += b.columns;
    }
    // SAFETY: the columns together are all of them.
    #[allow(unsafe_code)]
    unsafe {
        out.set_len(a.rows * stride);
    }
    out
}

/// Writes a b, finished by `then`, to `out`, whose rows, of `then.plane` values each, are the output's channels.
///
/// # Panics
/// As [`product`]; an epilogue for fewer rows, or a sum of nothing.
pub fn product_then(worth: usize, out: &mut [MaybeUninit<f32>], a: Matrix, b: Matrix, then: Epilogue) {
    let stride = then.plane;
    let is_fitting = stride >= b.columns && out.len() >= end(a.rows, b.columns, (stride, 1));
    assert!(is_fitting && a.columns > 0, "a product's result does not fit");
    // SAFETY: `out` is borrowed mutably, so nothing else reads or writes it, and holds the result.
    #[allow(unsafe_code)]
    unsafe {
        let out = Place { at: out.as_mut_ptr().cast(), stride };
        multiply(worth, out, a, b, How { scale: 1.0, plus: None }, Some(then));
    }
}

/// What a block's sums are multiplied by, and what those of the first block are added to.
#[derive(Clone, Copy)]
struct How {
    scale: f32,
    plus: Option<Place>,
}

impl How {
    /// The same from element (`row`, `column`) on.
    fn from(self, row: usize, column: usize) -> Self {
        Self { plus: self.plus.map(|plus| plus.from(row, column)), ..self }
    }
}

/// The product into memory at `out`.
///
/// # Safety
/// All rows of the result fit at `out`, and nothing else reads or writes them; `how.plus` holds as many values.
#[allow(unsafe_code)]
unsafe fn multiply(worth: usize, out: Place, a: Matrix, b: Matrix, how: How, then: Option<Epilogue>) {
    assert_eq!(a.columns, b.rows, "the inner dimensions of a product differ");
    assert!(a.ends.is_none_or(|ends| ends.last() == Some(&a.columns)), "blocks of another inner dimension");
    assert!(a.data.len() >= a.end() && b.data.len() >= b.end(), "a product's factor is too short");
    let is_shared = a.rows * b.columns * a.columns >= worth;
    // SAFETY: only what the CPU supports is selected; the caller vouches for `out`.
    unsafe {
        match cpu::selected() {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => multiply_with::<kernel::Avx512>(is_shared, out, a, b, how, then),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => multiply_with::<kernel::Avx2>(is_shared, out, a, b, how, then),
            _ => multiply_with::<Scalar>(is_shared, out, a, b, how, then),
        }
    }
}

/// What a thread has packed; kept, since the pages of new memory would be cleared first.
#[derive(Default)]
struct Packed {
    a: Panels,
    b: Panels,
}

thread_local! {
    static PACKED: RefCell<Packed> = RefCell::default();
}

/// The product by one kernel, on all threads if `is_shared`: threads share rows and columns of the result, never a sum.
///
/// # Safety
/// As [`multiply`]; the CPU supports the kernel's instructions; the factors hold their elements.
#[allow(unsafe_code)]
unsafe fn multiply_with<K: Kernel>(
    is_shared: bool,
    out: Place,
    a: Matrix,
    b: Matrix,
    how: How,
    then: Option<Epilogue>,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            // SAFETY: the caller vouches for all rows.
            unsafe {
                *out.from(row, column).at = how.plus.map_or(0.0, |plus| *plus.from(row, column).at);
            }
        }
        return;
    }
    let packs_a =
        if a.is_row_major() { (4 * a.stride()).is_multiple_of(WAY) } else { m * k >= WORTH_PACKING };
    let packs_b = !b.is_row_major() || n * k >= WORTH_PACKING;
    let task = Task::<K> { out, a, how, then, packs_a, kernel: PhantomData };
    let tasks = if is_shared { tasks(m * n * k) } else { 1 };
    let depths = a.blocks();
    if tasks > 1 && packs_b && shares_rows(m, n, tasks, packs_a) {
        // All pack columns of b, then each takes rows. Within the pool, as every call from outside wakes it again.
        rayon::scope(|_| {
            let mut panels = PACKED.with_borrow_mut(|packed| std::mem::take(&mut packed.b));
            for left in (0..n).step_by(WIDTH) {
                let columns = WIDTH.min(n - left);
                for depths in depths.chunks(BLOCKS) {
                    let right = panels.pack_right_together(b, depths, (left, columns), K::COLUMNS);
                    each_part(m, tasks, K::ROWS, |top, rows| {
                        PACKED.with_borrow_mut(|packed| {
                            for &steps in depths {
                                let right = right.block(steps.0 - depths[0].0, steps.1, columns, K::COLUMNS);
                                // SAFETY: the caller vouches for CPU and result, of which these rows are this task's alone.
                                unsafe {
                                    task.block(&mut packed.a, right, steps, (top, rows), (left, columns))
                                };
                            }
                        });
                    });
                }
            }
            PACKED.with_borrow_mut(|packed| packed.b = panels);
        });
        return;
    }
    // Each takes columns or, where b is read in place and there are more of them, rows.
    let takes_rows = !packs_b && m >= n;
    let width = if m <= HEIGHT { NARROW } else { WIDTH };
    let (length, tile) = if takes_rows { (m, K::ROWS) } else { (n, K::COLUMNS) };
    each_part(length, tasks, tile, |first, count| {
        let (tops, lefts) = if takes_rows { ((first, count), (0, n)) } else { ((0, m), (first, count)) };
        PACKED.with_borrow_mut(|packed| {
            for left in (lefts.0..lefts.0 + lefts.1).step_by(width) {
                let columns = width.min(lefts.0 + lefts.1 - left);
                for &steps in &depths {
                    let right = if packs_b {
                        packed.b.pack_right(b, steps, (left, columns), K::COLUMNS)
                    } else {
                        Right::in_place(b, steps.0, left)
                    };
                    // SAFETY: the caller vouches for CPU and result, of which this part is this task's alone.
                    unsafe { task.block(&mut packed.a, right, steps, tops, (left, columns)) };
                }
            }
        });
    });
}

/// A product, as its tasks know it.
struct Task<'a, K> {
    out: Place,
    a: Matrix<'a>,
    how: How,
    then: Option<Epilogue<'a>>,
    packs_a: bool,
    kernel: PhantomData<fn() -> K>,
}

impl<K: Kernel> Task<'_, K> {
    /// Adds the steps `first` and following of the rows from `top` on, times `right`, to the columns from `left` on. Of each pair the
    /// second is a count.
    ///
    /// # Safety
    /// As [`multiply_with`]; this part of the result is this task's alone; `right` holds these steps and columns.
    #[allow(unsafe_code)]
    unsafe fn block(
        &self,
        panels: &mut Panels,
        right: Right,
        (first, steps): (usize, usize),
        (top, rows): (usize, usize),
        (left, columns): (usize, usize),
    ) {
        let how = if first > 0 { How { plus: Some(self.out), ..self.how } } else { self.how };
        let bottom = top + rows;
        for top in (top..bottom).step_by(HEIGHT) {
            let rows = HEIGHT.min(bottom - top);
            let factor = if self.packs_a {
                panels.pack_left(self.a, (first, steps), (top, rows), K::ROWS)
            } else {
                Left::in_place(self.a, first, top)
            };
            // SAFETY: the caller vouches for CPU, result and `right`; `a` holds these rows and steps.
            unsafe {
                let out = self.out.from(top, left);
                K::block(out, factor, right, (rows, columns, steps), how.from(top, left));
            };
            // The last steps are added: finished while the sums are in the second-level cache.
            if let Some(then) = self.then.filter(|_| first + steps == self.a.columns) {
                for row in top..top + rows {
                    // SAFETY: this part of the result is this task's alone, and was just written.
                    #[allow(unsafe_code)]
                    let sums =
                        unsafe { std::slice::from_raw_parts_mut(self.out.from(row, left).at, columns) };
                    then.finish(row, left, sums);
                }
            }
        }
    }
}

/// Into how many tasks a product of so many multiplications is cut.
fn tasks(multiplications: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = (TASKS * threads).min(multiplications >> TASK).max(1);
    // As many for every thread: a third task for two threads would keep one of them waiting for half of the time.
    if threads == 1 { 1 } else { tasks - if tasks > threads { tasks % threads } else { 0 } }
}

/// Whether tasks share out rows, not columns, where b is packed. They then wait for each other until b is packed, once; with
/// columns, every task reads all of a, and packs it if it is packed.
fn shares_rows(m: usize, n: usize, tasks: usize, packs_a: bool) -> bool {
    m >= LEAST_ROWS * tasks && (packs_a || n < LEAST_COLUMNS * tasks)
}

/// Calls `f` with the first and the number of each part of `length`, which is cut into at most `parts`, as equal as whole tiles allow.
fn each_part(length: usize, parts: usize, tile: usize, f: impl Fn(usize, usize) + Send + Sync) {
    let tiles = length.div_ceil(tile);
    let parts = parts.min(tiles);
    let part = |number: usize| {
        let [first, end] = [number, number + 1].map(|number| (number * tiles / parts * tile).min(length));
        f(first, end - first);
    };
    if parts == 1 {
        part(0);
    } else {
        (0..parts).into_par_iter().with_max_len(1).for_each(part);
    }
}

#[cfg(test)]
mod tests;
