//! How long a download is tried: pauses that grow, with jitter from a seeded generator so that one key always waits
//! alike. It knows no clock.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use stage_api::{Job, StageError};

/// The limits of one download.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How many attempts in a row may bring nothing new.
    pub attempts: u32,
    /// The pause after the first of them; each further one doubles it.
    pub first: Duration,
    /// The longest pause of our own choice.
    pub longest: Duration,
    /// The longest pause that a server may ask for.
    pub longest_asked: Duration,
    /// The longest wait for a sign of life.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            longest_asked: Duration::from_secs(600),
            stall: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The pause after the `failures`-th failure in a row (from 1) at `url`: between half of and one and a half times
    /// the doubled pause, so that many who were thrown out at one moment do not come back at one moment.
    pub fn pause(&self, url: &str, failures: u32) -> Duration {
        let mut seed = [0; 32];
        seed.copy_from_slice(
            &Sha256::new().chain_update(url).chain_update(failures.to_le_bytes()).finalize(),
        );
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest).mul_f64(ChaCha8Rng::from_seed(seed).random_range(0.5..1.5))
    }

    /// Waits, and looks up now and then whether the job was cancelled.
    pub fn wait(pause: Duration, job: &Job) -> Result<(), StageError> {
        const LOOK: Duration = Duration::from_millis(100);
        let mut left = pause;
        while !left.is_zero() {
            job.check_cancelled()?;
            let nap = left.min(LOOK);
            std::thread::sleep(nap);
            left -= nap;
        }
        job.check_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_the_same_again() {
        let retry_policy = RetryPolicy::default();
        for failures in 1..20 {
            let doubled =
                Duration::from_millis(500).saturating_mul(1 << (failures - 1)).min(retry_policy.longest);
            let pause = retry_policy.pause("http://a/b", failures);
            assert!(pause >= doubled / 2 && pause <= doubled * 3 / 2, "{failures}: {pause:?}");
            assert_eq!(pause, retry_policy.pause("http://a/b", failures));
        }
        assert_ne!(retry_policy.pause("http://a/b", 1), retry_policy.pause("http://c/d", 1));
    }
}
