//! A mode's curve by update: of one run, or the mean of several seeds with their spread. It does not know how it is drawn.

use std::collections::BTreeMap;

use crate::artifacts::history::History;
use crate::reports::names::Names;
use crate::reports::paper_results::{Point, Split};

/// A value over the seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
}

/// A validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Val {
    /// Updates done.
    pub update: u64,
    /// Cross-entropy in nats.
    pub loss: Spread,
    /// ROC-AUC from 0 to 1.
    pub roc_auc: Spread,
}

/// The curves of one data set and mode, ours or the paper's.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Short name of the data set.
    pub dataset: String,
    /// Short name of the mode, with that of the model before it where it is not the paper's first.
    pub mode: String,
    /// The seeds behind it; empty where they are not known.
    pub seeds: Vec<u64>,
    /// Updates it was trained for.
    pub updates: u64,
    /// Training loss by update.
    pub train: Vec<(u64, Spread)>,
    /// Validation by update.
    pub val: Vec<Val>,
    /// The first validation with the greatest (mean) ROC-AUC; `None` where there is none that is a number.
    pub best: Option<Val>,
}

impl Spread {
    /// A single value.
    fn one(value: f64) -> Self {
        Self { mean: value, low: value, high: value }
    }

    /// No number among several makes their mean none.
    fn from_values(values: &[f64]) -> Self {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        if !mean.is_finite() {
            return Self::one(f64::NAN);
        }
        let (low, high) = values.iter().fold((mean, mean), |(low, high), v| (low.min(*v), high.max(*v)));
        Self { mean, low, high }
    }
}

impl Curve {
    /// The share of the training that is done after `update` updates.
    pub fn share(&self, update: u64) -> f64 {
        update as f64 / self.updates.max(1) as f64
    }

    /// What a legend calls it.
    pub fn name(&self, names: &Names) -> String {
        let title = names.kind_title(&self.mode);
        match self.seeds.as_slice() {
            [] | [_] => title,
            seeds => {
                let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
                format!("{title} (seeds {})", seeds.join(", "))
            }
        }
    }

    /// How many of its values are no numbers.
    pub fn not_numbers(&self) -> usize {
        let train = self.train.iter().map(|(_, loss)| loss);
        let val = self.val.iter().flat_map(|val| [&val.loss, &val.roc_auc]);
        train.chain(val).filter(|value| !value.mean.is_finite()).count()
    }

    fn with_best(mut self) -> Self {
        for val in self.val.iter().filter(|val| val.roc_auc.mean.is_finite()) {
            if self.best.is_none_or(|best| val.roc_auc.mean > best.roc_auc.mean) {
                self.best = Some(*val);
            }
        }
        self
    }
}

/// The curves of runs, the seeds of each data set and mode together, in the order of data sets and modes.
pub fn from_runs(histories: &[History]) -> Vec<Curve> {
    let mut groups: BTreeMap<(&str, String), Vec<&History>> = BTreeMap::new();
    for history in histories {
        groups.entry((&history.run.dataset, history.run.kind())).or_default().push(history);
    }
    groups.into_values().map(merged).collect()
}

/// Several seeds as one curve, over the updates that all of them have.
fn merged(mut histories: Vec<&History>) -> Curve {
    histories.sort_by_key(|history| history.run.seed);
    let first = histories[0];
    let common = |values: Vec<BTreeMap<u64, f64>>| -> BTreeMap<u64, Spread> {
        let updates = values[0].keys().filter(|update| values.iter().all(|run| run.contains_key(update)));
        let spread =
            |update: &u64| Spread::from_values(&values.iter().map(|run| run[update]).collect::<Vec<_>>());
        updates.map(|update| (*update, spread(update))).collect()
    };
    let of_val = |value: fn(&crate::artifacts::history::ValPoint) -> f64| {
        let run = |history: &&History| history.val.iter().map(|val| (val.update, value(val))).collect();
        common(histories.iter().map(run).collect())
    };
    let train = |history: &&History| history.train.iter().map(|point| (point.update, point.loss)).collect();
    let (loss, roc_auc) = (of_val(|val| val.loss), of_val(|val| val.roc_auc));
    let val = loss.into_iter().zip(roc_auc.into_values());
    let curve = Curve {
        dataset: first.run.dataset.clone(),
        mode: first.run.kind(),
        seeds: histories.iter().map(|history| history.run.seed).collect(),
        updates: histories.iter().map(|history| history.run.updates).max().unwrap_or(0),
        train: common(histories.iter().map(train).collect()).into_iter().collect(),
        val: val.map(|((update, loss), roc_auc)| Val { update, loss, roc_auc }).collect(),
        best: None,
    };
    curve.with_best()
}

/// The curves of the paper's runs.
pub fn published(points: &[Point]) -> Vec<Curve> {
    let mut curves: BTreeMap<(&str, &str), Curve> = BTreeMap::new();
    for point in points {
        let curve = curves.entry((&point.dataset, &point.mode)).or_insert_with(|| Curve {
            dataset: point.dataset.clone(),
            mode: point.mode.clone(),
            seeds: Vec::new(),
            updates: 0,
            train: Vec::new(),
            val: Vec::new(),
            best: None,
        });
        curve.updates = curve.updates.max(point.update);
        let loss = Spread::one(point.loss);
        match (point.split, point.roc_auc) {
            (Split::Val, Some(auc)) => {
                curve.val.push(Val { update: point.update, loss, roc_auc: Spread::one(auc) });
            }
            _ => curve.train.push((point.update, loss)),
        }
    }
    // The first with the greatest, as the original keeps its checkpoints.
    curves.into_values().map(Curve::with_best).collect()
}
