//! One group of a grouped 3×3 convolution of stride 1 with one pixel of zeros around, without unrolling the input: a band of
//! lines is copied with its zeros, and each strip of outputs is summed in registers. It knows no bias, and no other window.
//!
//! With 8 to 64 channels a group, as ResNeXt has, a product of the unrolled input spends more time on unrolling and packing
//! than on multiplying.

use super::cpu::per_instruction_set;

/// Values of a vector register with AVX2.
const LANES: usize = 8;
/// Output channels that are summed side by side: with [`VECTORS`] they take 12 of 16 registers.
const OUTS: usize = 4;
/// Registers of a strip's outputs in one channel.
const VECTORS: usize = 3;
/// Outputs of a strip.
const STRIP: usize = LANES * VECTORS;
/// Places of the window.
const TAPS: usize = 9;
/// Values of a band: half of a core's second-level cache; the weights, 150 KB at most, share the cache.
const BAND: usize = 1 << 16;

/// Whether a group of `out` channels can go this way.
pub fn suits(out: usize) -> bool {
    out.is_multiple_of(OUTS)
}

/// Writes the convolution of `x` `[depth, height, width]` with `weight` `[out, depth, 3, 3]` to `y` `[out, height, width]`;
/// `out` is one that [`suits`].
pub fn convolve(y: &mut [f32], x: &[f32], weight: &[f32], height: usize, width: usize) {
    let plane = height * width;
    let depth = x.len() / plane;
    // Lines lie one behind the other with their zeros; outputs are computed for all places, the two between lines, too.
    let line = width + 2;
    let rows = (BAND / (depth * line)).saturating_sub(2).clamp(1, height);
    let (weight, count) = (side_by_side(weight, depth * TAPS), (rows * line).next_multiple_of(STRIP));
    let channel = count + 2 * line + 2;
    let (mut band, mut sums) = (vec![0f32; depth * channel], vec![0f32; OUTS * count]);
    for top in (0..height).step_by(rows) {
        let rows = rows.min(height - top);
        for (band, x) in band.chunks_exact_mut(channel).zip(x.chunks_exact(plane)) {
            for (number, band) in band.chunks_exact_mut(line).take(rows + 2).enumerate() {
                match (top + number).checked_sub(1).filter(|&at| at < height) {
                    Some(at) => band[1..=width].copy_from_slice(&x[at * width..][..width]),
                    None => band.fill(0.0),
                }
            }
        }
        let outs = weight.chunks_exact(depth * TAPS).zip(y.chunks_exact_mut(OUTS * plane));
        for (weight, y) in outs {
            sum(&mut sums, count, &band, channel, line, weight, rows * line);
            for (sums, y) in sums.chunks_exact(count).zip(y.chunks_exact_mut(plane)) {
                let lines = y[top * width..].chunks_exact_mut(width).zip(sums.chunks(line));
                lines.take(rows).for_each(|(y, sums)| y.copy_from_slice(&sums[..width]));
            }
        }
    }
}

/// The weights of `OUTS` channels next to each other, `[out / OUTS, depth · 9]`, from `[out, depth · 9]`.
fn side_by_side(weight: &[f32], taps: usize) -> Vec<[f32; OUTS]> {
    let blocks = weight.chunks_exact(OUTS * taps);
    blocks.flat_map(|block| (0..taps).map(|tap| std::array::from_fn(|out| block[out * taps + tap]))).collect()
}

per_instruction_set! {
    /// Sums for `OUTS` channels: `sums` is `[OUTS, stride]`, of which the first `count` are used (and up to a strip more are
    /// written); `band` is `[depth, channel]`, its lines `line` apart.
    fn sum(
        sums: &mut [f32],
        stride: usize,
        band: &[f32],
        channel: usize,
        line: usize,
        weight: &[[f32; OUTS]],
        count: usize,
    ) {
        for at in (0..count).step_by(STRIP) {
            let mut strip = [[[0f32; LANES]; VECTORS]; OUTS];
            for (band, weight) in band[at..].chunks(channel).zip(weight.as_chunks::<TAPS>().0) {
                for (row, weight) in weight.as_chunks::<3>().0.iter().enumerate() {
                    let band = &band[row * line..][..STRIP + 2];
                    for (column, weight) in weight.iter().enumerate() {
                        let band = band[column..][..STRIP].as_chunks::<LANES>().0;
                        for (strip, &weight) in strip.iter_mut().zip(weight) {
                            for (sums, values) in strip.iter_mut().zip(band) {
                                for (sum, value) in sums.iter_mut().zip(values) {
                                    *sum = weight.mul_add(*value, *sum);
                                }
                            }
                        }
                    }
                }
            }
            for (sums, strip) in sums.chunks_exact_mut(stride).zip(&strip) {
                sums[at..][..STRIP].copy_from_slice(strip.as_flattened());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn equals_the_library_s_convolution() {
        let wave =
            |count: usize, step: f32| (0..count).map(|i| libm::sinf(i as f32 * step)).collect::<Vec<f32>>();
        for (out, depth) in [(4, 1), (8, 8), (12, 5), (64, 64)] {
            for (height, width) in [(1, 1), (1, 40), (40, 1), (7, 23), (25, 42), (130, 30)] {
                let (x, weight) = (wave(depth * height * width, 0.37), wave(out * depth * TAPS, 0.61));
                let mut y = vec![f32::NAN; out * height * width];
                convolve(&mut y, &x, &weight, height, width);
                let tensor = |values: &[f32], shape| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
                let expected = tensor(&x, (1, depth, height, width))
                    .conv2d(&tensor(&weight, (out, depth, 3, 3)), 1, 1, 1, 1)
                    .unwrap();
                let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
                let off = y.iter().zip(&expected).map(|(y, e)| (y - e).abs()).fold(0.0, f32::max);
                assert!(
                    y.iter().all(|y| y.is_finite()) && off < 1e-4,
                    "{out} {depth} {height}x{width}: {off}"
                );
            }
        }
    }
}
