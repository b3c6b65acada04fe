//! Work over rows, on several threads where it pays. How rows are grouped depends on their number alone, so results
//! do not depend on how many threads there are.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Fewer elements than this are done by the calling thread: waking others costs more.
const WORTH_SHARING: usize = 1 << 17;

/// Elements a group should hold: enough to be worth handing out, few enough to fit a core's cache.
const GROUP: usize = 1 << 15;

/// Whether to hand work on so many elements to the pool. With a pool of one thread that would only move it to
/// another core, away from its cached data.
fn share(elements: usize) -> bool {
    elements >= WORTH_SHARING && rayon::current_num_threads() > 1
}

/// How many rows of `width` make a group.
fn group(width: usize) -> usize {
    (GROUP / width.max(1)).max(1)
}

/// Calls `f(first_row, rows)` with groups of whole rows of `out`.
pub fn rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let width = width.max(1);
    if !share(out.len()) {
        return f(0, out);
    }
    let group = group(width);
    out.par_chunks_mut(group * width).enumerate().for_each(|(index, rows)| f(index * group, rows));
}

/// A copy of `x`, on which `f(first_row, rows)` is called with groups of whole rows that were just copied.
pub fn copied(x: &[f32], width: usize, f: impl Fn(usize, &mut [f32]) + Send + Sync) -> Vec<f32> {
    let group = group(width);
    let length = group * width.max(1);
    let mut copy = Vec::with_capacity(x.len());
    let room = &mut copy.spare_capacity_mut()[..x.len()];
    let each = |(index, (to, from)): (usize, (&mut [MaybeUninit<f32>], &[f32]))| {
        f(index * group, to.write_copy_of_slice(from));
    };
    if share(x.len()) {
        room.par_chunks_mut(length).zip(x.par_chunks(length)).enumerate().for_each(each);
    } else {
        room.chunks_mut(length).zip(x.chunks(length)).enumerate().for_each(each);
    }
    // SAFETY: the groups are all of the room, and each was written.
    #[allow(unsafe_code)]
    unsafe {
        copy.set_len(x.len());
    }
    copy
}

/// Calls `f(first_row, rows_of_a, rows_of_b)` with groups of whole rows of two buffers with the same number of rows.
pub fn rows2(
    a: &mut [f32],
    a_width: usize,
    b: &mut [f32],
    b_width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) {
    let (a_width, b_width) = (a_width.max(1), b_width.max(1));
    if !share(a.len()) {
        return f(0, a, b);
    }
    let group = group(a_width);
    let (a, b) = (a.par_chunks_mut(group * a_width), b.par_chunks_mut(group * b_width));
    a.zip(b).enumerate().for_each(|(index, (a, b))| f(index * group, a, b));
}

/// Calls `f(first, part_of_a, part_of_b, part_of_c)` with groups of elements of three buffers of one length.
pub fn rows3(
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
    f: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Send + Sync,
) {
    if !share(a.len()) {
        return f(0, a, b, c);
    }
    let (b, c) = (b.par_chunks_mut(GROUP), c.par_chunks_mut(GROUP));
    let parts = a.par_chunks_mut(GROUP).zip(b).zip(c);
    parts.enumerate().for_each(|(index, ((a, b), c))| f(index * GROUP, a, b, c));
}

/// Σ over groups of rows of what `f(first_row, end_row, sums)` adds into `sums`; groups are added in their order.
pub fn sum_rows(
    count: usize,
    width: usize,
    sums: usize,
    f: impl Fn(usize, usize, &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    let group = group(width);
    let partial = |index: usize| {
        let mut partial = vec![0f32; sums];
        f(index * group, ((index + 1) * group).min(count), &mut partial);
        partial
    };
    let groups = count.div_ceil(group);
    let partials: Vec<Vec<f32>> = if !share(count * width) {
        (0..groups).map(partial).collect()
    } else {
        (0..groups).into_par_iter().map(partial).collect()
    };
    let mut total = vec![0f32; sums];
    for partial in partials {
        for (total, value) in total.iter_mut().zip(partial) {
            *total += value;
        }
    }
    total
}

/// Calls `f(index, piece)` for each of the pieces of a buffer.
pub fn pieces(a: &mut [f32], piece: usize, f: impl Fn(usize, &mut [f32]) + Send + Sync) {
    let piece = piece.max(1);
    if !share(a.len()) {
        a.chunks_exact_mut(piece).enumerate().for_each(|(index, a)| f(index, a));
    } else {
        a.par_chunks_exact_mut(piece).enumerate().for_each(|(index, a)| f(index, a));
    }
}

/// Calls `f(index, piece_of_a, piece_of_b)` for each of the pieces of two buffers.
pub fn zip(
    a: &mut [f32],
    a_piece: usize,
    b: &mut [f32],
    b_piece: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) {
    let (a_piece, b_piece) = (a_piece.max(1), b_piece.max(1));
    if !share(a.len() + b.len()) {
        let pieces = a.chunks_exact_mut(a_piece).zip(b.chunks_exact_mut(b_piece));
        pieces.enumerate().for_each(|(index, (a, b))| f(index, a, b));
    } else {
        let pieces = a.par_chunks_exact_mut(a_piece).zip(b.par_chunks_exact_mut(b_piece));
        pieces.enumerate().for_each(|(index, (a, b))| f(index, a, b));
    }
}
