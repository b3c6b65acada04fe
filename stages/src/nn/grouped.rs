//! One group of a grouped 3×3 convolution of stride 1 with one pixel of zeros around, without unrolling the input: a band of
//! lines is copied with its zeros, and each strip of outputs is summed in registers. It knows no bias, and no other window.
//!
//! With 8 to 64 channels a group, as ResNeXt has, a product of the unrolled input spends more time on unrolling and packing
//! than on multiplying.

use std::mem::MaybeUninit;

use super::cpu::{self, InstructionSet};
use super::epilogue::Epilogue;

/// Registers of a strip's outputs in one channel.
const VECTORS: usize = 3;
/// Outputs of the longest strip, with AVX-512: strips of other instruction sets divide it.
const STRIP: usize = 16 * VECTORS;
/// Output channels that are summed side by side, at least.
const OUTS: usize = 4;
/// Places of the window.
const TAPS: usize = 9;
/// Values of a band: half of a core's second-level cache; the weights, 150 KB at most, share the cache.
const BAND: usize = 1 << 16;

/// Whether a group of `out` channels can go this way.
pub fn suits(out: usize) -> bool {
    out.is_multiple_of(OUTS)
}

/// Writes the convolution of `x` `[depth, height, width]` with `weight` `[out, depth, 3, 3]`, finished by `then`, to `y`
/// `[out, height, width]`; `out` is one that [`suits`].
pub fn convolve(
    y: &mut [MaybeUninit<f32>],
    x: &[f32],
    weight: &[f32],
    (height, width): (usize, usize),
    then: Epilogue,
) {
    let plane = height * width;
    let depth = x.len() / plane;
    // Lines lie one behind the other with their zeros; outputs are computed for all places, the two between lines, too.
    let line = width + 2;
    let rows = (BAND / (depth * line)).saturating_sub(2).clamp(1, height);
    let count = (rows * line).next_multiple_of(STRIP);
    let channel = count + 2 * line + 2;
    let (mut band, mut sums) = (vec![0f32; depth * channel], vec![0f32; 2 * OUTS * count]);
    let set = cpu::selected();
    let weight = side_by_side(weight, depth * TAPS, outs_of(set));
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
        let mut out = 0;
        for weight in weight.chunks(outs_of(set) * depth * TAPS) {
            let outs = weight.len() / (depth * TAPS);
            let band = Band { values: &band, channel, line };
            sum(set, &mut sums, count, band, weight, rows * line);
            for (sums, y) in
                sums.chunks_exact_mut(count).zip(y[out * plane..].chunks_exact_mut(plane)).take(outs)
            {
                let then = then.from(out, 0);
                let lines = y[top * width..].chunks_exact_mut(width).zip(sums.chunks_mut(line)).take(rows);
                for (number, (y, sums)) in lines.enumerate() {
                    then.write(y, &mut sums[..width], (top + number) * width);
                }
                out += 1;
            }
        }
    }
}

/// How many output channels an instruction set sums side by side: with [`VECTORS`] they take three quarters of the registers.
fn outs_of(set: InstructionSet) -> usize {
    if set == InstructionSet::Avx512 { 2 * OUTS } else { OUTS }
}

/// The weights of `outs` channels (of the last ones, as many as there are) next to each other, `[out / outs, depth · 9, outs]`,
/// from `[out, depth · 9]`.
fn side_by_side(weight: &[f32], taps: usize, outs: usize) -> Vec<f32> {
    let blocks = weight.chunks(outs * taps);
    blocks
        .flat_map(|block| (0..taps).flat_map(move |tap| block[tap..].iter().step_by(taps).copied()))
        .collect()
}

/// Lines of all channels, as the sums read them.
#[derive(Clone, Copy)]
struct Band<'a> {
    values: &'a [f32],
    /// Distance of two channels.
    channel: usize,
    /// Distance of two lines.
    line: usize,
}

impl Band<'_> {
    /// Where the places of the window are, from its first on.
    fn taps(self) -> [usize; TAPS] {
        std::array::from_fn(|tap| tap / 3 * self.line + tap % 3)
    }
}

/// Sums for 4 channels, or 8 with AVX-512, as `weight` has them: `sums` is `[channels, stride]`, of which the first `count` are
/// used (and up to a strip more are written).
fn sum(set: InstructionSet, sums: &mut [f32], stride: usize, band: Band, weight: &[f32], count: usize) {
    let depth = band.values.len() / band.channel;
    let outs = weight.len() / (depth * TAPS);
    let end = count.next_multiple_of(STRIP);
    let is_inside = sums.len() >= outs * stride && stride >= end && band.channel >= end + 2 * band.line + 2;
    assert!(is_inside && weight.len() == outs * depth * TAPS, "a strip is longer than its band or its sums");
    // SAFETY: only what the CPU supports is selected; sums and band have room for whole strips.
    #[allow(unsafe_code)]
    unsafe {
        match (set, outs) {
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512, 8) => x86::sum_avx512::<8>(sums, stride, band, weight, count),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512, OUTS) => x86::sum_avx512::<OUTS>(sums, stride, band, weight, count),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx2, OUTS) => x86::sum_avx2::<OUTS>(sums, stride, band, weight, count),
            (_, OUTS) => sum_scalar(sums, stride, band, weight, count),
            _ => unreachable!("sums of {outs} channels"),
        }
    }
}

/// Loops over plain numbers.
fn sum_scalar(sums: &mut [f32], stride: usize, band: Band, weight: &[f32], count: usize) {
    let taps = band.taps();
    for at in 0..count {
        let mut results = [0f32; OUTS];
        for (band, weight) in band.values[at..].chunks(band.channel).zip(weight.chunks_exact(TAPS * OUTS)) {
            for (tap, weight) in taps.iter().zip(weight.as_chunks::<OUTS>().0) {
                for (sum, weight) in results.iter_mut().zip(weight) {
                    *sum = weight.mul_add(band[*tap], *sum);
                }
            }
        }
        results.iter().enumerate().for_each(|(out, sum)| sums[out * stride + at] = *sum);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Band, TAPS, VECTORS};

    /// Defines `$name`: the sums of `OUTS` channels in registers of `$lanes` values.
    macro_rules! sum {
        ($features:literal, $name:ident, $lanes:literal, $zero:ident, $load:ident, $set:ident, $fma:ident, $store:ident) => {
            /// # Safety
            /// The CPU supports the instructions; sums and band reach as far as whole strips.
            #[allow(unsafe_code, reason = "instructions that not every CPU has")]
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const OUTS: usize>(
                sums: &mut [f32],
                stride: usize,
                band: Band,
                weight: &[f32],
                count: usize,
            ) {
                let taps = band.taps();
                for at in (0..count).step_by($lanes * VECTORS) {
                    let mut strip = [[$zero(); VECTORS]; OUTS];
                    let mut from = band.values.as_ptr().wrapping_add(at);
                    for weight in weight.as_chunks::<OUTS>().0.as_chunks::<TAPS>().0 {
                        for (tap, weight) in taps.iter().zip(weight) {
                            // SAFETY: the caller vouches for the band.
                            let values: [_; VECTORS] =
                                std::array::from_fn(|i| unsafe { $load(from.add(tap + i * $lanes)) });
                            for (strip, &weight) in strip.iter_mut().zip(weight) {
                                let weight = $set(weight);
                                for (sum, value) in strip.iter_mut().zip(values) {
                                    *sum = $fma(weight, value, *sum);
                                }
                            }
                        }
                        from = from.wrapping_add(band.channel);
                    }
                    for (out, strip) in strip.iter().enumerate() {
                        for (i, &sum) in strip.iter().enumerate() {
                            // SAFETY: the caller vouches for the sums.
                            unsafe { $store(sums.as_mut_ptr().add(out * stride + at + i * $lanes), sum) };
                        }
                    }
                }
            }
        };
    }

    sum!(
        "avx512f",
        sum_avx512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
    sum!(
        "avx2,fma",
        sum_avx2,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
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
                let plane = height * width;
                let then = Epilogue { bias: &vec![0.0; out], addend: None, relu: false, plane };
                let mut y = vec![MaybeUninit::new(f32::NAN); out * plane];
                convolve(&mut y, &x, &weight, (height, width), then);
                // SAFETY: all values were set from the beginning.
                #[allow(unsafe_code)]
                let y: Vec<f32> = y.into_iter().map(|y| unsafe { y.assume_init() }).collect();
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
