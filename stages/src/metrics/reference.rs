//! All metrics compared with scikit-learn, and DeLong's test with its definition, on 1,000 random cases with ties, constants
//! and saturation: `tests/reference/metrics.py` draws the same cases and wrote what is expected.

use super::delong::Components;
use super::{accuracy, argmax, average_precision, balanced_accuracy, binary_f1, calibration_error, roc_auc};

/// Knuth's MMIX generator, as the script has it.
pub(super) struct Lcg(pub(super) u64);

impl Lcg {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn model(draw: &mut Lcg, kind: u64, labels: &[u8]) -> Vec<[f32; 2]> {
    let constant = draw.next(9) as f32 / 8.0;
    let row = |&label: &u8| {
        let label = u64::from(label);
        let one = match kind {
            0 => (draw.next(3073) + 1024 * label).min(4096) as f32 / 4096.0,
            1 => (draw.next(7) + label).min(8) as f32 / 8.0,
            2 if draw.next(2) == 0 => return [draw.next(50) as f32 / (1u64 << 40) as f32, 1.0],
            2 => draw.next(4097) as f32 / 4096.0,
            _ => constant,
        };
        [1.0 - one, one]
    };
    labels.iter().map(row).collect()
}

#[test]
fn metrics_equal_scikit_learn_and_delong_its_definition_on_a_thousand_cases() {
    let mut file = csv::Reader::from_reader(include_str!("../../tests/fixtures/metrics.csv").as_bytes());
    let expected: Vec<[f64; 9]> = file.deserialize().map(|row| row.unwrap()).collect();
    assert_eq!(expected.len(), 1000);
    let mut tested = 0;
    for (number, expected) in expected.iter().enumerate() {
        let mut draw = Lcg(number as u64);
        let size = 4 + draw.next(if number % 10 == 0 { 300 } else { 60 });
        let label = |row| if row < 4 { (row % 2) as u8 } else { u8::from(draw.next(3) > 0) };
        let labels: Vec<u8> = (0..size).map(label).collect();
        let a = model(&mut draw, number as u64 % 4, &labels);
        let kind = draw.next(4);
        let b = model(&mut draw, kind, &labels);
        let guess: Vec<u8> = a.iter().map(|&row| argmax(row)).collect();
        let scores: Vec<f32> = a.iter().map(|row| row[1]).collect();
        let [a, b] = [a, b].map(|model| (Components::compute(&model, &labels).unwrap(), model));
        let test = a.0.compare(&b.0).unwrap();
        let found = [
            accuracy(&guess, &labels),
            binary_f1(&guess, &labels),
            roc_auc(&a.1, &labels).unwrap(),
            average_precision(&scores, &labels).unwrap(),
            balanced_accuracy(&guess, &labels).unwrap(),
            calibration_error(&scores, &labels).unwrap(),
            test.difference,
            test.variance,
        ];
        for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-12,
                "case {number}, value {place}: {found} instead of {expected}"
            );
        }
        // Where no row speaks against another the script has no p-value.
        if expected[8].is_nan() {
            assert!(test.variance < 1e-15, "case {number}");
        } else {
            let p = test.p.unwrap();
            assert!((p - expected[8]).abs() < 1e-11, "case {number}: p {p} instead of {}", expected[8]);
            tested += 1;
        }
    }
    assert!(tested > 900, "only {tested} cases have a p-value");
}
