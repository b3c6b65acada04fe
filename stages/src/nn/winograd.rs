//! 3×3 convolutions of stride 1 by Winograd's minimal filtering F(4×4, 3×3): 36 multiplications an input and output
//! channel for 16 outputs, where the direct way takes 144 (Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv:1509.09308, section 4.3).
//!
//! The input is cut into tiles of 6×6 that overlap by 2, tiles and filters are transformed, multiplied place by place (36
//! matrix products over the channels), and transformed back to 4×4 outputs. It knows no bias, and no other window.

use rayon::prelude::*;

use super::gemm::{Matrix, product};

/// The transforms interpolate a polynomial at 0, ±P, ±Q and infinity (Toom-Cook). Lavin & Gray have 1 and 2. The powers of
/// these are nearer to 1, so less is lost in sums: of random maps of 256 channels the largest error falls from 4.9e-5 to 1.2e-5
/// of the outputs' deviation. That points other than small integers serve better: Barabasz et al. 2020, "Error Analysis and
/// Improving the Accuracy of Winograd Convolution for Deep Neural Networks", ACM TOMS 46(4).
const P: f32 = 0.75;
/// See [`P`].
const Q: f32 = 1.5;
/// Outputs of a tile, each direction.
const OUT: usize = 4;
/// Inputs of a tile, each direction.
const IN: usize = 6;
/// Places of a tile.
const PLACES: usize = IN * IN;
/// Fewer channels on either side do not pay for the transforms.
const FEWEST_CHANNELS: usize = 64;
/// Nor do fewer tiles.
const FEWEST_TILES: usize = 16;
/// Values of the transformed tiles that are in memory at once; of their products as many again.
const AT_ONCE: usize = 1 << 23;

/// The filters of a convolution, transformed.
#[derive(Debug, Clone)]
pub struct Filters {
    /// `[36, out, depth]`.
    values: Vec<f32>,
    out: usize,
    depth: usize,
}

impl Filters {
    /// Transforms `weight` `[out, depth, 3, 3]`; `None` where there are too few channels for it to pay.
    pub fn new(weight: &[f32], out: usize, depth: usize) -> Option<Self> {
        if out.min(depth) < FEWEST_CHANNELS {
            return None;
        }
        let mut values = vec![0f32; PLACES * out * depth];
        for (at, filter) in weight.chunks_exact(9).enumerate() {
            // In double precision: it is done once, and its rounding would be in every output.
            let filter: [f64; 9] = std::array::from_fn(|i| f64::from(filter[i]));
            let columns: [[f64; IN]; 3] =
                std::array::from_fn(|x| of_filter([filter[x], filter[3 + x], filter[6 + x]]));
            for y in 0..IN {
                let row = of_filter([columns[0][y], columns[1][y], columns[2][y]]);
                for (x, value) in row.into_iter().enumerate() {
                    values[(y * IN + x) * out * depth + at] = value as f32;
                }
            }
        }
        Some(Self { values, out, depth })
    }

    /// Whether it pays for maps of this size.
    pub fn suit(height: usize, width: usize) -> bool {
        height.div_ceil(OUT) * width.div_ceil(OUT) >= FEWEST_TILES
    }

    /// Writes the convolution of `x` `[depth, height, width]`, with one pixel of zeros around it, to `y`
    /// `[out, height, width]`. The same bits on any number of threads.
    pub fn apply(&self, y: &mut [f32], x: &[f32], height: usize, width: usize) {
        let Self { values, out, depth } = self;
        let (plane, across) = (height * width, width.div_ceil(OUT));
        let rows_at_once = (AT_ONCE / (PLACES * depth.max(out) * across)).clamp(1, height.div_ceil(OUT));
        let max_tiles = PLACES * rows_at_once * across;
        // By channel, place and tile, so that threads may share out the channels.
        let (mut tiles, mut products) = (vec![0f32; depth * max_tiles], vec![0f32; out * max_tiles]);
        for top in (0..height).step_by(rows_at_once * OUT) {
            let rows = rows_at_once.min((height - top).div_ceil(OUT));
            let count = rows * across;
            let (tiles, products) =
                (&mut tiles[..depth * PLACES * count], &mut products[..out * PLACES * count]);
            tiles.par_chunks_mut(PLACES * count).zip(x.par_chunks(plane)).for_each(|(tiles, x)| {
                for row in 0..rows {
                    cut(tiles, count, row * across, x, (height, width), top + row * OUT);
                }
            });
            for place in 0..PLACES {
                let filters = Matrix::new(&values[place * out * depth..], *out, *depth, *depth);
                let tiles = Matrix::new(&tiles[place * count..], *depth, count, PLACES * count);
                product(&mut products[place * count..], PLACES * count, filters, tiles, 1.0, false);
            }
            products.par_chunks(PLACES * count).zip(y.par_chunks_mut(plane)).for_each(|(products, y)| {
                for row in 0..rows {
                    join(y, width, top + row * OUT, products, count, row * across);
                }
            });
        }
    }
}

/// Writes a row of transformed tiles of one channel: `tiles` is `[36, count]`, the row's first is number `first`, and its
/// outputs begin in line `top` of `x`.
fn cut(
    tiles: &mut [f32],
    count: usize,
    first: usize,
    x: &[f32],
    (height, width): (usize, usize),
    top: usize,
) {
    let across = width.div_ceil(OUT);
    let length = across * OUT + 2;
    // Six lines of the input, with the zeros around it, then combined line by line.
    let mut lines = vec![0f32; IN * length];
    for (number, line) in lines.chunks_exact_mut(length).enumerate() {
        if let Some(at) = (top + number).checked_sub(1).filter(|&at| at < height) {
            line[1..=width].copy_from_slice(&x[at * width..][..width]);
        }
    }
    let (above, below) = lines.split_at_mut(3 * length);
    let (l0, rest) = above.split_at_mut(length);
    let (l1, l2) = rest.split_at_mut(length);
    let (l3, rest) = below.split_at_mut(length);
    let (l4, l5) = rest.split_at_mut(length);
    for at in 0..length {
        [l0[at], l1[at], l2[at], l3[at], l4[at], l5[at]] =
            of_input([l0[at], l1[at], l2[at], l3[at], l4[at], l5[at]]);
    }
    for (y, line) in lines.chunks_exact(length).enumerate() {
        for tile in 0..across {
            let window: [f32; IN] = std::array::from_fn(|x| line[tile * OUT + x]);
            for (x, value) in of_input(window).into_iter().enumerate() {
                tiles[(y * IN + x) * count + first + tile] = value;
            }
        }
    }
}

/// Writes a row of products of one channel, transformed back, to `y` from line `top` on.
fn join(y: &mut [f32], width: usize, top: usize, products: &[f32], count: usize, first: usize) {
    let (across, height) = (width.div_ceil(OUT), y.len() / width);
    // Column by column of the tiles first, all tiles of the row side by side: by column, line and tile.
    let mut columns = vec![0f32; IN * OUT * across];
    for (x, column) in columns.chunks_exact_mut(OUT * across).enumerate() {
        let [a, b, c, d, e, f]: [&[f32]; IN] =
            std::array::from_fn(|y| &products[(y * IN + x) * count + first..][..across]);
        let (upper, lower) = column.split_at_mut(2 * across);
        let (l0, l1) = upper.split_at_mut(across);
        let (l2, l3) = lower.split_at_mut(across);
        for at in 0..across {
            [l0[at], l1[at], l2[at], l3[at]] = of_output([a[at], b[at], c[at], d[at], e[at], f[at]]);
        }
    }
    for (number, line) in (top..height.min(top + OUT)).enumerate() {
        let line = &mut y[line * width..][..width];
        for (tile, line) in line.chunks_mut(OUT).enumerate() {
            let values = of_output(std::array::from_fn(|x| columns[(x * OUT + number) * across + tile]));
            line.copy_from_slice(&values[..line.len()]);
        }
    }
}

/// The transform of a filter's line: its polynomial at the six points, over what the interpolation divides by.
fn of_filter([a, b, c]: [f64; 3]) -> [f64; IN] {
    let (p, q) = (f64::from(P), f64::from(Q));
    let near = 2.0 * p * p * (p * p - q * q);
    let far = 2.0 * q * q * (q * q - p * p);
    [
        a / (p * p * q * q),
        (a + b * p + c * p * p) / near,
        (a - b * p + c * p * p) / near,
        (a + b * q + c * q * q) / far,
        (a - b * q + c * q * q) / far,
        c,
    ]
}

/// The transform of an input's line.
fn of_input([a, b, c, d, e, f]: [f32; IN]) -> [f32; IN] {
    const PP: f32 = P * P;
    const QQ: f32 = Q * Q;
    let (near, near_odd) = (e - QQ * c, P * (d - QQ * b));
    let (far, far_odd) = (e - PP * c, Q * (d - PP * b));
    [
        PP * QQ * a - (PP + QQ) * c + e,
        near + near_odd,
        near - near_odd,
        far + far_odd,
        far - far_odd,
        PP * QQ * b - (PP + QQ) * d + f,
    ]
}

/// The transform of a line of products back.
fn of_output([a, b, c, d, e, f]: [f32; IN]) -> [f32; OUT] {
    let (near, near_odd, far, far_odd) = (b + c, P * (b - c), d + e, Q * (d - e));
    [a + near + far, near_odd + far_odd, P * P * near + Q * Q * far, P * P * near_odd + Q * Q * far_odd + f]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without order, from -1 to 1.
    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let scramble = |i: usize| (i as u64 + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let value = |i| scramble(i).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
        (0..count).map(|i| value(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// The definition, in double precision.
    fn direct(
        x: &[f32],
        weight: &[f32],
        (out, depth): (usize, usize),
        height: usize,
        width: usize,
    ) -> Vec<f64> {
        let mut y = vec![0f64; out * height * width];
        for (at, y) in y.iter_mut().enumerate() {
            let (channel, row, column) = (at / (height * width), at / width % height, at % width);
            for (from, filter) in (0..depth).zip(weight[channel * depth * 9..].chunks(9)) {
                for (tap, &weight) in filter.iter().enumerate() {
                    let (line, place) = (row + tap / 3, column + tap % 3);
                    if (1..=height).contains(&line) && (1..=width).contains(&place) {
                        let x = x[(from * height + line - 1) * width + place - 1];
                        *y += f64::from(x) * f64::from(weight);
                    }
                }
            }
        }
        y
    }

    #[test]
    fn is_the_convolution_up_to_rounding() {
        for (out, depth, height, width) in
            [(64, 64, 16, 16), (65, 70, 13, 19), (64, 128, 1, 61), (80, 64, 30, 3)]
        {
            let (x, weight) = (noise(depth * height * width, 37), noise(out * depth * 9, 611));
            let filters = Filters::new(&weight, out, depth).unwrap();
            let mut y = vec![0.5f32; out * height * width];
            filters.apply(&mut y, &x, height, width);
            let expected = direct(&x, &weight, (out, depth), height, width);
            let scale = expected.iter().map(|y| y * y).sum::<f64>() / expected.len() as f64;
            let off = y.iter().zip(&expected).map(|(y, e)| (f64::from(*y) - e).abs()).fold(0.0, f64::max);
            assert!(off < 2e-5 * scale.sqrt(), "{out} {depth} {height}x{width}: {off} of {}", scale.sqrt());
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (x, weight) = (noise(64 * 400, 3), noise(64 * 64 * 9, 7));
        let mut x = x;
        x[7 * 400 + 210] = f32::NAN;
        let mut y = vec![0f32; 64 * 400];
        Filters::new(&weight, 64, 64).unwrap().apply(&mut y, &x, 20, 20);
        assert!(y[210].is_nan() && y[63 * 400 + 210].is_nan());
    }

    #[test]
    fn few_channels_or_tiles_are_left_to_others() {
        assert!(Filters::new(&noise(63 * 64 * 9, 1), 63, 64).is_none());
        assert!(Filters::new(&noise(64 * 63 * 9, 1), 64, 63).is_none());
        assert!(!Filters::suit(12, 16) && Filters::suit(16, 16) && Filters::suit(13, 13));
    }
}
