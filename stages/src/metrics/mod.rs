//! Metrics of classifiers. Those of two classes are here: softmax in float32, accuracy, F1 of class 1 and ROC-AUC
//! (scikit-learn's macro average over the two one-hot columns) are computed as the original (MMF) computes them; average
//! precision, balanced accuracy and calibration error as scikit-learn. [`multiclass`] has those of any number of
//! classes. [`bootstrap`] says how sure metrics are, [`delong`] whether two models differ.
//!
//! It knows numbers only: no samples, no files, no model.

pub mod bootstrap;
pub mod delong;
pub mod hanley_mcneil;
mod logits;
pub mod multiclass;
mod ranking;

pub use logits::{
    argmax, argmax_of, binary_cross_entropy, cross_entropy, log_loss, sigmoid, softmax, softmax_of,
};
pub use ranking::{average_precision, calibration_error, macro_roc_curve, roc_curve};

/// Bins of [`calibration_error`].
pub const CALIBRATION_BINS: usize = 15;

/// ROC-AUC of two-class probabilities: the mean of the AUCs of both columns, each against its own one-hot
/// label. Without ties the two are equal; float32 saturation makes them differ.
///
/// `None` when it is undefined: only one class among the labels, or a probability that is not a number.
pub fn roc_auc(probabilities: &[[f32; 2]], labels: &[u8]) -> Option<f64> {
    let column = |class: u8| {
        let pairs =
            probabilities.iter().zip(labels).map(|(row, &label)| (row[class as usize], label == class));
        column_auc(pairs.collect())
    };
    Some((column(0)? + column(1)?) / 2.0)
}

/// Area under the ROC curve of one score: the share of (positive, negative) pairs in which the positive has
/// the greater score, ties counted as one half (Mann and Whitney's U). O(n log n), exact in integers.
fn column_auc(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    if scored.iter().any(|(score, _)| score.is_nan()) {
        return None;
    }
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut positives, mut halves) = (0u128, 0u128, 0u128);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let hits = tied.iter().filter(|(_, positive)| *positive).count() as u128;
        let misses = tied.len() as u128 - hits;
        halves += hits * (2 * below + misses);
        below += misses;
        positives += hits;
    }
    let pairs = positives * below;
    (pairs > 0).then(|| halves as f64 / (2 * pairs) as f64)
}

/// Share of predictions that equal their label; 0 without any.
pub fn accuracy(predicted: &[u8], labels: &[u8]) -> f64 {
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
    right as f64 / labels.len().max(1) as f64
}

/// F1 of class 1: harmonic mean of precision and recall; 0 where that is undefined.
pub fn binary_f1(predicted: &[u8], labels: &[u8]) -> f64 {
    let count = |pair: (u8, u8)| predicted.iter().zip(labels).filter(|&(&a, &b)| (a, b) == pair).count();
    let (hits, false_alarms, misses) = (count((1, 1)), count((1, 0)), count((0, 1)));
    if hits == 0 { 0.0 } else { 2.0 * hits as f64 / (2 * hits + false_alarms + misses) as f64 }
}

/// Mean over the classes that occur of the share of their rows that is predicted right. `None` without rows.
pub fn balanced_accuracy(predicted: &[u8], labels: &[u8]) -> Option<f64> {
    let recalls: Vec<f64> = [0, 1].into_iter().filter_map(|class| recall(predicted, labels, class)).collect();
    (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
}

fn recall(predicted: &[u8], labels: &[u8], class: u8) -> Option<f64> {
    let of_class = || predicted.iter().zip(labels).filter(move |(_, label)| **label == class);
    let (rows, hits) = (of_class().count(), of_class().filter(|(guess, _)| **guess == class).count());
    (rows > 0).then(|| hits as f64 / rows as f64)
}

/// How many rows of each label (first index) got each prediction (second index).
pub fn confusion(predicted: &[u8], labels: &[u8]) -> [[u64; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for (&guess, &label) in predicted.iter().zip(labels) {
        counts[usize::from(label == 1)][usize::from(guess == 1)] += 1;
    }
    counts
}

/// Mean and sample standard deviation (n − 1); the deviation of fewer than two values is `None`.
pub fn mean_and_sd(values: &[f64]) -> (f64, Option<f64>) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (mean, (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt()))
}

/// The values of one class out of a table by row and class.
fn of_class<T: Copy>(table: &[T], classes: usize, class: usize) -> Vec<T> {
    table.iter().skip(class).step_by(classes).copied().collect()
}

/// The mean of the values that are defined; `None` without any.
fn mean_of_defined(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, count) = values.flatten().fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The definition, pair by pair: independent of sorting and of tie groups.
    fn brute_force(scores: &[f32], positive: &[bool]) -> f64 {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().zip(positive).filter(|pair| *pair.1) {
            for (b, _) in scores.iter().zip(positive).filter(|pair| !*pair.1) {
                pairs += 1.0;
                sum += if a > b { 1.0 } else { f64::from(u8::from(a == b)) / 2.0 };
            }
        }
        sum / pairs
    }

    #[test]
    fn roc_auc_equals_pair_counting_with_ties_and_saturation() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for case in 0..300 {
            let rows = rng.random_range(2..60);
            // Coarse logits tie; logits of ±40 saturate P(class 1) at 1 but not at 0.
            let reach = [1.0f32, 8.0, 40.0][case % 3];
            let logits: Vec<[f32; 2]> =
                (0..rows).map(|_| [0.0, (rng.random_range(-6..=6) as f32) / 6.0 * reach]).collect();
            let mut labels: Vec<u8> = (0..rows).map(|_| rng.random_range(0..=1)).collect();
            (labels[0], labels[1]) = (0, 1);
            let probabilities: Vec<[f32; 2]> = logits.iter().map(|&pair| softmax(pair)).collect();
            let column = |class: usize| {
                let scores: Vec<f32> = probabilities.iter().map(|row| row[class]).collect();
                let positive: Vec<bool> = labels.iter().map(|&label| label as usize == class).collect();
                brute_force(&scores, &positive)
            };
            let expected = (column(0) + column(1)) / 2.0;
            let found = roc_auc(&probabilities, &labels).unwrap();
            assert!((found - expected).abs() < 1e-12, "case {case}: {found} instead of {expected}");
        }
    }

    #[test]
    fn saturation_lets_the_two_columns_differ() {
        // P(class 1) is 1 for both rows, P(class 0) is not: column 1 ties (½), column 0 decides (1).
        let probabilities = [softmax([0.0, 20.0]), softmax([0.0, 30.0])];
        assert_eq!(probabilities[0][1], probabilities[1][1]);
        assert_eq!(roc_auc(&probabilities, &[0, 1]), Some(0.75));
    }

    #[test]
    fn roc_auc_of_a_known_example() {
        // The example of scikit-learn's documentation: scores 0.1, 0.4, 0.35, 0.8 with labels 0, 0, 1, 1.
        let rows = [[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]];
        assert_eq!(roc_auc(&rows, &[0, 0, 1, 1]), Some(0.75));
    }

    #[test]
    fn roc_auc_is_undefined_for_one_class_and_for_not_a_number() {
        assert_eq!(roc_auc(&[[0.5, 0.5], [0.1, 0.9]], &[1, 1]), None);
        assert_eq!(roc_auc(&[[0.5, 0.5], [f32::NAN, f32::NAN]], &[0, 1]), None);
        assert_eq!(roc_auc(&[], &[]), None);
    }

    #[test]
    fn a_constant_predictor_has_the_published_accuracy_and_f1() {
        // MMHS150K's validation split has 3719 of 5000 rows of class 1: accuracy 0.7438, F1 0.8531.
        let labels: Vec<u8> = (0..5000).map(|row| u8::from(row < 3719)).collect();
        assert_eq!(accuracy(&[1; 5000], &labels), 0.7438);
        assert!((binary_f1(&[1; 5000], &labels) - 0.8531).abs() < 5e-5);
        assert_eq!(binary_f1(&[0; 5000], &labels), 0.0);
        assert_eq!(binary_f1(&[0, 1, 1, 0], &[1, 1, 0, 0]), 0.5);
    }
}
