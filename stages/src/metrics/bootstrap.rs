//! 95% intervals by the bootstrap: rows are drawn with replacement, the metric is computed on each such resample,
//! and the interval reaches from the 2.5th to the 97.5th percentile of what came out (Efron's percentile interval, with
//! numpy's linear interpolation between values).
//!
//! Resamples are stratified: each has as many rows of every class as the split itself, so none loses a class and no
//! resample is degenerate. A metric that is undefined on the split itself (one class only) has no interval. The draws
//! depend on the seed and on the labels' order alone, so two models scored on the same rows see the same resamples, and
//! functions of several models ([`Resamples::each`]) have paired intervals.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ranking::calibration_bin;
use super::{CALIBRATION_BINS, mean_of_defined, of_class};

/// The ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Stratified resamples of labelled rows.
#[derive(Debug, Clone, Copy)]
pub struct Resamples<'a> {
    /// The rows' labels; rows with the same label are one stratum.
    pub labels: &'a [u8],
    /// How many resamples.
    pub count: usize,
    /// The generator's seed.
    pub seed: u64,
}

impl Resamples<'_> {
    /// Calls `see` with each resample: how often each row was drawn.
    pub fn each(&self, mut see: impl FnMut(&[u32])) {
        let mut strata = BTreeMap::<u8, Vec<u32>>::new();
        for (row, &label) in (0..).zip(self.labels) {
            strata.entry(label).or_default().push(row);
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut times = vec![0u32; self.labels.len()];
        for _ in 0..self.count {
            times.fill(0);
            for rows in strata.values() {
                for _ in 0..rows.len() {
                    times[rows[random.random_range(0..rows.len() as u32) as usize] as usize] += 1;
                }
            }
            see(&times);
        }
    }
}

/// The 95% percentile interval of `values`; `None` without values or where one is not a number.
pub fn percentile_interval(mut values: Vec<f64>) -> Option<Interval> {
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let above = (below + 1).min(values.len() - 1);
        values[below] + (values[above] - values[below]) * part
    };
    Some(Interval { low: at(0.025), high: at(0.975) })
}

/// The intervals of a model's metrics; `None` where the metric is undefined or nothing was drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Intervals {
    /// Of [`super::accuracy`].
    pub accuracy: Option<Interval>,
    /// Of [`super::binary_f1`].
    pub f1: Option<Interval>,
    /// Of the mean of the F1s of more classes than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<Interval>,
    /// Of the F1 of all pairs of a row and a class, where there are more than two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1_micro: Option<Interval>,
    /// Of [`super::roc_auc`].
    pub roc_auc: Option<Interval>,
    /// Of [`super::average_precision`].
    pub average_precision: Option<Interval>,
    /// Of [`super::balanced_accuracy`].
    pub balanced_accuracy: Option<Interval>,
    /// Of [`super::calibration_error`].
    pub calibration_error: Option<Interval>,
}

/// The intervals of all metrics of `probabilities` over the same resamples; `predicted` are the classes by which
/// accuracy and F1 count (the argmax of logits, which may differ from that of saturated probabilities).
pub fn intervals(probabilities: &[[f32; 2]], predicted: &[u8], resamples: &Resamples) -> Intervals {
    let Some(model) = Ranked::from_scores(probabilities, resamples.labels) else {
        return Intervals::default();
    };
    let bins: Vec<usize> = probabilities.iter().map(|row| calibration_bin(row[1])).collect();
    let mut found: [Vec<f64>; 6] = std::array::from_fn(|_| Vec::with_capacity(resamples.count));
    resamples.each(|times| {
        let mut counts = [[0u64; 2]; 2];
        let mut calibration = [0.0f64; CALIBRATION_BINS];
        for (row, &times) in times.iter().enumerate() {
            let label = resamples.labels[row] == 1;
            counts[usize::from(label)][usize::from(predicted[row] == 1)] += u64::from(times);
            let gap = f64::from(probabilities[row][1]) - f64::from(u8::from(label));
            calibration[bins[row]] += f64::from(times) * gap;
        }
        let [[right_0, alarms], [misses, right_1]] = counts;
        let rows = (right_0 + alarms + misses + right_1) as f64;
        let recalls = [(right_0, right_0 + alarms), (right_1, right_1 + misses)];
        let recalls: Vec<f64> =
            recalls.iter().filter(|part| part.1 > 0).map(|part| part.0 as f64 / part.1 as f64).collect();
        let values = [
            (right_0 + right_1) as f64 / rows,
            if right_1 == 0 { 0.0 } else { 2.0 * right_1 as f64 / (2 * right_1 + alarms + misses) as f64 },
            model.roc_auc(times).unwrap_or(f64::NAN),
            model.columns[1].average_precision(times).unwrap_or(f64::NAN),
            recalls.iter().sum::<f64>() / recalls.len() as f64,
            calibration.iter().map(|gap| gap.abs()).sum::<f64>() / rows,
        ];
        for (found, value) in found.iter_mut().zip(values) {
            found.push(value);
        }
    });
    let [accuracy, f1, roc_auc, average_precision, balanced_accuracy, calibration_error] =
        found.map(percentile_interval);
    Intervals {
        accuracy,
        f1,
        roc_auc,
        average_precision,
        balanced_accuracy,
        calibration_error,
        ..Intervals::default()
    }
}

/// The rows in the order of one score, sorted once for all resamples.
#[derive(Debug, Clone)]
pub struct Column {
    /// From the least score up: row, whether it is positive, and whether it begins a group of ties.
    rows: Vec<(u32, bool, bool)>,
}

impl Column {
    /// Sorts the rows, of which some are `positive`, by their scores; `None` for a score that is not a number.
    pub fn from_scores(scores: &[f32], positive: &[bool]) -> Option<Self> {
        if scores.iter().any(|score| score.is_nan()) {
            return None;
        }
        let score = |row: u32| scores[row as usize];
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| score(a).total_cmp(&score(b)));
        let begins = |place: usize| place == 0 || score(order[place - 1]) != score(order[place]);
        let row = |(place, &row): (usize, &u32)| (row, positive[row as usize], begins(place));
        Some(Self { rows: order.iter().enumerate().map(row).collect() })
    }

    /// The area under the ROC curve of the rows, each counted as often as `times` says; `None` where all that are
    /// counted are positive, or none of them.
    pub fn roc_auc(&self, times: &[u32]) -> Option<f64> {
        // Sums of pairs stay below 2⁶⁴ for splits of up to four thousand million rows.
        let (mut below, mut positives, mut halves) = (0u64, 0u64, 0u64);
        let (mut hits, mut misses) = (0u64, 0u64);
        for &(row, positive, begins) in &self.rows {
            if begins {
                halves += hits * (2 * below + misses);
                below += misses;
                positives += hits;
                (hits, misses) = (0, 0);
            }
            let weight = u64::from(times[row as usize]);
            if positive { hits += weight } else { misses += weight }
        }
        halves += hits * (2 * below + misses);
        below += misses;
        positives += hits;
        let pairs = positives * below;
        (pairs > 0).then(|| halves as f64 / (2 * pairs) as f64)
    }

    /// [`super::average_precision`] of the rows, each counted as often as `times` says; `None` where no positive one
    /// is counted.
    pub fn average_precision(&self, times: &[u32]) -> Option<f64> {
        let weight = |row: u32| u64::from(times[row as usize]);
        let positives: u64 = self.rows.iter().filter(|row| row.1).map(|row| weight(row.0)).sum();
        if positives == 0 {
            return None;
        }
        // From the greatest score down; a group is complete when its first row has been seen.
        let (mut hits, mut rows, mut right, mut sum) = (0u64, 0u64, 0u64, 0.0);
        for &(row, positive, begins) in self.rows.iter().rev() {
            let weight = weight(row);
            rows += weight;
            if positive {
                right += weight;
            }
            if begins && right > 0 {
                hits += right;
                sum += right as f64 * (hits as f64 / rows as f64);
                right = 0;
            }
        }
        Some(sum / positives as f64)
    }
}

/// A model's rows in the order of each class's scores, every class against the rest.
#[derive(Debug, Clone)]
pub struct Ranked {
    pub(super) columns: Vec<Column>,
}

impl Ranked {
    /// The rows of a two-class model; `None` for a probability that is not a number.
    pub fn from_scores(probabilities: &[[f32; 2]], labels: &[u8]) -> Option<Self> {
        let truth: Vec<bool> = labels.iter().flat_map(|&label| [label != 1, label == 1]).collect();
        Self::one_vs_rest(2, &truth, probabilities.as_flattened())
    }

    /// The rows of a model with any number of classes: `truth` and `scores` by row and class. `None` for a score that
    /// is not a number.
    pub fn one_vs_rest(classes: usize, truth: &[bool], scores: &[f32]) -> Option<Self> {
        let column =
            |class| Column::from_scores(&of_class(scores, classes, class), &of_class(truth, classes, class));
        Some(Self { columns: (0..classes).map(column).collect::<Option<_>>()? })
    }

    /// The ROC-AUC of the rows, each counted as often as `times` says: the mean over the classes that have one. Of two
    /// classes it is [`super::roc_auc`].
    pub fn roc_auc(&self, times: &[u32]) -> Option<f64> {
        mean_of_defined(self.columns.iter().map(|column| column.roc_auc(times)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::delong::Components;
    use crate::metrics::{self, argmax, softmax};

    /// Rows of a moderate model, coarse enough to tie and wide enough to saturate.
    fn model(rows: usize, seed: u64) -> (Vec<[f32; 2]>, Vec<u8>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let row = |_| {
            let label = u8::from(random.random_range(0..3) > 0);
            let logit = (random.random_range(-10..=10) as f32 + 4.0 * f32::from(label)) * 1.7;
            (softmax([0.0, logit]), label)
        };
        (0..rows).map(row).unzip()
    }

    #[test]
    fn every_resample_has_the_metrics_of_its_rows_written_out() {
        let (probabilities, labels) = model(60, 3);
        let predicted: Vec<u8> = probabilities.iter().map(|&row| argmax(row)).collect();
        let resamples = Resamples { labels: &labels, count: 40, seed: 9 };
        let ranked = Ranked::from_scores(&probabilities, &labels).unwrap();
        let mut written: [Vec<f64>; 6] = Default::default();
        resamples.each(|times| {
            let rows = || times.iter().enumerate().flat_map(|(row, &times)| (0..times).map(move |_| row));
            let drawn: Vec<[f32; 2]> = rows().map(|row| probabilities[row]).collect();
            let truth: Vec<u8> = rows().map(|row| labels[row]).collect();
            let guess: Vec<u8> = rows().map(|row| predicted[row]).collect();
            let scores: Vec<f32> = drawn.iter().map(|row| row[1]).collect();
            assert_eq!(truth.iter().filter(|l| **l == 1).count(), labels.iter().filter(|l| **l == 1).count());
            assert_eq!(ranked.roc_auc(times), metrics::roc_auc(&drawn, &truth));
            let values = [
                metrics::accuracy(&guess, &truth),
                metrics::binary_f1(&guess, &truth),
                metrics::roc_auc(&drawn, &truth).unwrap(),
                metrics::average_precision(&scores, &truth).unwrap(),
                metrics::balanced_accuracy(&guess, &truth).unwrap(),
                metrics::calibration_error(&scores, &truth).unwrap(),
            ];
            written.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
        });
        let found = intervals(&probabilities, &predicted, &resamples);
        let found = [
            found.accuracy,
            found.f1,
            found.roc_auc,
            found.average_precision,
            found.balanced_accuracy,
            found.calibration_error,
        ];
        for (found, values) in found.iter().zip(written) {
            let (found, expected) = (found.unwrap(), percentile_interval(values).unwrap());
            assert!((found.low - expected.low).abs() < 1e-12 && (found.high - expected.high).abs() < 1e-12);
        }
    }

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([0, 1, …, 10], [2.5, 97.5]) = [0.25, 9.75].
        let found = percentile_interval((0..=10).rev().map(f64::from).collect()).unwrap();
        assert!((found.low - 0.25).abs() < 1e-12 && (found.high - 9.75).abs() < 1e-12);
        assert_eq!(percentile_interval(vec![]), None);
        assert_eq!(percentile_interval(vec![0.0, f64::NAN]), None);
    }

    #[test]
    fn the_interval_of_an_auc_is_as_wide_as_delongs_formula_has_it() {
        let (probabilities, labels) = model(800, 5);
        let resamples = Resamples { labels: &labels, count: 1000, seed: 1 };
        let predicted: Vec<u8> = probabilities.iter().map(|&row| argmax(row)).collect();
        let found = intervals(&probabilities, &predicted, &resamples).roc_auc.unwrap();
        let components = Components::compute(&probabilities, &labels).unwrap();
        let expected = 2.0 * metrics::delong::NORMAL_95 * components.variance().sqrt();
        let ratio = (found.high - found.low) / expected;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn one_class_has_no_interval_of_its_auc_and_the_seed_decides_the_draws() {
        let (probabilities, labels) = model(50, 2);
        let predicted: Vec<u8> = probabilities.iter().map(|&row| argmax(row)).collect();
        let of = |labels: &[u8], seed: u64| {
            intervals(&probabilities, &predicted, &Resamples { labels, count: 50, seed })
        };
        assert_eq!(of(&[1; 50], 1).roc_auc, None);
        assert!(of(&[1; 50], 1).accuracy.is_some());
        assert_eq!(of(&labels, 1), of(&labels, 1));
        assert_ne!(of(&labels, 1), of(&labels, 2));
        let broken = vec![[f32::NAN; 2]; 50];
        let found = intervals(&broken, &predicted, &Resamples { labels: &labels, count: 5, seed: 1 });
        assert_eq!(found.roc_auc, None);
    }
}
