//! Copies of parts of the factors, in the order in which a kernel reads them.

use rayon::prelude::*;

use super::Matrix;
use super::kernel::{Left, Right};
use crate::nn::cpu::{self, InstructionSet};

/// How many rows ahead of the one being packed memory is asked for the next: rows are a page or more apart, where the CPU does
/// not guess which comes next.
const AHEAD: usize = 3;
/// Panels that a thread packs at once where all pack.
const PANELS: usize = 8;
/// Values of a cache line.
const LINE: usize = 16;

/// Memory for packed panels; it grows and is kept.
#[derive(Default)]
pub struct Panels(Vec<f32>);

impl Panels {
    /// The first `count` values, which begin with a cache line.
    fn values(&mut self, count: usize) -> &mut [f32] {
        if self.0.len() < count + LINE {
            self.0.resize(count + LINE, 0.0);
        }
        let first = self.0.as_ptr().align_offset(size_of::<f32>() * LINE);
        &mut self.0[first..first + count]
    }

    /// Rows `top.0..` of a, `top.1` of them, steps `first.0..` of the inner dimension, `first.1` of them: `[panel, step, row]`
    /// with `height` rows a panel. Rows that do not exist hold anything.
    pub fn pack_left(
        &mut self,
        a: Matrix,
        first: (usize, usize),
        top: (usize, usize),
        height: usize,
    ) -> Left {
        let panels = self.values(top.1.div_ceil(height) * first.1 * height);
        pack(cpu::selected(), panels, a.t(), first, top, height);
        Left { at: panels.as_ptr(), row: 1, step: height, panel: first.1 * height }
    }

    /// Columns `left.0..` of b, `left.1` of them, steps `first.0..` of the inner dimension, `first.1` of them:
    /// `[panel, step, column]` with `width` columns a panel. Columns that do not exist hold anything.
    pub fn pack_right(
        &mut self,
        b: Matrix,
        first: (usize, usize),
        left: (usize, usize),
        width: usize,
    ) -> Right {
        let panels = self.values(left.1.div_ceil(width) * first.1 * width);
        pack(cpu::selected(), panels, b, first, left, width);
        Right { at: panels.as_ptr(), step: width, panel: first.1 * width }
    }

    /// The same for all of `depths`, one block behind the other, on all threads.
    pub fn pack_right_together(
        &mut self,
        b: Matrix,
        depths: &[(usize, usize)],
        left: (usize, usize),
        width: usize,
    ) -> Right {
        let columns = left.1.next_multiple_of(width);
        let mut rest = self.values(columns * depths.iter().map(|(_, steps)| steps).sum::<usize>());
        let at = rest.as_ptr();
        let mut parts = Vec::new();
        for &(first, steps) in depths {
            let (block, more) = rest.split_at_mut(columns * steps);
            let panels = block.chunks_mut(PANELS * width * steps).enumerate();
            parts.extend(panels.map(|(number, panels)| (panels, (first, steps), number * PANELS * width)));
            rest = more;
        }
        parts.into_par_iter().with_max_len(1).for_each(|(panels, first, skipped)| {
            let columns = (PANELS * width).min(left.1 - skipped);
            pack(cpu::selected(), panels, b, first, (left.0 + skipped, columns), width);
        });
        Right { at, step: width, panel: 0 }
    }
}

/// Rows `first` and columns `left` of `b`, of each a first and a number, into `panels`: `[panel, row, column]` with `width` columns a
/// panel.
fn pack(
    by: InstructionSet,
    panels: &mut [f32],
    b: Matrix,
    (first, steps): (usize, usize),
    (left, columns): (usize, usize),
    width: usize,
) {
    if b.is_row_major() {
        // Copies of a length that the compiler knows take no call.
        match width {
            4 => copy_rows::<4>(panels, b, (first, steps), (left, columns)),
            6 => copy_rows::<6>(panels, b, (first, steps), (left, columns)),
            12 => copy_rows::<12>(panels, b, (first, steps), (left, columns)),
            16 => copy_rows::<16>(panels, b, (first, steps), (left, columns)),
            32 => copy_rows::<32>(panels, b, (first, steps), (left, columns)),
            _ => unreachable!("no kernel has tiles of {width}"),
        }
        return;
    }
    match by {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: only what the CPU supports is handed in.
        #[allow(unsafe_code)]
        InstructionSet::Avx512 => unsafe {
            wide::pack_avx512(panels, b, (first, steps), (left, columns), width)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        #[allow(unsafe_code)]
        InstructionSet::Avx2 => unsafe { wide::pack_avx2(panels, b, (first, steps), (left, columns), width) },
        _ => {
            for (number, panel) in panels.chunks_exact_mut(steps * width).enumerate() {
                for place in 0..width.min(columns - number * width) {
                    let line = &b.t().row(left + number * width + place)[first..][..steps];
                    for (row, value) in panel.chunks_exact_mut(width).zip(line) {
                        row[place] = *value;
                    }
                }
            }
        }
    }
}

/// Rows `first` and columns `left` of the row-major `b`, as panels of `WIDTH` columns.
fn copy_rows<const WIDTH: usize>(
    panels: &mut [f32],
    b: Matrix,
    (first, steps): (usize, usize),
    (left, columns): (usize, usize),
) {
    for step in 0..steps {
        ask_for(b, first + step + AHEAD, left, columns);
        let (whole, rest) = b.row(first + step)[left..][..columns].as_chunks::<WIDTH>();
        for (number, from) in whole.iter().enumerate() {
            panels[(number * steps + step) * WIDTH..][..WIDTH].copy_from_slice(from);
        }
        panels[(whole.len() * steps + step).min(steps * columns.div_ceil(WIDTH)) * WIDTH..][..rest.len()]
            .copy_from_slice(rest);
    }
}

/// Asks for `count` columns from `first` on of a row to be brought from memory, if there is such a row.
#[inline]
fn ask_for(matrix: Matrix, row: usize, first: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    if row < matrix.rows {
        use std::arch::x86_64::*;
        for value in matrix.row(row)[first..][..count].iter().step_by(LINE) {
            // SAFETY: every x86-64 CPU has the instruction, which reads nothing.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (matrix, row, first, count);
}

/// Packing a factor whose steps are not next to each other, by transposing squares in registers. Whole cache lines are written,
/// once.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::Matrix;

    /// How many values ahead of those being packed memory is asked for the next of each line: four cache lines.
    const SOON: usize = 64;

    /// Defines `$name`: panels of `b`, whose columns are contiguous, by `$transpose` of `$lanes` x `$lanes` values.
    macro_rules! pack {
        ($features:literal, $name:ident, $transpose:ident, $lanes:literal) => {
            /// # Safety
            /// The CPU supports the instructions.
            #[allow(unsafe_code, reason = "instructions that not every CPU has")]
            #[target_feature(enable = $features)]
            pub unsafe fn $name(
                panels: &mut [f32],
                b: Matrix,
                (first, steps): (usize, usize),
                (left, columns): (usize, usize),
                width: usize,
            ) {
                let (b, last) = (b.t(), columns - 1);
                for (number, panel) in panels.chunks_exact_mut(steps * width).enumerate() {
                    for column in (0..width).step_by($lanes) {
                        let lines: [&[f32]; $lanes] = std::array::from_fn(|i| {
                            &b.row(left + (number * width + column + i).min(last))[first..][..steps]
                        });
                        let count = (width - column).min($lanes);
                        for done in (0..steps).step_by($lanes) {
                            let steps = (steps - done).min($lanes);
                            let from = lines.map(|line| line[done..].as_ptr());
                            for line in from {
                                // So many lines a page or more apart are more than a CPU follows by itself. It may be past
                                // the end: nothing is read.
                                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(SOON).cast());
                            }
                            let to =
                                panel[done * width + column..][..(steps - 1) * width + count].as_mut_ptr();
                            // SAFETY: each line has `steps` values left, and `to` has room for `steps` rows of `count`.
                            unsafe { $transpose(from, to, width, steps, count) }
                        }
                    }
                }
            }
        };
    }

    pack!("avx512f", pack_avx512, transpose_avx512, 16);
    pack!("avx2", pack_avx2, transpose_avx2, 8);

    /// Writes `steps` values of each of the first `count` of `lines` as columns of `out`, whose rows are `width` apart.
    ///
    /// # Safety
    /// The CPU supports the instructions; there is so much to read and to write.
    #[allow(unsafe_code, reason = "instructions that not every CPU has")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose_avx512(
        lines: [*const f32; 16],
        out: *mut f32,
        width: usize,
        steps: usize,
        count: usize,
    ) {
        let mask = |count: usize| -> __mmask16 { ((1u32 << count) - 1) as u16 };
        // SAFETY: the caller vouches for what is read and written; the rest is masked.
        let rows = unsafe { lines.map(|line| _mm512_maskz_loadu_ps(mask(steps), line)) };
        let pairs: [__m512; 16] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm512_unpacklo_ps(a, b) } else { _mm512_unpackhi_ps(a, b) }
        });
        // Of rows 4g to 4g + 3, quarter q of `fours[4g + i]` has column 4q + i.
        let fours: [__m512; 16] = std::array::from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            let (a, b) = (pairs[first], pairs[first + 2]);
            if i % 2 == 0 { _mm512_shuffle_ps::<0x44>(a, b) } else { _mm512_shuffle_ps::<0xee>(a, b) }
        });
        for i in 0..4 {
            let [a, b, c, d] = [fours[i], fours[4 + i], fours[8 + i], fours[12 + i]];
            let low = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
            let high = (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
            let columns = [
                _mm512_shuffle_f32x4::<0x88>(low.0, low.1),
                _mm512_shuffle_f32x4::<0xdd>(low.0, low.1),
                _mm512_shuffle_f32x4::<0x88>(high.0, high.1),
                _mm512_shuffle_f32x4::<0xdd>(high.0, high.1),
            ];
            for (quarter, column) in columns.into_iter().enumerate() {
                let step = 4 * quarter + i;
                if step < steps {
                    // SAFETY: as above.
                    unsafe { _mm512_mask_storeu_ps(out.add(step * width), mask(count), column) };
                }
            }
        }
    }

    /// As [`transpose_avx512`], of 8 lines.
    ///
    /// # Safety
    /// As there.
    #[allow(unsafe_code, reason = "instructions that not every CPU has")]
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose_avx2(
        lines: [*const f32; 8],
        out: *mut f32,
        width: usize,
        steps: usize,
        count: usize,
    ) {
        let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = |count: usize| _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), places);
        let (read, write) = (mask(steps), mask(count));
        // SAFETY: the caller vouches for what is read and written; the rest is masked.
        let rows = unsafe { lines.map(|line| _mm256_maskload_ps(line, read)) };
        let pairs: [__m256; 8] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
        });
        // Of rows 4g to 4g + 3, half h of `fours[4g + i]` has column 4h + i.
        let fours: [__m256; 8] = std::array::from_fn(|i| {
            let first = i / 4 * 4 + i % 4 / 2;
            let (a, b) = (pairs[first], pairs[first + 2]);
            if i % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
        });
        for i in 0..4 {
            let (a, b) = (fours[i], fours[4 + i]);
            let columns = [_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)];
            for (half, column) in columns.into_iter().enumerate() {
                let step = 4 * half + i;
                if step < steps {
                    // SAFETY: as above.
                    unsafe { _mm256_maskstore_ps(out.add(step * width), write, column) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_every_value_in_every_order_and_instruction_set() {
        let (first, left) = (3, 2);
        for (steps, columns) in [(1, 1), (15, 31), (16, 32), (17, 33), (40, 100)] {
            let (rows, width) = (first + steps + 1, left + columns + 2);
            let values: Vec<f32> = (0..rows * width).map(|i| i as f32).collect();
            let mut turned = vec![0.0; rows * width];
            for (i, value) in values.iter().enumerate() {
                turned[i % width * rows + i / width] = *value;
            }
            let across = Matrix::new(&values, rows, width, width);
            let down = Matrix::new(&turned, width, rows, rows).t();
            for (panel, b) in
                [4, 6, 12, 16, 32].into_iter().flat_map(|panel| [(panel, across), (panel, down)])
            {
                for by in InstructionSet::supported() {
                    let mut panels = vec![-1.0; columns.div_ceil(panel) * panel * steps];
                    pack(by, &mut panels, b, (first, steps), (left, columns), panel);
                    for (step, column) in
                        (0..steps).flat_map(|step| (0..columns).map(move |column| (step, column)))
                    {
                        let found = panels[(column / panel * steps + step) * panel + column % panel];
                        let expected = ((first + step) * width + left + column) as f32;
                        assert_eq!(
                            found, expected,
                            "{by:?}, panels of {panel}, step {step}, column {column}"
                        );
                    }
                }
            }
        }
    }
}
