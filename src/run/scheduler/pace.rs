//! How fast a step works, from what its stage reports as it goes. It does not know what is counted.

use std::time::{Duration, Instant};

use crate::record::Work;

/// The reports of a step's progress, as far as its pace follows from them.
pub(super) struct Pace {
    /// Units done at the first report, and when that was.
    first: (u64, Instant),
    /// Units done at the last one, and how long after the first.
    last: (u64, Duration),
}

impl Pace {
    /// The first report.
    pub fn from(done: u64) -> Self {
        Self { first: (done, Instant::now()), last: (done, Duration::ZERO) }
    }

    /// Another report.
    pub fn reached(&mut self, done: u64) {
        self.last = (done, self.first.1.elapsed());
    }

    /// What came of it. What lies before the first report, like reading weights, is not in the pace.
    pub fn work(&self) -> Work {
        let units = self.last.0.saturating_sub(self.first.0);
        let seconds_a_unit = (units > 0).then(|| self.last.1.as_secs_f64() / units as f64);
        Work { units: self.last.0, seconds_a_unit }
    }
}
