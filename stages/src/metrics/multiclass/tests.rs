use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::metrics::{argmax, argmax_of, bootstrap, mean_and_sd, sigmoid, softmax, softmax_of};

/// Rows of a moderate single-label model, class 1 the rarest, with ties.
fn single_label(rows: usize, seed: u64) -> Predictions {
    let (classes, mut random) = (4, ChaCha8Rng::seed_from_u64(seed));
    let labels: Vec<u8> = (0..rows).map(|_| [0, 0, 0, 1, 2, 2, 3, 3, 3][random.random_range(0..9)]).collect();
    let row = |&label: &u8| -> Vec<f32> {
        let logit = |class: u8| match class == label {
            // Class 3 is easily taken for class 2.
            true => random.random_range(2..10),
            false => random.random_range(0..if (class, label) == (2, 3) { 9 } else { 7 }),
        };
        (0..classes).map(logit).map(|logit| logit as f32).collect()
    };
    let logits: Vec<Vec<f32>> = labels.iter().map(row).collect();
    let predicted: Vec<u8> = logits.iter().map(|row| argmax_of(row) as u8).collect();
    let scores: Vec<f32> = logits.iter().flat_map(|row| softmax_of(row)).collect();
    Predictions::single_label(classes.into(), &labels, &predicted, &scores)
}

/// Rows of a moderate multi-label model whose labels and scores depend on each other.
fn multi_label(rows: usize, seed: u64) -> Predictions {
    let (classes, mut random) = (3, ChaCha8Rng::seed_from_u64(seed));
    let (mut truth, mut logits) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let shift = random.random_range(-3..=3);
        let first = random.random_range(0..3) == 0;
        for class in 0..classes {
            let is = if class == 0 { first } else { random.random_range(0..if first { 2 } else { 6 }) == 0 };
            truth.push(is);
            logits.push((random.random_range(-6..=4) + shift + 4 * i32::from(is)) as f32);
        }
    }
    let predicted: Vec<bool> = logits.iter().map(|&logit| logit > 0.0).collect();
    let scores: Vec<f32> = logits.into_iter().map(sigmoid).collect();
    Predictions::multi_label(classes, &truth, &predicted, &scores)
}

/// Every row as often as it was drawn.
fn written_out(predictions: &Predictions, times: &[u32]) -> Predictions {
    let Predictions { classes, is_multi_label, .. } = *predictions;
    let rows = || times.iter().enumerate().flat_map(|(row, &times)| (0..times).map(move |_| row));
    let table =
        |values: &[bool]| rows().flat_map(|row| values[row * classes..][..classes].to_vec()).collect();
    let scores: Vec<f32> =
        rows().flat_map(|row| predictions.scores[row * classes..][..classes].to_vec()).collect();
    let strata = rows().map(|row| predictions.strata[row]).collect();
    Predictions::new(
        classes,
        is_multi_label,
        strata,
        table(&predictions.truth),
        table(&predictions.predicted),
        &scores,
    )
}

#[test]
fn every_resample_has_the_metrics_of_its_rows_written_out() {
    for predictions in [single_label(70, 1), multi_label(70, 2)] {
        let ranked = predictions.ranked().unwrap();
        let mut written: [Vec<f64>; 4] = Default::default();
        Resamples { labels: predictions.strata(), count: 40, seed: 9 }.each(|times| {
            let expected = written_out(&predictions, times).metrics();
            assert_eq!(predictions.drawn(Some(&ranked), times), expected);
            assert_eq!(ranked.roc_auc(times), expected.roc_auc);
            let values = [
                expected.accuracy,
                expected.f1_macro.unwrap(),
                expected.roc_auc.unwrap(),
                expected.by_class[2].recall.unwrap(),
            ];
            written.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
        });
        let found = predictions.intervals(40, 9);
        let found = [found.accuracy, found.f1_macro, found.roc_auc, found.by_class[2].recall];
        assert_eq!(found, written.map(percentile_interval));
    }
}

#[test]
fn the_averages_worked_by_hand() {
    // Rows of the classes 0, 0, 1, 1, taken for 0, 1, 1, 1; class 2 does not occur.
    let scores = [0.8, 0.1, 0.1, 0.4, 0.5, 0.1, 0.2, 0.6, 0.2, 0.1, 0.9, 0.0];
    let found = Predictions::single_label(3, &[0, 0, 1, 1], &[0, 1, 1, 1], &scores);
    assert_eq!(found.confusion(), Some(vec![vec![1, 1, 0], vec![0, 2, 0], vec![0, 0, 0]]));
    let metrics = found.metrics();
    assert_eq!(
        (metrics.accuracy, metrics.f1_micro, metrics.balanced_accuracy),
        (0.75, Some(0.75), Some(0.75))
    );
    // F1 of class 0 is 2 · 1 / (2 + 1), of class 1 2 · 2 / (2 + 3).
    assert!((metrics.f1_macro.unwrap() - (2.0 / 3.0 + 0.8) / 2.0).abs() < 1e-15);
    assert_eq!((metrics.roc_auc, metrics.average_precision), (Some(1.0), Some(1.0)));
    let absent = metrics.by_class[2];
    assert_eq!((absent.support, absent.precision, absent.recall, absent.f1), (0, None, None, None));
    assert_eq!((absent.roc_auc, absent.average_precision), (None, None));
    assert_eq!(found.intervals(20, 1).by_class[2].f1, None);

    // Two rows, one with both of its labels right, one with one of two.
    let found =
        Predictions::multi_label(2, &[true, true, true, false], &[true, true, false, false], &[0.5; 4]);
    let metrics = found.metrics();
    assert_eq!((metrics.accuracy, metrics.f1_micro, metrics.balanced_accuracy), (0.5, Some(0.8), None));
    assert_eq!((found.confusion(), metrics.roc_auc), (None, Some(0.5)));
    // Every row has label 0; of label 1 the scores tie.
    let diagonal = Some(vec![(0.0, 0.0), (1.0, 1.0)]);
    assert_eq!(found.macro_roc_curve(), diagonal);
}

#[test]
fn scores_that_are_not_numbers_and_no_rows_leave_metrics_undefined() {
    let broken = Predictions::single_label(2, &[0, 1], &[0, 1], &[0.5, f32::NAN, 0.5, 0.5]);
    assert_eq!((broken.metrics().accuracy, broken.metrics().roc_auc), (1.0, None));
    assert_eq!(broken.intervals(10, 1).roc_auc, None);
    assert!(broken.components().is_none() && broken.ranked().is_none() && broken.macro_roc_curve().is_none());
    let empty = Predictions::multi_label(3, &[], &[], &[]);
    assert_eq!(
        (empty.metrics().accuracy, empty.metrics().f1_macro, empty.metrics().roc_auc),
        (0.0, None, None)
    );
    assert!(empty.components().is_none() && empty.intervals(0, 1).accuracy.is_none());
}

#[test]
fn two_classes_have_the_intervals_and_the_test_of_the_two_class_metrics() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let labels: Vec<u8> = (0..200).map(|row| u8::from(row % 3 == 0)).collect();
    let mut model = || -> (Vec<[f32; 2]>, Vec<u8>, Predictions) {
        let logit = |&label: &u8| [0.0, (random.random_range(-9..=9) + 4 * i32::from(label)) as f32 * 1.9];
        let logits: Vec<[f32; 2]> = labels.iter().map(logit).collect();
        let predicted: Vec<u8> = logits.iter().map(|&pair| argmax(pair)).collect();
        let probabilities: Vec<[f32; 2]> = logits.into_iter().map(softmax).collect();
        let predictions = Predictions::single_label(2, &labels, &predicted, probabilities.as_flattened());
        (probabilities, predicted, predictions)
    };
    let (a, b) = (model(), model());
    let resamples = Resamples { labels: &labels, count: 60, seed: 3 };
    let (found, expected) = (a.2.intervals(60, 3), bootstrap::intervals(&a.0, &a.1, &resamples));
    assert_eq!(found.accuracy, expected.accuracy);
    assert_eq!(found.balanced_accuracy, expected.balanced_accuracy);
    assert_eq!(found.roc_auc, expected.roc_auc);
    assert_eq!(found.by_class[1].f1, expected.f1);
    assert_eq!(found.by_class[1].average_precision, expected.average_precision);

    // DeLong's variance with its n − 1, up to rounding.
    let pairs = [&a, &b].map(|model| Components::compute(&model.0, &labels).unwrap());
    let tables = [&a, &b].map(|model| model.2.components().unwrap());
    for (found, expected) in tables.iter().zip(&pairs) {
        assert!((found.auc() - expected.auc()).abs() < 1e-14);
        assert!((found.variance() / expected.variance() - 1.0).abs() < 1e-12);
    }
    let [found, expected] = [&tables, &pairs].map(|models| models[0].compare(&models[1]).unwrap());
    assert!((found.variance / expected.variance - 1.0).abs() < 1e-12);
    assert!((found.p.unwrap() / expected.p.unwrap() - 1.0).abs() < 1e-9);
    let [found, expected] = [&tables, &pairs].map(|models| Components::mean(models).unwrap());
    assert!((found.variance() / expected.variance() - 1.0).abs() < 1e-12);
}

#[test]
fn the_variances_of_a_macro_auc_and_of_a_difference_are_those_of_the_bootstrap() {
    for models in [single_label, multi_label].map(|kind| [kind(700, 5), kind(700, 5)]) {
        let [first, mut second] = models;
        // A second model of the same rows: the first with half as much noise in every other row.
        let classes = second.classes;
        for (row, scores) in second.scores.chunks_mut(classes).enumerate() {
            for (class, score) in scores.iter_mut().enumerate().filter(|_| row % 2 == 0) {
                *score = (*score + f32::from(u8::from(second.truth[row * classes + class]))) / 2.0;
            }
        }
        let ranked = [&first, &second].map(|model| model.ranked().unwrap());
        let (mut aucs, mut differences) = (Vec::new(), Vec::new());
        Resamples { labels: first.strata(), count: 2000, seed: 1 }.each(|times| {
            let [a, b] = [0, 1].map(|model| ranked[model].roc_auc(times).unwrap());
            aucs.push(a);
            differences.push(a - b);
        });
        let [a, b] = [&first, &second].map(|model| model.components().unwrap());
        let comparison = a.compare(&b).unwrap();
        for (variance, drawn) in [(a.variance(), aucs), (comparison.variance, differences)] {
            let ratio = variance.sqrt() / mean_and_sd(&drawn).1.unwrap();
            assert!((0.96..1.04).contains(&ratio), "{ratio}");
        }
    }
}
