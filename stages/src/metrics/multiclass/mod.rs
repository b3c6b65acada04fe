//! Metrics of classifiers with any number of classes, as scikit-learn names and computes them: one class a row
//! (single-label) or any number of classes a row (multi-label). It knows numbers only.
//!
//! ROC-AUC and average precision are one class against the rest. Averages over classes are macro averages, in which
//! each class counts the same. What is undefined is `None`, and averages leave it out: precision of a class that is
//! never predicted, recall and average precision of one without rows, F1 of one with neither, ROC-AUC of one without
//! rows or with every row. That is scikit-learn's `zero_division=np.nan`, and in single-label also its default, which
//! averages over the classes that occur.

use super::bootstrap::{Interval, Ranked, Resamples, percentile_interval};
use super::delong::Components;
use super::mean_of_defined;
use super::ranking::macro_roc_curve;

/// Rows with their true classes, their predicted ones, and the score of each class.
#[derive(Debug, Clone)]
pub struct Predictions {
    classes: usize,
    is_multi_label: bool,
    /// By row: its class where it has one, else 0.
    strata: Vec<u8>,
    /// By row and class.
    truth: Vec<bool>,
    predicted: Vec<bool>,
    scores: Vec<f32>,
}

/// The metrics of one class against the rest.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClassMetrics {
    /// Rows that are of the class.
    pub support: u64,
    /// Rows that are predicted to be of it.
    pub predicted: u64,
    /// Rows that are both.
    pub true_positives: u64,
    /// Share of the predicted rows that are of the class.
    pub precision: Option<f64>,
    /// Share of the rows of the class that are predicted.
    pub recall: Option<f64>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
    /// Area under the ROC curve.
    pub roc_auc: Option<f64>,
    /// Average precision.
    pub average_precision: Option<f64>,
}

/// The metrics of all classes.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Metrics {
    /// Share of rows whose classes are all right (in multi-label scikit-learn's subset accuracy); 0 without rows.
    pub accuracy: f64,
    /// Mean recall; single-label only.
    pub balanced_accuracy: Option<f64>,
    /// Mean F1.
    pub f1_macro: Option<f64>,
    /// F1 over all pairs of row and class; in single-label the accuracy.
    pub f1_micro: Option<f64>,
    /// Mean ROC-AUC.
    pub roc_auc: Option<f64>,
    /// Mean average precision.
    pub average_precision: Option<f64>,
    /// By class.
    pub by_class: Vec<ClassMetrics>,
}

/// The intervals of [`ClassMetrics`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClassIntervals {
    /// Of the precision.
    pub precision: Option<Interval>,
    /// Of the recall.
    pub recall: Option<Interval>,
    /// Of the F1.
    pub f1: Option<Interval>,
    /// Of the ROC-AUC.
    pub roc_auc: Option<Interval>,
    /// Of the average precision.
    pub average_precision: Option<Interval>,
}

/// The intervals of [`Metrics`]; `None` where a resample leaves the metric undefined, or nothing was drawn.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Intervals {
    /// Of the accuracy.
    pub accuracy: Option<Interval>,
    /// Of the balanced accuracy.
    pub balanced_accuracy: Option<Interval>,
    /// Of the macro F1.
    pub f1_macro: Option<Interval>,
    /// Of the micro F1.
    pub f1_micro: Option<Interval>,
    /// Of the macro ROC-AUC.
    pub roc_auc: Option<Interval>,
    /// Of the macro average precision.
    pub average_precision: Option<Interval>,
    /// By class.
    pub by_class: Vec<ClassIntervals>,
}

impl Predictions {
    /// Rows of one class each: the true `labels`, the `predicted` ones, and `scores` by row and class.
    ///
    /// # Panics
    /// If a label is not below `classes`, or if the numbers of rows differ.
    pub fn single_label(classes: usize, labels: &[u8], predicted: &[u8], scores: &[f32]) -> Self {
        let one_hot = |labels: &[u8]| {
            let mut table = vec![false; labels.len() * classes];
            for (row, &label) in labels.iter().enumerate() {
                assert!(usize::from(label) < classes, "label {label} of {classes} classes");
                table[row * classes + usize::from(label)] = true;
            }
            table
        };
        Self::new(classes, false, labels.to_vec(), one_hot(labels), one_hot(predicted), scores)
    }

    /// Rows of any number of classes: `truth`, `predicted` and `scores` by row and class.
    ///
    /// # Panics
    /// If the numbers of values differ, or are not multiples of `classes`.
    pub fn multi_label(classes: usize, truth: &[bool], predicted: &[bool], scores: &[f32]) -> Self {
        let strata = vec![0; truth.len().checked_div(classes).unwrap_or(0)];
        Self::new(classes, true, strata, truth.to_vec(), predicted.to_vec(), scores)
    }

    fn new(
        classes: usize,
        is_multi_label: bool,
        strata: Vec<u8>,
        truth: Vec<bool>,
        predicted: Vec<bool>,
        scores: &[f32],
    ) -> Self {
        let values = strata.len() * classes;
        assert_eq!(
            (truth.len(), predicted.len(), scores.len()),
            (values, values, values),
            "by row and class"
        );
        Self { classes, is_multi_label, strata, truth, predicted, scores: scores.to_vec() }
    }

    /// The strata of [`Resamples`] of these rows: their classes in single-label, one for all rows in multi-label.
    pub fn strata(&self) -> &[u8] {
        &self.strata
    }

    /// The rows in the order of each class's scores; `None` for a score that is not a number.
    pub fn ranked(&self) -> Option<Ranked> {
        Ranked::one_vs_rest(self.classes, &self.truth, &self.scores)
    }

    /// The structural components of the macro ROC-AUC; `None` as [`Components::one_vs_rest`] says.
    pub fn components(&self) -> Option<Components> {
        Components::one_vs_rest(self.classes, &self.truth, &self.scores)
    }

    /// The macro-averaged ROC curve; `None` as [`super::macro_roc_curve`] says.
    pub fn macro_roc_curve(&self) -> Option<Vec<(f64, f64)>> {
        macro_roc_curve(self.classes, &self.truth, &self.scores)
    }

    /// How many rows of each class (first index) are predicted to be of each (second); `None` in multi-label.
    pub fn confusion(&self) -> Option<Vec<Vec<u64>>> {
        if self.is_multi_label {
            return None;
        }
        let mut counts = vec![vec![0; self.classes]; self.classes];
        for (row, &label) in self.strata.iter().enumerate() {
            let predicted = &self.predicted[row * self.classes..][..self.classes];
            for (count, &is) in counts[usize::from(label)].iter_mut().zip(predicted) {
                *count += u64::from(is);
            }
        }
        Some(counts)
    }

    /// The metrics of the rows.
    pub fn metrics(&self) -> Metrics {
        self.drawn(self.ranked().as_ref(), &vec![1; self.strata.len()])
    }

    /// 95% intervals over `count` resamples from `seed`, stratified by class in single-label and plain in multi-label.
    /// A plain resample may lack a class; its averages are then those of the other classes.
    pub fn intervals(&self, count: usize, seed: u64) -> Intervals {
        let ranked = self.ranked();
        let mut drawn: Vec<Metrics> = Vec::with_capacity(count);
        Resamples { labels: &self.strata, count, seed }
            .each(|times| drawn.push(self.drawn(ranked.as_ref(), times)));
        let interval = |value: &dyn Fn(&Metrics) -> Option<f64>| {
            drawn.iter().map(value).collect::<Option<_>>().and_then(percentile_interval)
        };
        let by_class = |class: usize| {
            let interval =
                |value: fn(&ClassMetrics) -> Option<f64>| interval(&|drawn| value(&drawn.by_class[class]));
            ClassIntervals {
                precision: interval(|class| class.precision),
                recall: interval(|class| class.recall),
                f1: interval(|class| class.f1),
                roc_auc: interval(|class| class.roc_auc),
                average_precision: interval(|class| class.average_precision),
            }
        };
        Intervals {
            accuracy: interval(&|drawn| Some(drawn.accuracy)),
            balanced_accuracy: interval(&|drawn| drawn.balanced_accuracy),
            f1_macro: interval(&|drawn| drawn.f1_macro),
            f1_micro: interval(&|drawn| drawn.f1_micro),
            roc_auc: interval(&|drawn| drawn.roc_auc),
            average_precision: interval(&|drawn| drawn.average_precision),
            by_class: (0..self.classes).map(by_class).collect(),
        }
    }

    /// The metrics of the rows, each counted as often as `times` says.
    fn drawn(&self, ranked: Option<&Ranked>, times: &[u32]) -> Metrics {
        let class = |class: usize| {
            let (mut support, mut predicted, mut true_positives) = (0, 0, 0);
            for (row, &times) in times.iter().enumerate() {
                let place = row * self.classes + class;
                let (is, guess) = (u64::from(self.truth[place]), u64::from(self.predicted[place]));
                support += u64::from(times) * is;
                predicted += u64::from(times) * guess;
                true_positives += u64::from(times) * (is & guess);
            }
            let column = ranked.map(|ranked| &ranked.columns[class]);
            ClassMetrics {
                support,
                predicted,
                true_positives,
                precision: share(true_positives, predicted),
                recall: share(true_positives, support),
                f1: share(2 * true_positives, support + predicted),
                roc_auc: column.and_then(|column| column.roc_auc(times)),
                average_precision: column.and_then(|column| column.average_precision(times)),
            }
        };
        let by_class: Vec<ClassMetrics> = (0..self.classes).map(class).collect();
        let (mut right, mut rows) = (0, 0);
        for (row, &times) in times.iter().enumerate() {
            let values = row * self.classes..(row + 1) * self.classes;
            rows += u64::from(times);
            right += u64::from(times) * u64::from(self.truth[values.clone()] == self.predicted[values]);
        }
        let sum = |count: fn(&ClassMetrics) -> u64| by_class.iter().map(count).sum::<u64>();
        let mean = |value: fn(&ClassMetrics) -> Option<f64>| mean_of_defined(by_class.iter().map(value));
        Metrics {
            accuracy: share(right, rows).unwrap_or(0.0),
            balanced_accuracy: mean(|class| class.recall).filter(|_| !self.is_multi_label),
            f1_macro: mean(|class| class.f1),
            f1_micro: share(
                2 * sum(|class| class.true_positives),
                sum(|class| class.support) + sum(|class| class.predicted),
            ),
            roc_auc: mean(|class| class.roc_auc),
            average_precision: mean(|class| class.average_precision),
            by_class,
        }
    }
}

/// A share; `None` of nothing.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests;
