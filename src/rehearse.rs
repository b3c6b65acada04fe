//! What a rehearsal has shown, step by step, and what follows from it for the real run: the time of each unit of work times
//! the units there will be, with the time before the first unit added once. It runs nothing.

use std::collections::BTreeMap;

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::estimate::wall_time;
use crate::pipeline::{Pipeline, Real};
use crate::plan::{Plan, Verdict};
use crate::record::RunRecord;
use crate::run::Resources;

/// Of a GPU's greatest float32 rate, the share that is assumed of a GPU that the rehearsal did not run on.
pub const REACHED: f64 = 0.35;

/// GPUs with the greatest float32 rate their makers state, in 10¹² operations a second.
pub const GPUS: [(&str, f64); 10] = [
    ("T4", 8.1),
    ("RTX-2080", 10.1),
    ("V100", 15.7),
    ("A100", 19.5),
    ("RTX-3070", 20.3),
    ("L4", 30.3),
    ("A10", 31.2),
    ("RTX-3090", 35.6),
    ("H100", 66.9),
    ("RTX-4090", 82.6),
];

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It did its work.
    Works,
    /// It failed.
    Failed,
    /// A step above it failed.
    NotReached,
}

/// A step of the rehearsal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rehearsed {
    /// The step.
    pub step: String,
    /// How it went.
    pub outcome: Outcome,
    /// How long it took.
    pub seconds: Option<f64>,
    /// The most memory its process held.
    pub peak_memory: Option<u64>,
    /// Bytes of its output.
    pub bytes: Option<u64>,
    /// Units of work it did, where it counts any.
    pub units: Option<u64>,
    /// What the real run will be.
    pub real: Option<Forecast>,
    #[serde(skip)]
    node: NodeIndex,
}

/// What a step's real run will be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Forecast {
    /// Units of work, where they differ from the rehearsal's.
    pub units: Option<u64>,
    /// How long it takes on this machine.
    pub seconds: f64,
    /// How long that of it takes which no GPU shortens.
    pub host_seconds: f64,
    /// Floating-point operations that a GPU can do, in units of 10¹².
    pub teraflop: f64,
    /// The rate at which this machine's GPU did them in the rehearsal, in 10¹² a second; none where the step ran on a CPU.
    pub gpu_rate: Option<f64>,
    /// Bytes of its output.
    pub bytes: u64,
}

/// All steps of `plan`, each after all that it reads. `records` gives the execution of a fresh step.
pub fn rehearsed(
    pipeline: &Pipeline,
    plan: &Plan,
    record: impl Fn(NodeIndex) -> Option<RunRecord>,
) -> Vec<Rehearsed> {
    let of = |node: NodeIndex| {
        let step = pipeline.graph[node].name.clone();
        let outcome = match plan.verdict(node) {
            Verdict::Fresh => Outcome::Works,
            Verdict::Waiting { .. } => Outcome::NotReached,
            _ => Outcome::Failed,
        };
        let record = record(node).filter(|_| outcome == Outcome::Works);
        let real = pipeline.rehearsal.as_ref().and_then(|rehearsal| rehearsal.real(&step)).copied();
        Rehearsed {
            outcome,
            seconds: record.as_ref().map(|record| record.seconds),
            peak_memory: record.as_ref().and_then(|record| record.peak_memory),
            bytes: record.as_ref().map(|record| record.bytes),
            units: record.as_ref().and_then(|record| record.work).map(|work| work.units),
            real: record.as_ref().map(|record| forecast(record, real.unwrap_or_default())),
            step,
            node,
        }
    };
    plan.needed().map(of).collect()
}

/// What the real run of a step will be that left `record` in the rehearsal.
fn forecast(record: &RunRecord, real: Real) -> Forecast {
    let done = record.work.map_or(0, |work| work.units);
    let pace = record.work.and_then(|work| work.seconds_a_unit).unwrap_or(0.0);
    let units = real.work.filter(|_| done > 0);
    let real_units = units.unwrap_or(done);
    // What reading and writing take stays; of work too short to tell a pace all of it does.
    let fixed_seconds = (record.seconds - pace * done as f64).max(0.0);
    let grown = match real.grows && done > 0 {
        true => (record.bytes as f64 * real_units as f64 / done as f64) as u64,
        false => record.bytes,
    };
    let teraflop = real.teraflop.map_or(0.0, |each| each * real_units as f64);
    let seconds = fixed_seconds + pace * real_units as f64;
    let ran_on_gpu = !matches!(record.machine.device.as_str(), "" | "cpu");
    let gpu_rate = real.teraflop.filter(|_| ran_on_gpu && pace > 0.0).map(|each| each / pace);
    Forecast {
        units,
        seconds,
        gpu_rate,
        host_seconds: if real.teraflop.is_some() { fixed_seconds } else { seconds },
        teraflop,
        bytes: real.bytes.unwrap_or(grown),
    }
}

/// What the real run of some steps comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sum {
    /// How many steps.
    pub steps: usize,
    /// Wall time on this machine, steps side by side as the scheduler would run them.
    pub seconds: f64,
    /// Seconds that no GPU shortens, one step after the other.
    pub host_seconds: f64,
    /// Floating-point operations for a GPU, in units of 10¹².
    pub teraflop: f64,
    /// The rate at which this machine's GPU does them, in 10¹² a second, as its steps of the rehearsal did; none where none ran on it.
    pub gpu_rate: Option<f64>,
    /// Bytes that stay in the cache.
    pub bytes: u64,
}

impl Sum {
    /// How long it takes with one GPU of this greatest rate (10¹² a second), one step after the other.
    pub fn with_gpu(&self, rate: f64) -> f64 {
        self.at_rate(rate * REACHED)
    }

    /// How long it takes with this machine's GPU at the rate that was measured, one step after the other.
    pub fn with_measured_gpu(&self) -> Option<f64> {
        self.gpu_rate.map(|rate| self.at_rate(rate))
    }

    fn at_rate(&self, rate: f64) -> f64 {
        self.host_seconds + self.teraflop / rate
    }
}

/// What the real run of those of `steps` comes to that `counts` names.
pub fn sum(
    pipeline: &Pipeline,
    plan: &Plan,
    resources: &Resources,
    steps: &[Rehearsed],
    counts: impl Fn(NodeIndex) -> bool,
) -> Sum {
    let counted: Vec<(NodeIndex, Forecast)> = steps
        .iter()
        .filter(|step| counts(step.node))
        .filter_map(|step| Some((step.node, step.real?)))
        .collect();
    let times: BTreeMap<NodeIndex, f64> = counted.iter().map(|(node, real)| (*node, real.seconds)).collect();
    let total = |of: fn(&Forecast) -> f64| counted.iter().map(|(_, real)| of(real)).sum();
    Sum {
        steps: counted.len(),
        seconds: wall_time(pipeline, plan, &times, resources),
        host_seconds: total(|real| real.host_seconds),
        teraflop: total(|real| real.teraflop),
        gpu_rate: gpu_rate(counted.iter().map(|(_, real)| real)),
        bytes: counted.iter().map(|(_, real)| real.bytes).sum(),
    }
}

/// The rate of a GPU over all steps that ran on it, each as much as it will do; a step that did not is taken to be like those.
fn gpu_rate<'a>(steps: impl Iterator<Item = &'a Forecast>) -> Option<f64> {
    let measured = steps.filter_map(|step| Some((step.teraflop, step.teraflop / step.gpu_rate?)));
    let (teraflop, seconds) = measured.fold((0.0, 0.0), |sum, step| (sum.0 + step.0, sum.1 + step.1));
    (seconds > 0.0).then(|| teraflop / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::key::KeyText;
    use crate::record::{Machine, Work};

    fn record(seconds: f64, work: Option<Work>) -> RunRecord {
        RunRecord {
            key_text: KeyText::new("train", 1, "()", vec![]),
            step: "a".to_owned(),
            profile: "rehearsal".to_owned(),
            tree: Digest::of_bytes(b"tree"),
            outputs: BTreeMap::new(),
            inputs: Vec::new(),
            bytes: 1000,
            started_ms: 0,
            seconds,
            peak_memory: None,
            work,
            machine: Machine::default(),
            log: String::new(),
            accepted: None,
        }
    }

    #[test]
    fn what_is_done_once_counts_once_and_a_unit_as_often_as_there_will_be() {
        let work = Some(Work { units: 5, seconds_a_unit: Some(2.0) });
        let real = Real { work: Some(1000), grows: true, teraflop: Some(0.5), bytes: None };
        let found = forecast(&record(13.0, work), real);
        assert_eq!((found.seconds, found.host_seconds), (3.0 + 2000.0, 3.0));
        assert_eq!((found.teraflop, found.bytes, found.units), (500.0, 200_000, Some(1000)));
        // Nothing is known of the real one: as in the rehearsal.
        let same = forecast(&record(13.0, work), Real::default());
        assert_eq!((same.seconds, same.bytes, same.units), (13.0, 1000, None));
    }

    #[test]
    fn a_gpu_s_rate_is_the_one_that_its_steps_reached() {
        let on = |device: &str, seconds_a_unit: f64| {
            let work = Some(Work { units: 5, seconds_a_unit: Some(seconds_a_unit) });
            let machine = Machine { device: device.to_owned(), ..Machine::default() };
            let real = Real { work: Some(100), teraflop: Some(2.0), ..Real::default() };
            forecast(&RunRecord { machine, ..record(1.0 + 5.0 * seconds_a_unit, work) }, real)
        };
        // 2 · 10¹² in 0.05 s and in 0.2 s: 40 and 10 · 10¹² a second, together 400 · 10¹² in 25 s.
        let (fast, slow, cpu) = (on("cuda:0", 0.05), on("cuda:1", 0.2), on("cpu", 9.0));
        assert_eq!([fast, slow, cpu].map(|step| step.gpu_rate), [Some(40.0), Some(10.0), None]);
        assert_eq!(gpu_rate([fast, slow, cpu].iter()), Some(16.0));
        assert_eq!(gpu_rate([cpu].iter()), None);
        let sum = Sum {
            steps: 3,
            seconds: 0.0,
            host_seconds: 3.0,
            teraflop: 600.0,
            gpu_rate: Some(16.0),
            bytes: 0,
        };
        assert_eq!(sum.with_measured_gpu(), Some(3.0 + 37.5));
        assert_eq!(Sum { gpu_rate: None, ..sum }.with_measured_gpu(), None);
    }

    #[test]
    fn a_step_that_counts_nothing_takes_as_long_as_it_took() {
        let real = Real { work: Some(1000), bytes: Some(7), ..Real::default() };
        let found = forecast(&record(4.0, None), real);
        assert_eq!((found.seconds, found.units, found.bytes), (4.0, None, 7));
    }
}
