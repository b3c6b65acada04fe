//! Exponential and normal distribution function without branches, so that loops over them become vector code.
//!
//! The coefficients are minimax fits, computed for this file, to the true functions in double precision.

/// eˣ, relative error below 3e-7; 0 below −87, where f32 has no normal numbers left, and finite up to 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 2^y = 2^n · 2^r with n = round(y), r in [-½, ½]. Adding and taking away 1.5·2²³ rounds.
    // The sum's low bits then are n, ready to go into the exponent.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let r = r * std::f32::consts::LOG2_E;
    let p = polynomial(r, &EXP2);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * power }
}

/// 2^r for r in [-½, ½], relative error 3e-9.
const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_5,
    0.055_503_27,
    0.009_618_025,
    0.001_340_043_3,
    0.000_154_697_32,
];

/// Φ(x), the distribution function of the standard normal (absolute error below 3e-7), and its density φ(x).
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    // erfc(z) = e^(−z²) · u · P(u) with u = 1 / (1 + z/2), for z = |x| / √2.
    const P: [f32; 9] = [
        0.282_086_4,
        0.282_375_34,
        0.243_103_6,
        0.202_687_56,
        -0.026_627_386,
        0.278_069_8,
        -0.487_202_32,
        0.284_576_18,
        -0.059_069_216,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let u = 1.0 / (1.0 + 0.5 * z);
    let gauss = exp(-0.5 * x * x);
    let tail = 0.5 * gauss * u * polynomial(u, &P);
    let distribution = if x < 0.0 { tail } else { 1.0 - tail };
    // 1 / √(2π)
    (distribution, gauss * 0.398_942_3)
}

/// Σ cᵢ xⁱ.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: &[f32; N]) -> f32 {
    let mut value = c[N - 1];
    for i in (0..N - 1).rev() {
        value = value * x + c[i];
    }
    value
}

/// Σ xᵢ yᵢ, by sixteen running sums whatever the vector width, so that every CPU gives the same bits.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (x, y) = (&x[..x.len().min(y.len())], &y[..x.len().min(y.len())]);
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    fold(sums) + rest
}

/// The largest of some values; what is not a number is passed over. Lanes spare the wait for one comparison after the other.
#[inline(always)]
pub fn largest(x: &[f32]) -> f32 {
    let more = |max: f32, value: f32| if value > max { value } else { max };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let xs = x.chunks_exact(16);
    let rest = xs.remainder().iter().copied().fold(f32::NEG_INFINITY, more);
    for x in xs {
        for i in 0..16 {
            lanes[i] = more(lanes[i], x[i]);
        }
    }
    lanes.into_iter().fold(rest, more)
}

/// `x` ← softmax(`x`) for one row; returns Σ exp(x − max).
#[inline(always)]
pub fn softmax(x: &mut [f32]) -> f32 {
    softmax_by(x, sum)
}

/// The same, `sum` adding up what is exp(x − max).
#[inline(always)]
pub fn softmax_by(x: &mut [f32], sum: impl FnOnce(&[f32]) -> f32) -> f32 {
    let max = largest(x);
    for x in x.iter_mut() {
        *x = exp(*x - max);
    }
    let total = sum(x);
    let scale = 1.0 / total;
    for x in x.iter_mut() {
        *x *= scale;
    }
    total
}

/// Σ xᵢ, in the same order of summation on every CPU.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let xs = x.chunks_exact(16);
    let rest: f32 = xs.remainder().iter().sum();
    for x in xs {
        for i in 0..16 {
            sums[i] += x[i];
        }
    }
    fold(sums) + rest
}

#[inline(always)]
fn fold(sums: [f32; 16]) -> f32 {
    let mut half = [0f32; 8];
    for i in 0..8 {
        half[i] = sums[i] + sums[i + 8];
    }
    let quarter = [half[0] + half[4], half[1] + half[5], half[2] + half[6], half[3] + half[7]];
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_exponential() {
        for i in -8690..=8790 {
            let x = i as f32 / 100.0;
            let exact = libm::exp(f64::from(x));
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-10_000.0), 0.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_is_the_normal_distribution() {
        // Φ by Simpson's rule from the density in double precision, upwards from −9.
        let density = |x: f64| libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
        let (step, mut integral) = (1.0 / 256.0, 0.0);
        for i in 0..(18 * 256) {
            let x = -9.0 + f64::from(i) * step;
            let (distribution, phi) = normal(x as f32);
            assert!(
                (f64::from(distribution) - integral).abs() < 3e-7,
                "Φ({x}) = {distribution}, not {integral}"
            );
            assert!((f64::from(phi) - density(x)).abs() < 3e-7, "φ({x}) = {phi}");
            integral += step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
        }
        assert!(normal(f32::NAN).0.is_nan());
    }

    #[test]
    fn sums_reach_every_element() {
        for len in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let expected = (0..len).map(|i| i as f32).sum::<f32>();
            assert_eq!(sum(&x), expected);
            assert_eq!(dot(&x, &vec![2.0; len as usize]), 2.0 * expected);
        }
    }
}
