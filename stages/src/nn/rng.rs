//! Seeded randomness: one ChaCha stream for each purpose of a seed. It does not know what the numbers are for.
//!
//! Streams are told apart by a name, not by the order in which they are drawn: a model with adapters gets the
//! same classifier as the one without.

use rand::SeedableRng;
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

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_seed_and_purpose() {
        let drawn = |seed, purpose| generator(seed, purpose).next_u64();
        assert_eq!(drawn(1, "shuffle"), drawn(1, "shuffle"));
        assert_ne!(drawn(1, "shuffle"), drawn(2, "shuffle"));
        assert_ne!(drawn(1, "shuffle"), drawn(1, "masking"));
    }
}
