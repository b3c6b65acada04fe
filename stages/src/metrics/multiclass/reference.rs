//! All metrics of several classes compared with scikit-learn, and DeLong's variance with its definition, on 1,000
//! random cases with ties, constants, absent classes and rows of a single class: `tests/reference/multiclass.py` draws
//! the same cases and wrote what is expected.

use super::*;
use crate::metrics::argmax_of;
use crate::metrics::reference::Lcg;

/// Which classes a row has, by class.
fn row(draw: &mut Lcg, is_multi_label: bool, kind: usize, only: usize, classes: usize) -> Vec<bool> {
    if is_multi_label {
        let class = |class: usize| {
            let (any, rare, last) = (draw.next(2) == 0, draw.next(8) == 0, draw.next(2) == 0);
            [any, class <= only, rare, last && class + 1 < classes][kind]
        };
        return (0..classes).map(class).collect();
    }
    let any = draw.next(classes as u64) as usize;
    let (is_only, other) = (draw.next(4) > 0, draw.next(classes as u64) as usize);
    let not_last = draw.next(classes as u64 - 1) as usize;
    let label = [any, only, if is_only { only } else { other }, not_last][kind];
    (0..classes).map(|class| class == label).collect()
}

fn scores(draw: &mut Lcg, truth: &[bool]) -> Vec<f32> {
    let (kind, constant) = (draw.next(3), draw.next(9) as f32 / 8.0);
    let value = |&right: &bool| {
        let right = u64::from(right);
        match kind {
            0 => (draw.next(3073) + 1024 * right) as f32 / 4096.0,
            1 => (draw.next(4) + right) as f32 / 4.0,
            _ => constant,
        }
    };
    truth.iter().map(value).collect()
}

/// Values by class as one: each class has a weight of its own, and what is undefined counts as −1.
fn weighted(values: impl Iterator<Item = Option<f64>>) -> f64 {
    (1..).zip(values).map(|(weight, value)| f64::from(weight) * value.unwrap_or(-1.0)).sum()
}

fn case(number: usize) -> Predictions {
    let mut draw = Lcg(10_000 + number as u64);
    let is_multi_label = number % 2 == 1;
    let (classes, rows) = (2 + draw.next(5) as usize, 1 + draw.next(50));
    let (kind, only) = (draw.next(4) as usize, draw.next(classes as u64) as usize);
    let truth: Vec<bool> =
        (0..rows).flat_map(|_| row(&mut draw, is_multi_label, kind, only, classes)).collect();
    let scores = scores(&mut draw, &truth);
    if is_multi_label {
        let predicted: Vec<bool> = scores.iter().map(|&score| score > 0.5).collect();
        return Predictions::multi_label(classes, &truth, &predicted, &scores);
    }
    let labels: Vec<u8> =
        truth.chunks(classes).map(|row| row.iter().position(|&is| is).unwrap() as u8).collect();
    let predicted: Vec<u8> = scores.chunks(classes).map(|row| argmax_of(row) as u8).collect();
    Predictions::single_label(classes, &labels, &predicted, &scores)
}

#[test]
fn metrics_equal_scikit_learn_and_the_variance_its_definition_on_a_thousand_cases() {
    let file = include_str!("../../../tests/fixtures/multiclass.csv");
    let expected: Vec<[f64; 14]> =
        csv::Reader::from_reader(file.as_bytes()).deserialize().map(|row| row.unwrap()).collect();
    assert_eq!(expected.len(), 1000);
    let mut undefined = 0;
    for (number, expected) in expected.iter().enumerate() {
        let predictions = case(number);
        let found = predictions.metrics();
        let of = |value: fn(&ClassMetrics) -> Option<f64>| weighted(found.by_class.iter().map(value));
        // Of a class in multi-label: true negatives, false positives, false negatives, true positives.
        let of_class = |class: &ClassMetrics| {
            let ClassMetrics { support, predicted, true_positives: hits, .. } = *class;
            let rows = predictions.strata().len() as u64;
            [rows + hits - support - predicted, predicted - hits, support - hits, hits]
        };
        let counts = || found.by_class.iter().flat_map(of_class).collect();
        let confusion: Vec<u64> = predictions.confusion().map_or_else(counts, |counts| counts.concat());
        let values = [
            Some(found.accuracy),
            found.balanced_accuracy,
            found.f1_macro,
            found.f1_micro,
            found.roc_auc,
            found.average_precision,
            Some(of(|class| class.precision)),
            Some(of(|class| class.recall)),
            Some(of(|class| class.f1)),
            Some(of(|class| Some(class.support as f64))),
            Some(of(|class| class.roc_auc)),
            Some(of(|class| class.average_precision)),
            Some(weighted(confusion.iter().map(|&count| Some(count as f64)))),
            predictions.components().map(|components| components.variance()),
        ];
        for (place, (found, &expected)) in values.into_iter().zip(expected).enumerate() {
            let is_same = match found {
                Some(found) => (found - expected).abs() < 1e-11 * expected.abs().max(1.0),
                None => expected.is_nan(),
            };
            assert!(is_same, "case {number}, value {place}: {found:?} instead of {expected}");
            undefined += usize::from(found.is_none());
        }
        if let Some(components) = predictions.components() {
            assert!((components.auc() - found.roc_auc.unwrap()).abs() < 1e-14, "case {number}");
        }
    }
    assert_eq!(
        undefined,
        500 + 1 + 1 + 301 + 6 + 487,
        "values that scikit-learn or the script leaves undefined"
    );
}
