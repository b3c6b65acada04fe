//! Matrix products on slices: either factor may be read transposed, the result may be added to what is there, and all three
//! may be parts of wider matrices. Large ones go by `blocked` where the CPU is one that it is for, others by the library. It
//! knows no layer.

#[cfg(target_arch = "x86_64")]
use super::blocked;

/// Multiplications below which a product is done by the calling thread.
const WORTH_SHARING: usize = 1 << 21;
/// Multiplications below which the library is as fast: where all three matrices stay in a core's caches.
#[cfg(target_arch = "x86_64")]
const WORTH_BLOCKING: usize = 1 << 25;
/// The same in a network for pictures: of small ones, whose pictures are spread over the threads, nothing else is.
pub const PICTURE_WORTH_SHARING: usize = 1 << 27;

/// A matrix to read: element (i, j) is `data[i * strides.0 + j * strides.1]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows lie `stride` apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, strides: (stride, 1) }
    }

    /// The same elements, rows and columns exchanged.
    pub fn t(self) -> Self {
        let (row, column) = self.strides;
        Self { rows: self.columns, columns: self.rows, strides: (column, row), ..self }
    }

    /// The elements of a row-major matrix from row `first` to before row `end`, with what lies between its rows.
    pub fn between(self, first: usize, end: usize) -> &'a [f32] {
        let stride = self.strides.0;
        &self.data[first * stride..end.saturating_sub(1) * stride + self.columns]
    }

    /// Whether the elements of a row lie side by side; else those of a column do.
    #[cfg(target_arch = "x86_64")]
    pub fn is_row_major(self) -> bool {
        self.strides.1 == 1
    }

    /// A row of a row-major matrix.
    #[cfg(target_arch = "x86_64")]
    pub fn row(self, number: usize) -> &'a [f32] {
        &self.data[number * self.strides.0..][..self.columns]
    }

    /// How far apart the rows of a row-major matrix lie.
    pub fn stride(self) -> usize {
        self.strides.0
    }

    fn end(&self) -> usize {
        end(self.rows, self.columns, self.strides)
    }
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
        multiply(worth, out.as_mut_ptr(), stride, a, b, scale, add);
    }
}

/// a b, row-major, in memory that nobody filled with zeros before; shared from `worth` multiplications on.
///
/// # Panics
/// Inner dimensions that differ, a factor that is too short.
pub fn new_product(worth: usize, a: Matrix, b: Matrix) -> Vec<f32> {
    let values = a.rows * b.columns;
    if values == 0 || a.columns == 0 {
        return vec![0.0; values];
    }
    let mut out = Vec::with_capacity(values);
    // SAFETY: there is room for all rows, which lie without gaps; what is not added to is written, all of it, and not read.
    #[allow(unsafe_code)]
    unsafe {
        multiply(worth, out.as_mut_ptr(), b.columns, a, b, 1.0, false);
        out.set_len(values);
    }
    out
}

/// The product into memory at `out`.
///
/// # Safety
/// All rows of the result fit at `out`, nothing else reads or writes them, and they hold values if `add`.
#[allow(unsafe_code)]
unsafe fn multiply(worth: usize, out: *mut f32, stride: usize, a: Matrix, b: Matrix, scale: f32, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "the inner dimensions of a product differ");
    assert!(a.data.len() >= a.end() && b.data.len() >= b.end(), "a product's factor is too short");
    // The choices depend on the size alone; inside, threads share rows and columns of the result, never a sum.
    let is_shared = m * n * k >= worth;
    #[cfg(target_arch = "x86_64")]
    if m * n * k >= WORTH_BLOCKING && blocked::suits() {
        // SAFETY: a CPU that suits does it; the caller vouches for `out`.
        return unsafe { blocked::multiply(is_shared, out, stride, a, b, scale, add) };
    }
    let threads = if is_shared { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the asserts above keep every element that the strides reach within the factors; the caller vouches for `out`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.strides.1 as isize,
            a.strides.0 as isize,
            b.data.as_ptr(),
            b.strides.1 as isize,
            b.strides.0 as isize,
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_parts_of_wider_matrices() {
        // a = [[1, 2], [3, 4]] and b = [[5, 6], [7, 8]] as the first columns of wider matrices.
        let a = [1.0, 2.0, 99.0, 3.0, 4.0, 99.0];
        let b = [5.0, 6.0, 99.0, 7.0, 8.0];
        let (a, b) = (Matrix::new(&a, 2, 2, 3), Matrix::new(&b, 2, 2, 3));
        let mut out = [1.0, 1.0, -1.0, 1.0, 1.0];
        product(&mut out, 3, a, b, 1.0, false);
        assert_eq!(out, [19.0, 22.0, -1.0, 43.0, 50.0]);
        product(&mut out, 3, a.t(), b, 2.0, true);
        assert_eq!(out, [19.0 + 52.0, 22.0 + 60.0, -1.0, 43.0 + 76.0, 50.0 + 88.0]);
        product(&mut out, 3, a, b.t(), 1.0, false);
        assert_eq!(out, [17.0, 23.0, -1.0, 39.0, 53.0]);
    }

    #[test]
    fn threads_change_no_bit() {
        // Large enough to be shared, with an inner dimension of several cache blocks.
        let (m, n, k) = (150, 130, 1300);
        let values =
            |count: usize| (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect::<Vec<_>>();
        let (a, b) = (values(m * k), values(k * n));
        let run = |threads: usize| {
            let mut out = vec![0f32; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                product(&mut out, n, Matrix::new(&a, m, k, k), Matrix::new(&b, k, n, n), 1.0, false)
            });
            out
        };
        let one = run(1);
        assert!(one.iter().any(|&value| value != 0.0));
        assert!(one == run(2) && one == run(3));
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn refuses_to_read_past_the_end() {
        let a = [0.0; 3];
        product(&mut [0.0; 4], 2, Matrix::new(&a, 2, 2, 2), Matrix::new(&a, 2, 2, 2), 1.0, false);
    }
}
