//! Seeded randomness: one ChaCha stream for each purpose of a seed, and normal numbers. It does not know what the numbers
//! are for.
//!
//! A name identifies a stream, not by the order in which they are drawn: a model with adapters gets the
//! same classifier as the one without.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// The generator of `purpose` under `seed`.
pub fn generator(seed: u64, purpose: &str) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(fnv1a(purpose.as_bytes()));
    rng
}

/// FNV-1a, 64 bits: the standard offset basis and prime.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Draws from the standard normal distribution by the polar method (Marsaglia and Bray, "A convenient method for
/// generating normal variables", SIAM Review 6, 1964).
///
/// It needs a square root and a logarithm, and takes the logarithm from `libm`: the same generator gives the same bits on
/// every CPU. `rand_distr` takes `exp` and `ln` from the system's library.
#[derive(Debug)]
pub struct StandardNormal<R> {
    rng: R,
    /// The method draws two numbers at a time; this is the second of them.
    second: Option<f64>,
}

impl<R: Rng> StandardNormal<R> {
    /// Draws from `rng`.
    pub fn new(rng: R) -> Self {
        Self { rng, second: None }
    }

    /// The next number.
    pub fn sample(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        loop {
            // A point in the square from -1 to 1; 53 random bits for each coordinate.
            let [x, y]: [f64; 2] = std::array::from_fn(|_| 2.0 * self.rng.random::<f64>() - 1.0);
            let square = x * x + y * y;
            if 0.0 < square && square < 1.0 {
                let factor = (-2.0 * libm::log(square) / square).sqrt();
                self.second = Some(y * factor);
                return x * factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;

    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_seed_and_purpose() {
        let drawn = |seed, purpose| generator(seed, purpose).next_u64();
        assert_eq!(drawn(1, "shuffle"), drawn(1, "shuffle"));
        assert_ne!(drawn(1, "shuffle"), drawn(2, "shuffle"));
        assert_ne!(drawn(1, "shuffle"), drawn(1, "masking"));
    }

    /// The whole numbers are `ChaCha12`'s; Python makes the same of them by the polar method, down to the last bit.
    #[test]
    fn numbers_are_the_same_on_every_cpu() {
        let mut rng = generator(1, "values");
        let raw: [u64; 4] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(
            raw,
            [14374820972877812640, 2791307945633840743, 14497991019050052082, 8093626662365064582]
        );
        let mut normal = StandardNormal::new(generator(1, "values"));
        let drawn: [f64; 4] = std::array::from_fn(|_| normal.sample());
        assert_eq!(drawn, [0.4196390258704381, -0.5239584324910231, 1.4323110209442453, -0.306779836838363]);
        // Indices, shares and orders.
        let mut rng = generator(1, "values");
        let indices: [usize; 4] = std::array::from_fn(|_| rng.random_range(0..1000));
        let shares: [f32; 2] = std::array::from_fn(|_| rng.random_range(-1.0..1.0f32));
        let mut order: Vec<usize> = (0..10).collect();
        order.shuffle(&mut rng);
        assert_eq!(indices, [524, 779, 618, 151]);
        assert_eq!(shares, [0.306_889_53, 0.571_875_33]);
        assert_eq!(order, [0, 8, 3, 5, 6, 2, 9, 4, 1, 7]);
    }

    #[test]
    fn normal_numbers_follow_the_normal_distribution() {
        let mut normal = StandardNormal::new(generator(5, "moments"));
        let count = 200_000;
        let drawn: Vec<f64> = (0..count).map(|_| normal.sample()).collect();
        let moment = |f: fn(f64) -> f64| drawn.iter().map(|&x| f(x)).sum::<f64>() / f64::from(count);
        // Four standard errors; the variances of x, x² and x⁴ are 1, 2 and 96.
        let error = |variance: f64| 4.0 * (variance / f64::from(count)).sqrt();
        assert!(moment(|x| x).abs() < error(1.0));
        assert!((moment(|x| x * x) - 1.0).abs() < error(2.0));
        assert!((moment(|x| x * x * x * x) - 3.0).abs() < error(96.0));
        let inside = moment(|x| f64::from(u8::from(x.abs() < 1.959_963_984_540_054)));
        assert!((inside - 0.95).abs() < error(0.95 * 0.05));
        // Numbers that were drawn as a pair are independent.
        let pairs = drawn.chunks_exact(2).map(|pair| pair[0] * pair[1]);
        assert!((pairs.sum::<f64>() / f64::from(count / 2)).abs() < 4.0 / f64::from(count / 2).sqrt());
    }
}
