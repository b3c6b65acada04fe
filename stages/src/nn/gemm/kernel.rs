//! The kernels: a tile of the result is summed in registers, one fused multiply-add a step and element. Written with intrinsics,
//! because from loops over arrays the compiler makes code that keeps some sums and factors in memory, at half the speed.

use super::{How, Matrix};

/// The place of a result, of which each task writes rows and columns of its own, or of what is added to it, which is read.
#[derive(Clone, Copy)]
pub struct Place {
    /// Its first element.
    pub at: *mut f32,
    /// The distance between the beginnings of two rows: 0 where all rows are one.
    pub stride: usize,
}

// SAFETY: a place is only an address; the code that reads and writes through it vouches for that.
#[allow(unsafe_code)]
unsafe impl Send for Place {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Place {}

impl Place {
    /// The place from element (`row`, `column`) on.
    pub fn from(self, row: usize, column: usize) -> Self {
        Self { at: self.at.wrapping_add(row * self.stride + column), ..self }
    }
}

/// The left factor as a kernel reads it: element (row, step) is at `row * self.row + step * self.step`, one of which is 1.
#[derive(Clone, Copy)]
pub struct Left {
    /// Its first element.
    pub at: *const f32,
    /// Distance of two rows of a tile.
    pub row: usize,
    /// Distance of two steps.
    pub step: usize,
    /// Distance of two tiles.
    pub panel: usize,
}

impl Left {
    /// A factor that is not packed, from row `top` and step `first` on; `panel` is set by the kernel's rows.
    pub fn in_place(a: Matrix, first: usize, top: usize) -> Self {
        let (row, step) = a.strides;
        let at = a.data.as_ptr().wrapping_add(top * row + first * step);
        Self { at, row, step, panel: 0 }
    }

    /// The factor from row `top` on, a multiple of the kernel's `rows`.
    fn tile(self, top: usize, rows: usize) -> Self {
        let distance = if self.panel == 0 { top * self.row } else { top / rows * self.panel };
        Self { at: self.at.wrapping_add(distance), ..self }
    }

    /// The same, `rows` further down in the same tile.
    fn down(self, rows: usize) -> Self {
        Self { at: self.at.wrapping_add(rows * self.row), ..self }
    }
}

/// The right factor as a kernel reads it: element (step, column) is at `step * self.step + column`.
#[derive(Clone, Copy)]
pub struct Right {
    /// Its first element.
    pub at: *const f32,
    /// Distance of two steps.
    pub step: usize,
    /// Distance of two tiles.
    pub panel: usize,
}

// SAFETY: a right factor is only an address; the code that reads through it vouches for that.
#[allow(unsafe_code)]
unsafe impl Send for Right {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Right {}

impl Right {
    /// A row-major factor that is not packed, from step `first` and column `left` on.
    pub fn in_place(b: Matrix, first: usize, left: usize) -> Self {
        let step = b.stride();
        Self { at: b.data.as_ptr().wrapping_add(first * step + left), step, panel: 0 }
    }

    /// The block of `steps` steps after the first `before`, of `columns` columns in panels of `width`, where several are packed.
    pub fn block(self, before: usize, steps: usize, columns: usize, width: usize) -> Self {
        let at = self.at.wrapping_add(before * columns.next_multiple_of(width));
        Self { at, panel: steps * width, ..self }
    }

    /// The factor from column `left` on, a multiple of the kernel's `columns`.
    fn tile(self, left: usize, columns: usize) -> Self {
        let distance = if self.panel == 0 { left } else { left / columns * self.panel };
        Self { at: self.at.wrapping_add(distance), ..self }
    }
}

/// A way to compute a block of a product.
pub trait Kernel {
    /// Rows of a tile.
    const ROWS: usize;
    /// Columns of a tile.
    const COLUMNS: usize;

    /// Adds the product of `a` and `b` to `out`, or stores it; `sizes` are rows, columns and steps.
    ///
    /// # Safety
    /// The CPU supports the kernel; the factors can be read as far as the sizes say; the result can be written so far, by no one
    /// else at the same time; `how.plus` can be read so far.
    #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
    unsafe fn block(out: Place, a: Left, b: Right, sizes: (usize, usize, usize), how: How);
}

/// Loops over the tiles of a block; `$tile` is a function of rows, vectors, whether rows of a are next to each other, and
/// whether the last vector is cut, all known when compiled.
#[cfg(target_arch = "x86_64")]
macro_rules! block {
    ($features:literal, $name:ident, $tile:ident, $lanes:expr, $rows:expr, [$($part:literal),*]) => {
        #[target_feature(enable = $features)]
        #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
        unsafe fn $name(
            out: Place,
            a: Left,
            b: Right,
            (rows, columns, steps): (usize, usize, usize),
            how: How,
        ) {
            for left in (0..columns).step_by(2 * $lanes) {
                let width = (columns - left).min(2 * $lanes);
                let b = b.tile(left, 2 * $lanes);
                let is_cut = !width.is_multiple_of($lanes);
                for top in (0..rows).step_by($rows) {
                    let (mut out, mut a) = (out.from(top, left), a.tile(top, $rows));
                    let mut how = how.from(top, left);
                    let mut rest = (rows - top).min($rows);
                    while rest > 0 {
                        let mut done = 0;
                        $(if done == 0 && rest >= $part {
                            done = $part;
                            // SAFETY: the caller vouches for the factors and the result; `width` fits the vectors.
                            unsafe {
                                match (width > $lanes, a.row == 1, is_cut) {
                                    (true, true, false) => $tile::<$part, 2, true, false>(out, a, b, steps, width, how),
                                    (true, true, true) => $tile::<$part, 2, true, true>(out, a, b, steps, width, how),
                                    (true, false, false) => $tile::<$part, 2, false, false>(out, a, b, steps, width, how),
                                    (true, false, true) => $tile::<$part, 2, false, true>(out, a, b, steps, width, how),
                                    (false, true, false) => $tile::<$part, 1, true, false>(out, a, b, steps, width, how),
                                    (false, true, true) => $tile::<$part, 1, true, true>(out, a, b, steps, width, how),
                                    (false, false, false) => $tile::<$part, 1, false, false>(out, a, b, steps, width, how),
                                    (false, false, true) => $tile::<$part, 1, false, true>(out, a, b, steps, width, how),
                                }
                            }
                        })*
                        out = out.from(done, 0);
                        how = how.from(done, 0);
                        a = a.down(done);
                        rest -= done;
                    }
                }
            }
        }
    };
}

/// Loops over plain numbers: what CPUs without one of the others use, and what the others are compared with.
pub struct Scalar;

const SCALAR_ROWS: usize = 4;
const SCALAR_COLUMNS: usize = 16;

impl Kernel for Scalar {
    const ROWS: usize = SCALAR_ROWS;
    const COLUMNS: usize = SCALAR_COLUMNS;

    #[allow(unsafe_code, reason = "a result that tasks share")]
    unsafe fn block(out: Place, a: Left, b: Right, (rows, columns, steps): (usize, usize, usize), how: How) {
        for left in (0..columns).step_by(Self::COLUMNS) {
            let width = (columns - left).min(Self::COLUMNS);
            let b = b.tile(left, Self::COLUMNS);
            for top in (0..rows).step_by(Self::ROWS) {
                let height = (rows - top).min(Self::ROWS);
                let (out, a, how) = (out.from(top, left), a.tile(top, Self::ROWS), how.from(top, left));
                let mut sums = [[0f32; SCALAR_COLUMNS]; SCALAR_ROWS];
                for step in 0..steps {
                    // SAFETY: the caller vouches for the factors.
                    let b = unsafe { std::slice::from_raw_parts(b.at.add(step * b.step), width) };
                    for (row, sums) in sums.iter_mut().enumerate().take(height) {
                        // SAFETY: as above.
                        let factor = unsafe { *a.at.add(row * a.row + step * a.step) };
                        for (sum, value) in sums.iter_mut().zip(b) {
                            *sum = factor.mul_add(*value, *sum);
                        }
                    }
                }
                for (number, sums) in sums.iter().enumerate().take(height) {
                    // SAFETY: the caller vouches for the result.
                    let row = unsafe { std::slice::from_raw_parts_mut(out.from(number, 0).at, width) };
                    for (column, (to, &sum)) in row.iter_mut().zip(sums).enumerate() {
                        // SAFETY: as above.
                        let plus = how.plus.map(|plus| unsafe { *plus.from(number, column).at });
                        *to = plus.map_or(sum * how.scale, |plus| sum.mul_add(how.scale, plus));
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{How, Kernel, Left, Place, Right};

    /// Tiles of 12 rows of two registers: 24 sums of the 32 registers.
    pub struct Avx512;

    impl Kernel for Avx512 {
        const ROWS: usize = 12;
        const COLUMNS: usize = 32;

        #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
        unsafe fn block(out: Place, a: Left, b: Right, sizes: (usize, usize, usize), how: How) {
            // SAFETY: the caller vouches for it.
            unsafe { block_avx512(out, a, b, sizes, how) }
        }
    }

    block!("avx512f", block_avx512, tile_avx512, 16, 12, [12, 8, 4, 2, 1]);

    /// The product of `ROWS` rows of a and `width` columns of b; the last register is `CUT` where `width` is not a multiple of 16.
    ///
    /// # Safety
    /// As [`Kernel::block`].
    #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn tile_avx512<const ROWS: usize, const VECTORS: usize, const ADJACENT: bool, const CUT: bool>(
        out: Place,
        a: Left,
        b: Right,
        steps: usize,
        width: usize,
        how: How,
    ) {
        const LANES: usize = 16;
        let last: __mmask16 = if CUT { (1 << (width % LANES)) - 1 } else { !0 };
        let mask = |vector: usize| if vector + 1 == VECTORS { last } else { !0 };
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        // SAFETY: the caller vouches for all that is read and written; what is beyond `width` is masked or padding.
        unsafe {
            for row in 0..ROWS {
                // A row that begins within a cache line ends in the next.
                let at = out.from(row, 0).at.cast::<i8>();
                _mm_prefetch::<_MM_HINT_T0>(at);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * VECTORS * LANES - 4));
            }
            let (mut from_a, mut from_b) = (a.at, b.at);
            let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.at.wrapping_add(row * a.row));
            for step in 0..steps {
                let values: [__m512; VECTORS] = std::array::from_fn(|vector| {
                    let at = from_b.add(vector * LANES);
                    if CUT && vector + 1 == VECTORS {
                        _mm512_maskz_loadu_ps(last, at)
                    } else {
                        _mm512_loadu_ps(at)
                    }
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = if ADJACENT { *from_a.add(row) } else { *rows[row].add(step) };
                    let factor = _mm512_set1_ps(factor);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = _mm512_fmadd_ps(factor, value, *sum);
                    }
                }
                from_a = from_a.wrapping_add(a.step);
                from_b = from_b.wrapping_add(b.step);
            }
            let scale = _mm512_set1_ps(how.scale);
            for (row, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    let at = out.from(row, vector * LANES).at;
                    let value = match how.plus {
                        Some(plus) => {
                            let plus = plus.from(row, vector * LANES).at;
                            _mm512_fmadd_ps(sum, scale, _mm512_maskz_loadu_ps(mask(vector), plus))
                        }
                        None => _mm512_mul_ps(sum, scale),
                    };
                    _mm512_mask_storeu_ps(at, mask(vector), value);
                }
            }
        }
    }

    /// Tiles of 6 rows of two registers: 12 sums of the 16 registers.
    pub struct Avx2;

    impl Kernel for Avx2 {
        const ROWS: usize = 6;
        const COLUMNS: usize = 16;

        #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
        unsafe fn block(out: Place, a: Left, b: Right, sizes: (usize, usize, usize), how: How) {
            // SAFETY: the caller vouches for it.
            unsafe { block_avx2(out, a, b, sizes, how) }
        }
    }

    block!("avx2,fma", block_avx2, tile_avx2, 8, 6, [6, 4, 2, 1]);

    /// As [`tile_avx512`], with registers of 8 values.
    ///
    /// # Safety
    /// As [`Kernel::block`].
    #[allow(unsafe_code, reason = "instructions that not every CPU has, and a result that tasks share")]
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile_avx2<const ROWS: usize, const VECTORS: usize, const ADJACENT: bool, const CUT: bool>(
        out: Place,
        a: Left,
        b: Right,
        steps: usize,
        width: usize,
        how: How,
    ) {
        const LANES: usize = 8;
        let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let last = _mm256_cmpgt_epi32(_mm256_set1_epi32((width % LANES) as i32), places);
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
        // SAFETY: the caller vouches for all that is read and written; what is beyond `width` is masked or padding.
        unsafe {
            for row in 0..ROWS {
                let at = out.from(row, 0).at.cast::<i8>();
                _mm_prefetch::<_MM_HINT_T0>(at);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * VECTORS * LANES - 4));
            }
            let (mut from_a, mut from_b) = (a.at, b.at);
            let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.at.wrapping_add(row * a.row));
            for step in 0..steps {
                let values: [__m256; VECTORS] = std::array::from_fn(|vector| {
                    let at = from_b.add(vector * LANES);
                    if CUT && vector + 1 == VECTORS {
                        _mm256_maskload_ps(at, last)
                    } else {
                        _mm256_loadu_ps(at)
                    }
                });
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = if ADJACENT { from_a.add(row) } else { rows[row].add(step) };
                    let factor = _mm256_broadcast_ss(&*factor);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = _mm256_fmadd_ps(factor, value, *sum);
                    }
                }
                from_a = from_a.wrapping_add(a.step);
                from_b = from_b.wrapping_add(b.step);
            }
            let scale = _mm256_set1_ps(how.scale);
            for (row, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    let at = out.from(row, vector * LANES).at;
                    let is_cut = CUT && vector + 1 == VECTORS;
                    let value = match how.plus {
                        Some(plus) => {
                            let plus = plus.from(row, vector * LANES).at;
                            let plus =
                                if is_cut { _mm256_maskload_ps(plus, last) } else { _mm256_loadu_ps(plus) };
                            _mm256_fmadd_ps(sum, scale, plus)
                        }
                        None => _mm256_mul_ps(sum, scale),
                    };
                    if is_cut {
                        _mm256_maskstore_ps(at, last, value);
                    } else {
                        _mm256_storeu_ps(at, value);
                    }
                }
            }
        }
    }
}
