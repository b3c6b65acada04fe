//! Copies of parts of the factors, in the order in which a kernel reads them.

use rayon::prelude::*;

use super::Matrix;
use super::kernel::{Left, Right};

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
        pack(panels, a.t(), first, top, height);
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
        pack(panels, b, first, left, width);
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
            pack(panels, b, first, (left.0 + skipped, columns), width);
        });
        Right { at, step: width, panel: 0 }
    }
}

/// Rows `first` and columns `left` of `b`, of each a first and a number, into `panels`: `[panel, row, column]` with `width` columns a
/// panel.
fn pack(
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
    let (b, last) = (b.t(), columns - 1);
    for (number, panel) in panels.chunks_exact_mut(steps * width).enumerate() {
        for column in (0..width).step_by(4) {
            let lines: [&[f32]; 4] = std::array::from_fn(|i| {
                &b.row(left + (number * width + column + i).min(last))[first..][..steps]
            });
            transpose(&mut panel[column..], width, &lines[..(width - column).min(4)]);
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

/// Writes `lines`, at most four of one length, as columns of `out`, whose rows are `width` apart.
fn transpose(out: &mut [f32], width: usize, lines: &[&[f32]]) {
    let (steps, mut done) = (lines[0].len(), 0);
    #[cfg(target_arch = "x86_64")]
    if let &[a, b, c, d] = lines {
        use std::arch::x86_64::*;
        assert!(
            out.len() + width >= steps * width + 4 && [a, b, c, d].iter().all(|line| line.len() == steps)
        );
        while done + 4 <= steps {
            // SAFETY: every x86-64 CPU has SSE2; four values of each line and of four rows of `out` are there.
            #[allow(unsafe_code)]
            unsafe {
                let [mut a, mut b, mut c, mut d] =
                    [a, b, c, d].map(|line| _mm_loadu_ps(line.as_ptr().add(done)));
                _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
                for (i, row) in [a, b, c, d].into_iter().enumerate() {
                    _mm_storeu_ps(out.as_mut_ptr().add((done + i) * width), row);
                }
            }
            done += 4;
        }
    }
    while done < steps {
        for (to, line) in out[done * width..].iter_mut().zip(lines) {
            *to = line[done];
        }
        done += 1;
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
