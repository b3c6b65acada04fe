//! Evaluated runs, read and checked. It knows no table.

use std::collections::BTreeMap;
use std::path::Path;

use stage_api::StageError;

use crate::artifacts::metrics::Metrics;
use crate::artifacts::samples::Split;
use crate::artifacts::scores::{self, Score};
use crate::metrics::bootstrap::{Interval, Ranked, Resamples, percentile_interval};
use crate::metrics::delong::Components;

/// A run with its metrics and the scores behind them.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// Its metrics.
    pub metrics: Metrics,
    /// Its rows.
    pub scores: Vec<Score>,
}

/// The runs by data set and mode, the seeds of each in order.
pub type Runs = BTreeMap<(String, String), Vec<Evaluated>>;

impl Evaluated {
    fn labels(&self) -> Vec<u8> {
        self.scores.iter().map(|score| score.label).collect()
    }

    fn probabilities(&self) -> Vec<[f32; 2]> {
        self.scores.iter().map(|score| [score.p0, score.p1]).collect()
    }

    fn same_rows(&self, other: &Self) -> bool {
        let row = |score: &Score| (score.id.clone(), score.label);
        self.scores.iter().map(row).eq(other.scores.iter().map(row))
    }
}

/// Reads what `evaluate` wrote for runs on the validation split of their own data set.
///
/// # Errors
/// Files that cannot be read, another split or data set, a metric that is none, a run given twice.
pub fn read(dirs: &[&Path]) -> Result<Runs, StageError> {
    let mut runs = Runs::new();
    for dir in dirs {
        let evaluated = Evaluated { metrics: Metrics::read(dir)?, scores: scores::read(dir)? };
        let metrics = &evaluated.metrics;
        let refuse = |problem: String| Err(StageError::input("runs", dir, problem));
        if metrics.split != Split::Val {
            return refuse("was evaluated on another split; the paper reports on validation".to_owned());
        }
        let run = &metrics.run;
        if metrics.dataset != run.dataset {
            return refuse(format!(
                "was evaluated on `{}` and trained on `{}`; Table II is of a run's own data set",
                metrics.dataset, run.dataset
            ));
        }
        let values = [metrics.roc_auc, metrics.accuracy, metrics.f1];
        if values.iter().any(|value| !(0.0..=1.0).contains(value)) {
            return refuse("a metric is not between 0 and 1".to_owned());
        }
        let seeds = runs.entry((run.dataset.clone(), run.mode.clone())).or_default();
        if seeds.iter().any(|other| other.metrics.run.seed == run.seed) {
            return refuse(format!("{} {} with seed {} is given twice", run.dataset, run.mode, run.seed));
        }
        seeds.push(evaluated);
    }
    for seeds in runs.values_mut() {
        seeds.sort_by_key(|run| run.metrics.run.seed);
    }
    Ok(runs)
}

/// The interval of the (mean) ROC-AUC of runs on the same rows; `None` where the rows differ.
pub fn roc_auc_interval(runs: &[Evaluated]) -> Option<Interval> {
    let first = runs.first()?;
    if runs.len() == 1 {
        return first.metrics.intervals.roc_auc;
    }
    if !runs.iter().all(|run| run.same_rows(first)) {
        return None;
    }
    let labels = first.labels();
    let ranked: Option<Vec<Ranked>> =
        runs.iter().map(|run| Ranked::of(&run.probabilities(), &labels)).collect();
    let (ranked, (count, seed)) = (ranked?, first.metrics.resamples);
    let mut means = Vec::with_capacity(count);
    Resamples { labels: &labels, count, seed }.each(|times| {
        let sum: f64 = ranked.iter().map(|run| run.roc_auc(times).unwrap_or(f64::NAN)).sum();
        means.push(sum / ranked.len() as f64);
    });
    percentile_interval(means)
}

/// The structural components of the (mean) ROC-AUC of runs, for DeLong's test against runs on the same rows.
///
/// # Errors
/// Why there are none.
pub fn components(runs: &[Evaluated], against: &Evaluated) -> Result<Components, &'static str> {
    if !runs.iter().all(|run| run.same_rows(against)) {
        return Err("the runs were scored on different rows");
    }
    let labels = against.labels();
    let components: Option<Vec<Components>> =
        runs.iter().map(|run| Components::of(&run.probabilities(), &labels)).collect();
    components
        .and_then(|components| Components::mean(&components))
        .ok_or("fewer than two rows of a class, or a score that is not a number")
}
