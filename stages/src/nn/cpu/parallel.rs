//! Work over rows, on several threads where it pays. How rows are grouped depends on their number alone, so results
//! do not depend on how many threads there are.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::nn::packing::Packing;

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

/// `count` zeros, on which `f(first_row, rows)` is called with groups of whole rows that were just cleared.
pub fn filled(count: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Send + Sync) -> Vec<f32> {
    let group = group(width);
    let length = group * width.max(1);
    let mut values = Vec::with_capacity(count);
    let room = &mut values.spare_capacity_mut()[..count];
    let each = |(index, to): (usize, Room<'_>)| f(index * group, zeroed(to));
    if share(count) {
        room.par_chunks_mut(length).enumerate().for_each(each);
    } else {
        room.chunks_mut(length).enumerate().for_each(each);
    }
    // SAFETY: the groups are all of the room, and each was filled with zeros.
    #[allow(unsafe_code)]
    unsafe {
        values.set_len(count);
    }
    values
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

/// Σ over groups of rows of what `f(first_row, end_row, sums)` adds into `sums`; groups are added in their order. Rows of a
/// `packing` are grouped as they are with padding.
pub fn sum_rows(
    count: usize,
    width: usize,
    sums: usize,
    packing: Option<&Packing>,
    f: impl Fn(usize, usize, &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    let group = group(width);
    let begin = |index: usize| match packing {
        Some(packing) => packing.before(index * group),
        None => (index * group).min(count),
    };
    let partial = |index: usize| {
        let mut partial = vec![0f32; sums];
        f(begin(index), begin(index + 1), &mut partial);
        partial
    };
    let groups = packing.map_or(count, Packing::padded_rows).div_ceil(group);
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

/// Two buffers of zeros, cut where the ends `a` and `b` say, after `f(index, piece_of_a, piece_of_b)` was called for each pair of
/// pieces.
pub fn in_pieces(
    a: &[usize],
    b: &[usize],
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Send + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let length = |ends: &[usize]| ends.last().copied().unwrap_or(0);
    let (mut all_a, mut all_b) = (Vec::with_capacity(length(a)), Vec::with_capacity(length(b)));
    let pieces = pieces(&mut all_a, a).into_iter().zip(pieces(&mut all_b, b)).enumerate().collect::<Vec<_>>();
    let each = |(index, (a, b)): (usize, (Room<'_>, Room<'_>))| f(index, zeroed(a), zeroed(b));
    if share(length(a) + length(b)) {
        pieces.into_par_iter().with_max_len(1).for_each(each);
    } else {
        pieces.into_iter().for_each(each);
    }
    // SAFETY: the pieces are all of the room, and each was filled with zeros.
    #[allow(unsafe_code)]
    unsafe {
        all_a.set_len(length(a));
        all_b.set_len(length(b));
    }
    (all_a, all_b)
}

/// Memory that was not written yet.
type Room<'a> = &'a mut [MaybeUninit<f32>];

/// The room in a buffer, cut at `ends`.
fn pieces<'a>(buffer: &'a mut Vec<f32>, ends: &[usize]) -> Vec<Room<'a>> {
    let (mut rest, mut first) = (buffer.spare_capacity_mut(), 0);
    let piece = |end: &usize| {
        let (piece, more) = std::mem::take(&mut rest).split_at_mut(end - first);
        (rest, first) = (more, *end);
        piece
    };
    ends.iter().map(piece).collect()
}

/// The same memory, filled with zeros.
fn zeroed(piece: Room<'_>) -> &mut [f32] {
    piece.fill(MaybeUninit::new(0.0));
    // SAFETY: every value was just written.
    #[allow(unsafe_code)]
    unsafe {
        piece.assume_init_mut()
    }
}
