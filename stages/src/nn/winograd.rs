//! 3×3 convolutions of stride 1 by Winograd's minimal filtering F(4×4, 3×3): 36 multiplications an input and output
//! channel for 16 outputs, where the direct way takes 144 (Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural
//! Networks", arXiv:1509.09308, section 4.3).
//!
//! The input is cut into tiles of 6×6 that overlap by 2, tiles and filters are transformed, multiplied place by place (36
//! matrix products over the channels), and transformed back to 4×4 outputs. It knows no bias, and no other window.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::cpu::per_instruction_set;
use super::cpu_tensor::with_cpu_values;
use super::epilogue::Epilogue;
use super::gemm::{Matrix, product_from};

/// The transforms interpolate a polynomial at 0, ±P, ±Q and infinity (Toom-Cook). Lavin & Gray have 1 and 2. The powers of
/// these are nearer to 1, so less is lost in sums: of random maps of 256 channels the largest error falls from 4.9e-5 to 1.2e-5
/// of the outputs' deviation. That points other than small integers serve better: Barabasz et al. 2020, "Error Analysis and
/// Improving the Accuracy of Winograd Convolution for Deep Neural Networks", ACM TOMS 46(4).
const P: f32 = 0.75;
/// See [`P`].
const Q: f32 = 1.5;
/// Outputs of a tile, each direction.
pub(super) const OUT: usize = 4;
/// Inputs of a tile, each direction.
const IN: usize = 6;
/// Places of a tile.
pub(super) const PLACES: usize = IN * IN;
/// Tiles that are transformed at the same time.
const LANES: usize = 16;
/// Values between the products of two places, whose lines would share a few lines of the first-level cache without.
const GAP: usize = 16;
/// Fewer channels on either side do not pay for the transforms.
const FEWEST_CHANNELS: usize = 64;
/// Nor do fewer tiles.
const FEWEST_TILES: usize = 16;
/// Values of the transformed tiles that are in memory at once; of their products as many again.
const AT_ONCE: usize = 1 << 23;

/// The filters of a convolution, transformed.
#[derive(Debug, Clone)]
pub struct Filters {
    /// `[36, out, depth]`, on the device that computes.
    pub(super) values: Tensor,
    out: usize,
    depth: usize,
}

impl Filters {
    /// Transforms `weight` `[out, depth, 3, 3]`; `None` where there are too few channels for it to pay.
    ///
    /// # Errors
    /// Only if `device` fails.
    pub fn new(weight: &[f32], out: usize, depth: usize, device: &Device) -> Result<Option<Self>> {
        if out.min(depth) < FEWEST_CHANNELS {
            return Ok(None);
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
        let values = Tensor::from_vec(values, (PLACES, out, depth), device)?;
        Ok(Some(Self { values, out, depth }))
    }

    /// Whether it pays for maps of this size.
    pub fn suit(height: usize, width: usize) -> bool {
        height.div_ceil(OUT) * width.div_ceil(OUT) >= FEWEST_TILES
    }

    /// Writes the convolution of `x` `[depth, height, width]`, with one pixel of zeros around it and finished by `then`, to
    /// `y` `[out, height, width]`. The same bits on any number of threads.
    ///
    /// # Errors
    /// The filters are not in host memory.
    pub fn apply(
        &self,
        y: &mut [MaybeUninit<f32>],
        x: &[f32],
        (height, width): (usize, usize),
        then: Epilogue,
    ) -> Result<()> {
        with_cpu_values(&self.values, |values| self.apply_values(values, y, x, (height, width), then))
    }

    fn apply_values(
        &self,
        values: &[f32],
        y: &mut [MaybeUninit<f32>],
        x: &[f32],
        (height, width): (usize, usize),
        then: Epilogue,
    ) {
        let Self { out, depth, .. } = self;
        let (plane, across) = (height * width, width.div_ceil(OUT));
        let rows_at_once = (AT_ONCE / (PLACES * depth.max(out) * across)).clamp(1, height.div_ceil(OUT));
        let max_tiles = PLACES * rows_at_once * across;
        // Tiles by channel, place and tile, products by place, channel and tile: threads share out channels, then places.
        let mut scratch = SCRATCH.with_borrow_mut(std::mem::take);
        let Scratch { tiles, products } = &mut scratch;
        tiles.resize(tiles.len().max(depth * max_tiles), 0.0);
        products.resize(products.len().max(out * max_tiles + PLACES * GAP), 0.0);
        for top in (0..height).step_by(rows_at_once * OUT) {
            let rows = rows_at_once.min((height - top).div_ceil(OUT));
            let count = rows * across;
            let (tiles, products) =
                (&mut tiles[..depth * PLACES * count], &mut products[..PLACES * (out * count + GAP)]);
            tiles.par_chunks_mut(PLACES * count).zip(x.par_chunks(plane)).for_each_init(
                || Lines::new(across),
                |lines, (tiles, x)| {
                    for row in 0..rows {
                        lines.read(x, (height, width), top + row * OUT);
                        cut(tiles, count, row * across, across, &mut lines.phases);
                    }
                },
            );
            // A thread multiplies at its own places, so that none waits for another.
            let places = products.par_chunks_mut(out * count + GAP).with_max_len(1).enumerate();
            places.for_each(|(place, products)| {
                let filters = Matrix::new(&values[place * out * depth..], *out, *depth, *depth);
                let tiles = Matrix::new(&tiles[place * count..], *depth, count, PLACES * count);
                product_from(usize::MAX, products, count, filters, tiles, 1.0, false);
            });
            y.par_chunks_mut(plane).enumerate().for_each_init(
                || vec![0f32; OUT * (across * OUT).next_multiple_of(OUT * LANES)],
                |lines, (channel, y)| {
                    let then = then.from(channel, 0);
                    for row in 0..rows {
                        let first = channel * count + row * across;
                        join(lines, products, out * count + GAP, first, across);
                        let first = top + row * OUT;
                        let length = lines.len() / OUT;
                        for (line, at) in lines.chunks_exact_mut(length).zip(first..height) {
                            then.write(&mut y[at * width..][..width], &mut line[..width], at * width);
                        }
                    }
                },
            );
        }
        SCRATCH.set(scratch);
    }
}

/// Transformed tiles and their products; kept, since new memory would be cleared first, by one thread.
#[derive(Default)]
struct Scratch {
    tiles: Vec<f32>,
    products: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Six lines of a channel with the zeros around it, of which a row of tiles is cut.
struct Lines {
    /// A line as it is.
    line: Vec<f32>,
    /// By line, place modulo 4 and place over 4: room for one more tile than there are, rounded up.
    phases: Vec<f32>,
}

impl Lines {
    fn new(across: usize) -> Self {
        let length = (across + 1).next_multiple_of(LANES);
        Self { line: vec![0.0; OUT * length], phases: vec![0.0; IN * OUT * length] }
    }

    /// Reads those of the tiles whose outputs begin in line `top` of `x`.
    fn read(&mut self, x: &[f32], (height, width): (usize, usize), top: usize) {
        let length = self.line.len() / OUT;
        for (number, phases) in self.phases.chunks_exact_mut(OUT * length).enumerate() {
            match (top + number).checked_sub(1).filter(|&at| at < height) {
                None => phases.fill(0.0),
                Some(at) => {
                    self.line[1..=width].copy_from_slice(&x[at * width..][..width]);
                    part(&self.line, phases);
                }
            }
        }
    }
}

per_instruction_set! {
    /// Parts a line by the place modulo 4.
    fn part(line: &[f32], phases: &mut [f32]) {
        let length = line.len() / OUT;
        for (number, values) in line.as_chunks::<{ OUT * LANES }>().0.iter().enumerate() {
            for (phase, to) in phases.chunks_exact_mut(length).enumerate() {
                let to = &mut to[number * LANES..][..LANES];
                to.iter_mut().enumerate().for_each(|(i, to)| *to = values[i * OUT + phase]);
            }
        }
    }
}

per_instruction_set! {
    /// Writes a row of transformed tiles of one channel: `tiles` is `[36, count]`, and the row's first is number `first`.
    fn cut(tiles: &mut [f32], count: usize, first: usize, across: usize, phases: &mut [f32]) {
        let length = phases.len() / IN;
        // Line by line first.
        for at in (0..length).step_by(LANES) {
            let mut values = [[0f32; LANES]; IN];
            for (line, values) in values.iter_mut().enumerate() {
                *values = lanes(&phases[line * length + at..]);
            }
            for (line, values) in each_lane(values, of_input).iter().enumerate() {
                phases[line * length + at..][..LANES].copy_from_slice(values);
            }
        }
        for (y, line) in phases.chunks_exact(length).enumerate() {
            for tile in (0..across).step_by(LANES) {
                let mut values = [[0f32; LANES]; IN];
                for (place, values) in values.iter_mut().enumerate() {
                    *values = lanes(&line[place % OUT * (length / OUT) + place / OUT + tile..]);
                }
                let values = each_lane(values, of_input);
                for (x, values) in values.iter().enumerate() {
                    let to = &mut tiles[(y * IN + x) * count + first..][tile..across];
                    match to.first_chunk_mut::<LANES>() {
                        Some(to) => *to = *values,
                        None => to.copy_from_slice(&values[..to.len()]),
                    }
                }
            }
        }
    }
}

per_instruction_set! {
    /// Transforms a row of products of one channel back to four lines of outputs, one behind the other. The products of a
    /// place are `stride` apart from those of the next; the row's begin with number `first`.
    fn join(lines: &mut [f32], products: &[f32], stride: usize, first: usize, across: usize) {
        let length = lines.len() / OUT;
        for tile in (0..across).step_by(LANES) {
            let product = |place: usize| {
                let from = &products[place * stride + first..][tile..across];
                from.first_chunk::<LANES>().copied().unwrap_or_else(|| {
                    let mut values = [0f32; LANES];
                    values[..from.len()].copy_from_slice(from);
                    values
                })
            };
            // Column by column of the tiles first.
            let mut columns = [[[0f32; LANES]; OUT]; IN];
            for (x, column) in columns.iter_mut().enumerate() {
                let mut values = [[0f32; LANES]; IN];
                for (y, values) in values.iter_mut().enumerate() {
                    *values = product(y * IN + x);
                }
                *column = each_lane(values, of_output);
            }
            for (number, line) in lines.chunks_exact_mut(length).enumerate() {
                let mut values = [[0f32; LANES]; IN];
                for (values, column) in values.iter_mut().zip(&columns) {
                    *values = column[number];
                }
                let values = each_lane(values, of_output);
                let line = &mut line[tile * OUT..][..OUT * LANES];
                line.iter_mut().enumerate().for_each(|(i, to)| *to = values[i % OUT][i / OUT]);
            }
        }
    }
}

/// The first values.
#[inline(always)]
fn lanes(values: &[f32]) -> [f32; LANES] {
    let mut first = [0f32; LANES];
    first.copy_from_slice(&values[..LANES]);
    first
}

/// `transform` in each of the lanes.
#[inline(always)]
fn each_lane<const FROM: usize, const TO: usize>(
    values: [[f32; LANES]; FROM],
    transform: impl Fn([f32; FROM]) -> [f32; TO],
) -> [[f32; LANES]; TO] {
    let mut results = [[0f32; LANES]; TO];
    for lane in 0..LANES {
        let of_lane = transform(std::array::from_fn(|i| values[i][lane]));
        for (result, value) in results.iter_mut().zip(of_lane) {
            result[lane] = value;
        }
    }
    results
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
#[inline(always)]
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
#[inline(always)]
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

    fn new(weight: &[f32], out: usize, depth: usize) -> Option<Filters> {
        Filters::new(weight, out, depth, &Device::Cpu).unwrap()
    }

    /// The convolution alone, with a bias of zeros.
    fn apply(filters: &Filters, x: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
        let plane = height * width;
        let then = Epilogue { bias: &vec![0.0; filters.out], addend: None, relu: false, plane };
        let mut y = vec![MaybeUninit::new(f32::NAN); filters.out * plane];
        filters.apply(&mut y, x, (height, width), then).unwrap();
        // SAFETY: all values were set from the beginning.
        #[allow(unsafe_code)]
        y.into_iter().map(|y| unsafe { y.assume_init() }).collect()
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
            let filters = new(&weight, out, depth).unwrap();
            let y = apply(&filters, &x, (height, width));
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
        let y = apply(&new(&weight, 64, 64).unwrap(), &x, (20, 20));
        assert!(y[210].is_nan() && y[63 * 400 + 210].is_nan());
    }

    #[test]
    fn few_channels_or_tiles_are_left_to_others() {
        assert!(new(&noise(63 * 64 * 9, 1), 63, 64).is_none());
        assert!(new(&noise(64 * 63 * 9, 1), 64, 63).is_none());
        assert!(!Filters::suit(12, 16) && Filters::suit(16, 16) && Filters::suit(13, 13));
    }
}
