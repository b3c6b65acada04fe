//! The inverse cosine transform in integers: the algorithm of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) with factors of 13 bits,
//! multiplied out. One pass over columns keeps 2 more bits, one over rows ends with samples. Values between the passes and dequantised
//! coefficients have 16 bits, so damaged files give what vector code with such registers gives, too.

/// A sample that nothing changes.
const MIDDLE: i16 = 128;

/// One pass over eight sequences at once: `input[k][lane]` becomes `output[n][lane]`, divided by 2^`SHIFT`.
#[inline(always)]
fn pass<const SHIFT: u32>(input: &[[i16; 8]; 8]) -> [[i16; 8]; 8] {
    let mut output = [[0; 8]; 8];
    for lane in 0..8 {
        let at = |k: usize| i32::from(input[k][lane]);
        let sum = i32::from(input[0][lane].wrapping_add(input[4][lane])) << 13;
        let difference = i32::from(input[0][lane].wrapping_sub(input[4][lane])) << 13;
        let (c, d) = (at(2) * 10_703 + at(6) * 4433, at(2) * 4433 + at(6) * -10_704);
        let round = 1 << (SHIFT - 1);
        let even = [
            sum.wrapping_add(c).wrapping_add(round),
            difference.wrapping_add(d).wrapping_add(round),
            difference.wrapping_sub(d).wrapping_add(round),
            sum.wrapping_sub(c).wrapping_add(round),
        ];
        let dot =
            |a: i32, b: i32, c: i32, d: i32| (at(1) * a + at(3) * b).wrapping_add(at(5) * c + at(7) * d);
        let odd = [
            dot(11_363, 9633, 6437, 2260),
            dot(9633, -2259, -11_362, -6436),
            dot(6437, -11_362, 2261, 9633),
            dot(2260, -6436, 9633, -11_363),
        ];
        let short = |value: i32| (value >> SHIFT).clamp(-32_768, 32_767) as i16;
        for n in 0..4 {
            output[n][lane] = short(even[n].wrapping_add(odd[n]));
            output[7 - n][lane] = short(even[n].wrapping_sub(odd[n]));
        }
    }
    output
}

/// Swaps rows and columns: dealing two halves out in turn, three times, does.
#[inline(always)]
fn transpose(mut block: [[i16; 8]; 8]) -> [[i16; 8]; 8] {
    for _ in 0..3 {
        block = std::array::from_fn(|row| {
            let (a, b, from) = (&block[row / 2], &block[row / 2 + 4], row % 2 * 4);
            [a[from], b[from], a[from + 1], b[from + 1], a[from + 2], b[from + 2], a[from + 3], b[from + 3]]
        });
    }
    block
}

/// Writes the samples of a block (8 rows, `stride` bytes from one to the next) from its coefficients, row by row, and the steps
/// of their quantisation.
pub(super) fn inverse(block: &[i16; 64], steps: &[i16; 64], samples: &mut [u8], stride: usize) {
    let mut rows = [[0_i16; 8]; 8];
    for (at, (value, step)) in block.iter().zip(steps).enumerate() {
        rows[at / 8][at % 8] = value.wrapping_mul(*step);
    }
    let columns = pass::<11>(&rows);
    let rows = pass::<18>(&transpose(columns));
    for (row, values) in transpose(rows).iter().enumerate() {
        let samples = &mut samples[row * stride..][..8];
        for (sample, value) in samples.iter_mut().zip(values) {
            *sample = value.saturating_add(MIDDLE).clamp(0, 255) as u8;
        }
    }
}

/// [`inverse`] of a block whose coefficients are 0 but for the first.
pub(super) fn inverse_flat(first: i16, step: i16, samples: &mut [u8], stride: usize) {
    let first = i32::from(first.wrapping_mul(step).wrapping_mul(4));
    let value = ((first << 13) + (1 << 17)) >> 18;
    for row in 0..8 {
        samples[row * stride..][..8].fill((value + i32::from(MIDDLE)).clamp(0, 255) as u8);
    }
}
