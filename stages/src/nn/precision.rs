//! What the factors of matrix products are rounded to. Everything else, and what is trained, stays in f32.

use half::bf16;

/// The numbers that products multiply; they always add up in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32: a GPU with TF32 units multiplies two parts of each factor, which gives the same to rounding.
    #[default]
    F32,
    /// TF32: 10 bits of mantissa.
    Tf32,
    /// bfloat16: 7 bits of mantissa, as PyTorch's autocast.
    Bf16,
}

impl Precision {
    /// `value` as this precision has it, rounded to nearest.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::Tf32 => tf32(value),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// `value` with 10 bits of mantissa, ties away from zero, as the hardware's conversion (`cvt.rna.tf32.f32`).
fn tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(0x1000) & !0x1fff) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest_number_of_so_many_bits() {
        for (precision, unit) in [(Precision::Tf32, 1.0 / 1024.0), (Precision::Bf16, 1.0 / 128.0)] {
            for (value, expected) in
                [(1.0 + 0.4 * unit, 1.0), (1.0 + 0.6 * unit, 1.0 + unit), (-1.0 - 0.6 * unit, -1.0 - unit)]
            {
                assert_eq!(precision.round(value), expected, "{precision:?} of {value}");
            }
            assert!(precision.round(f32::NAN).is_nan());
            assert_eq!(precision.round(f32::NEG_INFINITY), f32::NEG_INFINITY);
        }
        assert_eq!(Precision::F32.round(1.000_000_1), 1.000_000_1);
    }
}
