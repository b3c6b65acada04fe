//! A running step as the scheduler knows it, and how fast it works by what its stage reports. It does not know what is
//! counted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::key::KeyText;
use crate::record::{RecordedInput, Work};
use crate::run::executor::{Execution, Running};
use crate::run::inputs::ProjectInputs;
use crate::run::resources::Allocation;
use crate::store::WorkDir;

/// A step that is running.
pub(super) struct Active {
    pub running: Box<dyn Running>,
    pub work: WorkDir,
    pub key_text: KeyText,
    pub inputs: Vec<RecordedInput>,
    /// Where it found each of them.
    pub places: Vec<PathBuf>,
    /// The files of the project that it reads, as they were when it started.
    pub project_inputs: ProjectInputs,
    /// The steps whose results, which it reads, were found damaged while it ran.
    pub damaged: BTreeSet<String>,
    pub allocation: Allocation,
    pub since: Instant,
    pub started_ms: u64,
    pub peak_memory: Option<u64>,
    pub throughput: Option<Throughput>,
    /// How it ran, on another machine.
    pub execution: Option<Execution>,
}

/// The reports of a step's progress, as far as its throughput follows from them.
pub(super) struct Throughput {
    /// Units done at the first report, and when that was.
    first: (u64, Instant),
    /// Units done at the last one, and how long after the first.
    last: (u64, Duration),
}

impl Throughput {
    /// The first report.
    pub fn from(done: u64) -> Self {
        Self { first: (done, Instant::now()), last: (done, Duration::ZERO) }
    }

    /// Another report.
    pub fn reached(&mut self, done: u64) {
        self.last = (done, self.first.1.elapsed());
    }

    /// The work done. What is before the first report, like reading weights, does not count.
    pub fn work(&self) -> Work {
        let units = self.last.0.saturating_sub(self.first.0);
        let seconds_a_unit = (units > 0).then(|| self.last.1.as_secs_f64() / units as f64);
        Work { units: self.last.0, seconds_a_unit }
    }
}
