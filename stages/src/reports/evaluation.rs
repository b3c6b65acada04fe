//! Evaluated runs, read and checked. It knows no table.

use std::collections::BTreeMap;
use std::path::Path;

use stage_api::StageError;

use crate::artifacts::labels::{self, Classes, Label, numbers, predicted_label};
use crate::artifacts::metrics::Metrics;
use crate::artifacts::samples::Split;
use crate::artifacts::scores::{self, Score};
use crate::metrics::bootstrap::{Interval, Ranked, Resamples, percentile_interval};
use crate::metrics::delong::Components;
use crate::metrics::multiclass::Predictions;
use crate::reports::caption::Profile;
use crate::reports::paper_results::Paper;
use crate::reports::table::Cell;

/// A run with its metrics and the scores behind them.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// Its metrics.
    pub metrics: Metrics,
    /// Its rows.
    pub scores: Vec<Score>,
}

/// The runs by data set and kind ([`RunInfo::kind`](crate::artifacts::history::RunInfo::kind)), the seeds of each in order.
pub type Runs = BTreeMap<(String, String), Vec<Evaluated>>;

/// The cell of a run that was not given.
pub fn missing((dataset, mode): &(String, String)) -> Cell {
    Cell::Missing(format!("no run: make {dataset}-{mode}"))
}

impl Evaluated {
    /// Whether it was scored on a split with as many rows, and as many hateful ones, as the paper's.
    pub fn is_on_the_papers_split(&self, paper: &Paper) -> bool {
        let Metrics { dataset, rows, positives, .. } = &self.metrics;
        paper.split(dataset).is_some_and(|split| (split.rows, Some(split.positives)) == (*rows, *positives))
    }

    /// The classes of its data set.
    pub fn classes(&self) -> &Classes {
        &self.metrics.classes
    }

    /// The true class of each row, of which a row has one.
    pub fn labels(&self) -> Vec<u8> {
        numbers(&self.scores.iter().map(|score| score.label).collect::<Vec<_>>())
    }

    /// P(class 0) and P(class 1) of its rows, which have one of two classes.
    pub fn probabilities(&self) -> Vec<[f32; 2]> {
        self.scores.iter().map(|score| [score.of(0), score.of(1)]).collect()
    }

    /// Its rows with their predictions.
    pub fn predictions(&self) -> Predictions {
        let labels: Vec<Label> = self.scores.iter().map(|score| score.label).collect();
        let classes = self.classes();
        let predicted: Vec<Label> = self
            .scores
            .iter()
            .map(|score| predicted_label(&score.probabilities, classes.multi_label))
            .collect();
        let scores: Vec<f32> =
            self.scores.iter().flat_map(|score| score.probabilities.iter().copied()).collect();
        labels::scored(classes.count(), &labels, &predicted, &scores)
    }

    fn ranked(&self) -> Option<Ranked> {
        match self.classes().is_binary() {
            true => Ranked::from_scores(&self.probabilities(), &self.labels()),
            false => self.predictions().ranked(),
        }
    }

    fn components(&self) -> Option<Components> {
        match self.classes().is_binary() {
            true => Components::compute(&self.probabilities(), &self.labels()),
            false => self.predictions().components(),
        }
    }

    fn same_rows(&self, other: &Self) -> bool {
        let row = |score: &Score| (score.id.clone(), score.label);
        self.scores.iter().map(row).eq(other.scores.iter().map(row))
    }
}

/// The split that runs were evaluated on; validation for none.
pub fn split(runs: &Runs) -> Split {
    runs.values().flatten().next().map_or(Split::Val, |run| run.metrics.split)
}

/// The profile with names for the data sets of the paper and of runs, and for the classes of runs.
pub fn named(profile: &Profile, runs: &Runs, paper: &Paper) -> Profile {
    let theirs = paper.runs.iter().map(|run| run.dataset.as_str());
    let datasets = theirs.chain(runs.keys().map(|(dataset, _)| dataset.as_str()));
    profile.with_runs(datasets, runs.values().flatten().map(Evaluated::classes))
}

/// The classes of runs, which all have as many; two for none.
pub fn classes(runs: &Runs) -> Classes {
    runs.values().flatten().next().map(|run| run.classes().clone()).unwrap_or_default()
}

/// `one of 3 classes`.
fn described(classes: &Classes) -> String {
    format!("{} of {} classes", if classes.multi_label { "any number" } else { "one" }, classes.count())
}

/// What a split is called before the word.
pub const fn split_title(split: Split) -> &'static str {
    match split {
        Split::Train => "training",
        Split::Val => "validation",
        Split::Test => "test",
    }
}

/// Reads what `evaluate` wrote for runs on one split of their own data set; on validation where a `paper` reports on
/// that. They came in by `port`.
///
/// # Errors
/// Files that cannot be read, another split or data set, a metric that is none, a run given twice.
pub fn read(port: &str, dirs: &[&Path], paper: &Paper) -> Result<Runs, StageError> {
    let mut runs = Runs::new();
    let mut split = (!paper.runs.is_empty()).then_some(Split::Val);
    for dir in dirs {
        let evaluated = Evaluated { metrics: Metrics::read(dir)?, scores: scores::read(dir)? };
        let metrics = &evaluated.metrics;
        let refuse = |problem: String| Err(StageError::input(port, dir, problem));
        let expected = *split.get_or_insert(metrics.split);
        if metrics.split != expected {
            return refuse(match paper.runs.is_empty() {
                true => format!(
                    "was evaluated on the {} split, the runs before it on the {} split",
                    split_title(metrics.split),
                    split_title(expected)
                ),
                false => "was evaluated on another split; the paper reports on validation".to_owned(),
            });
        }
        let run = &metrics.run;
        if metrics.dataset != run.dataset {
            return refuse(format!(
                "was evaluated on `{}` and trained on `{}`; Table II is of a run's own data set",
                metrics.dataset, run.dataset
            ));
        }
        let values = [Some(metrics.roc_auc), Some(metrics.accuracy), metrics.f1, metrics.f1_macro];
        if values.iter().flatten().any(|value| !(0.0..=1.0).contains(value)) {
            return refuse("a metric is not between 0 and 1".to_owned());
        }
        let (own, others) = (evaluated.classes(), runs.values().flatten().next().map(Evaluated::classes));
        if let Some(others) =
            others.filter(|others| (others.count(), others.multi_label) != (own.count(), own.multi_label))
        {
            return refuse(format!(
                "its rows have {}, those of the runs before it {}; their metrics are not of one kind: make tables of each",
                described(own),
                described(others)
            ));
        }
        let seeds = runs.entry((run.dataset.clone(), run.kind())).or_default();
        if seeds.iter().any(|other| other.metrics.run.seed == run.seed) {
            return refuse(format!("{} {} with seed {} is given twice", run.dataset, run.kind(), run.seed));
        }
        seeds.push(evaluated);
    }
    for seeds in runs.values_mut() {
        seeds.sort_by_key(|run| run.metrics.run.seed);
    }
    Ok(runs)
}

/// The mean ROC-AUC of runs.
pub fn mean_roc_auc(runs: &[Evaluated]) -> f64 {
    runs.iter().map(|run| run.metrics.roc_auc).sum::<f64>() / runs.len() as f64
}

/// The interval of the (mean) ROC-AUC of runs on the same rows; `None` where the rows differ.
pub fn roc_auc_interval(runs: &[Evaluated]) -> Option<Interval> {
    match runs {
        [one] => one.metrics.intervals.roc_auc,
        several => interval_of([several], |[mean]| mean),
    }
}

/// The interval of a function of the mean ROC-AUCs of sets of runs, over resamples that all of them share; `None` for an
/// empty set, or where the rows differ.
pub fn interval_of<const N: usize>(
    sets: [&[Evaluated]; N],
    of: impl Fn([f64; N]) -> f64,
) -> Option<Interval> {
    let first = sets.first()?.first()?;
    let fits = |set: &&[Evaluated]| !set.is_empty() && set.iter().all(|run| run.same_rows(first));
    if !sets.iter().all(fits) {
        return None;
    }
    // Where a row may have several classes, all rows are one stratum.
    let labels = first.labels();
    let ranked: Option<Vec<Vec<Ranked>>> =
        sets.iter().map(|set| set.iter().map(Evaluated::ranked).collect::<Option<Vec<_>>>()).collect();
    let (ranked, (count, seed)) = (ranked?, first.metrics.resamples);
    let mut values = Vec::with_capacity(count);
    Resamples { labels: &labels, count, seed }.each(|times| {
        values.push(of(std::array::from_fn(|set| {
            let sum: f64 = ranked[set].iter().map(|run| run.roc_auc(times).unwrap_or(f64::NAN)).sum();
            sum / ranked[set].len() as f64
        })));
    });
    percentile_interval(values)
}

/// The structural components of the (mean) ROC-AUC of runs, for DeLong's test against runs on the same rows.
///
/// # Errors
/// Why there are none.
pub fn components(runs: &[Evaluated], against: &Evaluated) -> Result<Components, &'static str> {
    if !runs.iter().all(|run| run.same_rows(against)) {
        return Err("the runs were scored on different rows");
    }
    let components: Option<Vec<Components>> = runs.iter().map(Evaluated::components).collect();
    components
        .and_then(|components| Components::mean(&components))
        .ok_or("fewer than two rows of a class, or a score that is not a number")
}

/// Evaluations for tests.
#[cfg(test)]
pub mod made_up {
    use std::path::{Path, PathBuf};

    use crate::artifacts::history::{ParameterCounts, RunInfo};
    use crate::artifacts::labels::Classes;
    use crate::artifacts::metrics::Metrics;
    use crate::artifacts::samples::Split;
    use crate::artifacts::scores::{self, Score};
    use crate::metrics::bootstrap::{Interval, Intervals};

    /// An evaluation whose rows score by `quality`: 0 is chance, 1 separates the classes.
    pub fn write(root: &Path, dataset: &str, mode: &str, seed: u64, roc_auc: f64, quality: f32) -> PathBuf {
        let dir = root.join(format!("{dataset}-{mode}-{seed}"));
        std::fs::create_dir_all(&dir).unwrap();
        let metrics = Metrics {
            run: RunInfo::from_kind(dataset, mode, seed, 600),
            parameters: ParameterCounts { total: 10, trained: 5, adapters: 0 },
            dataset: dataset.into(),
            classes: Classes::default(),
            split: Split::Val,
            rows: 500,
            positives: Some(247),
            predicted_positives: Some(100),
            best_update: 450,
            loss: 0.6,
            accuracy: 0.5,
            f1: Some(0.25),
            f1_macro: None,
            f1_micro: None,
            roc_auc,
            average_precision: 0.5,
            balanced_accuracy: Some(0.5),
            calibration_error: Some(0.1),
            by_class: vec![],
            class_intervals: vec![],
            resamples: (200, 1),
            intervals: Intervals { roc_auc: Some(Interval { low: 0.5, high: 0.9 }), ..Intervals::default() },
        };
        metrics.write(&dir).unwrap();
        let score = |row: u64| {
            let label = u8::from(!row.is_multiple_of(3));
            let p1 = ((row * 37 + seed) % 101) as f32 / 101.0 * (1.0 - quality) + quality * f32::from(label);
            Score { id: row.to_string(), label: label.into(), probabilities: vec![1.0 - p1, p1] }
        };
        scores::write(&dir, &(0..90).map(score).collect::<Vec<_>>()).unwrap();
        dir
    }
}
