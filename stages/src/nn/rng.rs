//! Seeded randomness: one ChaCha stream for each purpose of a seed. It does not know what the numbers are for.
//!
//! Streams are told apart by a name, not by the order in which they are drawn: a model with adapters gets the
//! same classifier as the one without.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;

/// The generator of `purpose` under `seed`.
pub fn generator(seed: u64, purpose: &str) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(fnv1a(purpose.as_bytes()));
    rng
}

/// The numbers below `len` in a random order.
pub fn permutation(rng: &mut ChaCha12Rng, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(rng);
    order
}

/// FNV-1a, 64 bits: the standard offset basis and prime.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_seed_and_purpose() {
        let order = |seed, purpose| permutation(&mut generator(seed, purpose), 50);
        assert_eq!(order(1, "shuffle"), order(1, "shuffle"));
        assert_ne!(order(1, "shuffle"), order(2, "shuffle"));
        assert_ne!(order(1, "shuffle"), order(1, "masking"));
        let mut sorted = order(1, "shuffle");
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
