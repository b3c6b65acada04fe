//! Embeddings, rows and the factors of products against their definitions.

use crate::support::*;

/// Two additions of numbers near 1.
const ADDITIONS: f64 = 2e-7;

pub fn embed_text(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (batch, tokens, width) in [(2, 3, 5), (3, 7, 260)] {
        let rows = batch * tokens;
        let (words, positions, types) =
            (random.values(11 * width), random.values(tokens * width), random.values(2 * width));
        let places = random.ids(rows, 11);
        let mut expected = Vec::new();
        for (row, place) in places.iter().enumerate() {
            let at = |buffer: &Buffer, row: usize, c: usize| f64::from(buffer.values()[row * width + c]);
            expected.extend((0..width).map(|c| {
                at(&words, *place as usize, c) + at(&positions, row % tokens, c) + at(&types, 0, c)
            }));
        }
        let mut out = Buffer::poisoned(rows * width);
        let args = [output(&mut out), ids(&places), input(&words), input(&positions), input(&types)];
        let args = [&args[..], &[size(rows), size(tokens), size(width)]].concat();
        launch(kernel, matrix(rows, width), &args, seed)?;
        close("out", &out, &expected, ADDITIONS)?;
    }
    Ok(())
}

/// Few ids, so that each comes often, more than 256 places, and rows of more than the 1024 values that a block takes at once.
pub fn embed_gradient(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (count, width, table, pad) in
        [(1, 3, 4, u32::MAX), (300, 20, 5, 2), (530, 6, 400, 0), (19, 1100, 3, 1)]
    {
        let (places, grad, mut words) =
            (random.ids(count, table), random.values(count * width), random.values(table as usize * width));
        let mut expected = words.wide();
        for (row, &id) in places.iter().enumerate().filter(|(_, id)| **id != pad) {
            for c in 0..width {
                expected[id as usize * width + c] += f64::from(grad.values()[row * width + c]);
            }
        }
        let args =
            [output(&mut words), ids(&places), input(&grad), size(count), size(width), size(pad as usize)];
        launch(kernel, ([count, 1, 1], 256), &args, seed)?;
        // Up to 100 additions of numbers near 1 to sums near 10.
        close("gradient", &words, &expected, 1e-6)?;
    }
    Ok(())
}

/// Shapes of texts and regions: batch, tokens, regions, width.
const JOINED: [(usize, usize, usize, usize); 3] = [(1, 1, 1, 1), (3, 4, 2, 5), (2, 5, 9, 260)];

/// Text and regions of the batch, and both joined.
fn joined((batch, tokens, regions, width): (usize, usize, usize, usize), random: &mut Random) -> [Buffer; 3] {
    let (text, of_regions) = (random.values(batch * tokens * width), random.values(batch * regions * width));
    let rows = text.values().chunks(tokens * width).zip(of_regions.values().chunks(regions * width));
    let both = Buffer::new(&rows.flat_map(|(text, regions)| [text, regions].concat()).collect::<Vec<_>>());
    [text, of_regions, both]
}

pub fn concat(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for shape @ (batch, tokens, regions, width) in JOINED {
        let [text, of_regions, both] = joined(shape, &mut random);
        let mut out = Buffer::poisoned(both.values().len());
        let sizes = [batch, tokens, regions, width].map(size);
        let args = [&[output(&mut out), input(&text), input(&of_regions)], &sizes[..]].concat();
        launch(kernel, matrix(batch * (tokens + regions), width), &args, seed)?;
        equal("out", &out, both.values())?;
    }
    Ok(())
}

pub fn split_concat(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for shape @ (batch, tokens, regions, width) in JOINED {
        let [text, of_regions, both] = joined(shape, &mut random);
        for (of_text, of_both) in [(true, false), (false, true), (true, true)] {
            let [mut found_text, mut found_regions] =
                [&text, &of_regions].map(|buffer| Buffer::poisoned(buffer.values().len()));
            let (first, second) = (of_text, of_both || !of_text);
            let args = [
                if first { output(&mut found_text) } else { NULL },
                if second { output(&mut found_regions) } else { NULL },
                input(&both),
            ];
            let args = [&args[..], &[batch, tokens, regions, width].map(size)].concat();
            launch(kernel, matrix(batch * (tokens + regions), width), &args, seed)?;
            if first {
                equal("text", &found_text, text.values())?;
            }
            if second {
                equal("regions", &found_regions, of_regions.values())?;
            }
        }
    }
    Ok(())
}

/// Sequences of which some are without padding, and the width of a row.
fn of_sequences() -> [(Sequences, usize); 5] {
    [
        (Sequences::padded(1, 1), 1),
        (Sequences::padded(5, 3), 7),
        (Sequences::padded(2, 4), 300),
        (Sequences::packed(9, &[&[1], &[3, 2, 4], &[9], &[2]]), 7),
        (Sequences::packed(4, &[&[2, 1, 1], &[1]]), 300),
    ]
}

pub fn first_rows(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (sequences, width) in of_sequences() {
        let (x, batch) = (random.values(sequences.rows() * width), sequences.batch());
        let first = |b: usize| sequences.of(b).next().unwrap().0;
        let expected: Vec<f32> =
            (0..batch).flat_map(|b| x.values()[first(b) * width..][..width].to_vec()).collect();
        let mut out = Buffer::poisoned(batch * width);
        let sizes = [batch, sequences.length(), width].map(size);
        let args = [&[output(&mut out), input(&x), sequences.starts()], &sizes[..]].concat();
        launch(kernel, matrix(batch, width), &args, seed)?;
        equal("out", &out, &expected)?;
    }
    Ok(())
}

pub fn add_first_rows(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (sequences, width) in of_sequences() {
        let batch = sequences.batch();
        let (mut x, first) = (random.values(sequences.rows() * width), random.values(batch * width));
        let mut expected = x.values().to_vec();
        for (b, first) in first.values().chunks(width).enumerate() {
            let (row, _) = sequences.of(b).next().unwrap();
            expected[row * width..][..width].iter_mut().zip(first).for_each(|(x, first)| *x += first);
        }
        let sizes = [batch, sequences.length(), width].map(size);
        let args = [&[output(&mut x), input(&first), sequences.starts()], &sizes[..]].concat();
        launch(kernel, matrix(batch, width), &args, seed)?;
        equal("x", &x, &expected)?;
    }
    Ok(())
}

const PLACES: [u32; 6] = [9, 2, 3, 12, 0, 7];

pub fn select_rows(kernel: &str, seed: u64) -> Checked {
    for width in [1, 9, 300] {
        let x = Random::new(seed).values(13 * width);
        let expected: Vec<f32> =
            PLACES.iter().flat_map(|place| x.values()[*place as usize * width..][..width].to_vec()).collect();
        let mut out = Buffer::poisoned(6 * width);
        launch(
            kernel,
            matrix(6, width),
            &[output(&mut out), input(&x), ids(&PLACES), size(6), size(width)],
            seed,
        )?;
        equal("out", &out, &expected)?;
    }
    Ok(())
}

pub fn scatter_rows(kernel: &str, seed: u64) -> Checked {
    for width in [1, 9, 300] {
        let mut random = Random::new(seed);
        let (x, mut out) = (random.values(6 * width), random.values(13 * width));
        let mut expected = out.values().to_vec();
        for (place, x) in PLACES.iter().zip(x.values().chunks(width)) {
            expected[*place as usize * width..][..width].copy_from_slice(x);
        }
        launch(
            kernel,
            matrix(6, width),
            &[output(&mut out), input(&x), ids(&PLACES), size(6), size(width)],
            seed,
        )?;
        equal("out", &out, &expected)?;
    }
    Ok(())
}

/// A factor of a product: the matrix F(i, k) row by row, and the arguments that describe it.
struct Factor {
    count: usize,
    inner: usize,
    matrix: Vec<f32>,
    sources: Vec<Buffer>,
    args: Vec<Arg>,
}

impl Factor {
    /// `sources` matrices side by side along the inner dimension or along the count; rows of `inner` values follow one another,
    /// or columns of `count` values, with a few values between two of them.
    fn new(
        count: usize,
        inner: usize,
        sources: usize,
        along_inner: bool,
        by_columns: bool,
        random: &mut Random,
    ) -> Self {
        let (rows, columns) = if along_inner { (count, inner / sources) } else { (count / sources, inner) };
        let (count_stride, inner_stride) = if by_columns { (1, rows + 3) } else { (columns + 5, 1) };
        let len = rows * count_stride + columns * inner_stride;
        let sources: Vec<Buffer> = (0..sources).map(|_| random.values(len)).collect();
        let mut matrix = Vec::new();
        for i in 0..count {
            for k in 0..inner {
                let source = if along_inner { k / columns } else { i / rows };
                let at = i % rows * count_stride + k % columns * inner_stride;
                matrix.push(sources[source].values()[at]);
            }
        }
        let pointers = (0..3).map(|i| sources.get(i).map_or(NULL, input));
        let mut args: Vec<Arg> = pointers.collect();
        args.extend([size(sources.len()), size(usize::from(along_inner)), size(count), size(inner)]);
        args.extend([long(count_stride), long(inner_stride)]);
        Self { count, inner, matrix, sources, args }
    }

    fn several(random: &mut Random) -> Vec<Self> {
        let shapes =
            [(3, 5, 1, false), (35, 70, 1, false), (66, 40, 3, false), (33, 66, 2, true), (20, 99, 3, true)];
        let of = |(count, inner, sources, along_inner)| {
            [false, true].map(|by_columns| (count, inner, sources, along_inner, by_columns))
        };
        let of = |shape| {
            of(shape)
                .map(|(count, inner, sources, along, by)| Self::new(count, inner, sources, along, by, random))
        };
        shapes.map(of).into_iter().flatten().collect()
    }
}

/// The nearest number of 11 significant bits; halves away from zero.
fn tf32(x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let unit = libm::exp2(libm::floor(libm::log2(x.abs())) - 10.0);
    (x / unit).round() * unit
}

pub fn split_factor(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for factor in Factor::several(&mut random) {
        for (cut, right) in [(32, false), (24, true), (400, false)] {
            let (count, inner, parts) = (factor.count, factor.inner, factor.inner.div_ceil(cut));
            let mut expected = vec![0f32; parts * count * 3 * cut];
            for (at, &x) in factor.matrix.iter().enumerate() {
                let (i, k) = (at / inner, at % inner);
                let high = tf32(f64::from(x));
                let low = tf32(f64::from(x) - high);
                let row = &mut expected[(k / cut * count + i) * 3 * cut..][..3 * cut];
                let blocks = if right { [high, low, high] } else { [low, high, high] };
                blocks
                    .iter()
                    .enumerate()
                    .for_each(|(block, value)| row[block * cut + k % cut] = *value as f32);
            }
            let mut out = Buffer::poisoned(expected.len());
            let args =
                [&[output(&mut out)], &factor.args[..], &[size(cut), size(usize::from(right))]].concat();
            let grid = [(parts * cut).div_ceil(32), count.div_ceil(32), 1];
            launch(kernel, (grid, 256), &args, seed)?;
            equal(&format!("{} sources", factor.sources.len()), &out, &expected)?;
        }
    }
    // What is not finite stays so: no product hides it.
    let x = Buffer::new(&[f32::NAN, f32::from_bits(0x7fff_ffff), f32::INFINITY]);
    let mut out = Buffer::poisoned(9);
    let args =
        [output(&mut out), input(&x), NULL, NULL, size(1), size(0), size(3), size(1), long(1), long(3)];
    launch(kernel, ([1, 1, 1], 256), &[&args[..], &[size(1), size(1)]].concat(), seed)?;
    let high: Vec<f32> = out.values().iter().step_by(3).copied().collect();
    if high[0].is_nan() && high[1].is_nan() && high[2] == f32::INFINITY {
        Ok(())
    } else {
        Err(format!("{high:?}"))
    }
}

pub fn round_factor(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for factor in Factor::several(&mut random) {
        let (count, inner) = (factor.count, factor.inner);
        let mut out = vec![0xabcdu16; count * inner + 8];
        let grid = [inner.div_ceil(32), count.div_ceil(32), 1];
        launch(kernel, (grid, 256), &[&[memory(&mut out)], &factor.args[..]].concat(), seed)?;
        for (i, (&found, &x)) in out.iter().zip(&factor.matrix).enumerate() {
            // The nearest number of 8 significant bits.
            let unit = libm::exp2(libm::floor(libm::log2(f64::from(x.abs()))) - 7.0);
            let expected = (f64::from(x) / unit).round_ties_even() * unit;
            let found = f64::from(f32::from_bits(u32::from(found) << 16));
            if found != expected {
                return Err(format!("element {i} is {found}, not {expected}"));
            }
        }
        if out[count * inner..] != [0xabcd; 8] {
            return Err("written beyond the end".to_owned());
        }
    }
    let special = [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::from_bits(0x3f80_8000)];
    let (x, mut out) = (Buffer::new(&special), vec![0u16; 4]);
    let args =
        [memory(&mut out), input(&x), NULL, NULL, size(1), size(0), size(1), size(4), long(4), long(1)];
    launch(kernel, ([1, 1, 1], 256), &args, seed)?;
    // The last one is halfway between 1 and the next number: the even one is 1.
    if out == [0x7fff, 0x7fff, 0x7f80, 0x3f80] { Ok(()) } else { Err(format!("{out:x?}")) }
}
