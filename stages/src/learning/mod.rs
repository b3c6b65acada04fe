//! What pretraining, training and evaluation have in common: memes as batches, their order, the learning rate,
//! the logged loss, and scoring a split. Not a stage: it knows artifacts and the model, but neither params nor
//! output folders.

pub(crate) mod device;
pub(crate) mod epochs;
pub(crate) mod memes;
pub(crate) mod meter;
pub(crate) mod schedule;
pub(crate) mod scoring;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A generator of its own for each seed, purpose and counter (an epoch, an update): what one use draws does not
/// shift what another one draws.
pub(crate) fn generator(seed: u64, purpose: &[u8; 8], counter: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(purpose);
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(counter);
    rng
}
