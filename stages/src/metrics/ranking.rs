//! What is read off the rows in the order of their scores: the ROC curve of one class and its mean over several,
//! average precision, and calibration by bins of the score. It knows scores and labels.

use super::{CALIBRATION_BINS, of_class};

/// Rows from the greatest score down, tied rows together: positives and negatives of each group with the group's score.
/// `None` when a score is not a number.
fn groups(scores: &[f32], labels: &[u8]) -> Option<Vec<(f32, u64, u64)>> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut rows: Vec<(f32, bool)> =
        scores.iter().zip(labels).map(|(&score, &label)| (score, label == 1)).collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let count = |tied: &[(f32, bool)]| {
        let hits = tied.iter().filter(|(_, positive)| *positive).count() as u64;
        (tied[0].0, hits, tied.len() as u64 - hits)
    };
    Some(rows.chunk_by(|a, b| a.0 == b.0).map(count).collect())
}

/// Average precision: Σ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores from the greatest down, precision P and recall R of
/// "this score or more" (scikit-learn's `average_precision_score`; no interpolation).
///
/// `None` without a row of class 1, or with a score that is not a number.
pub fn average_precision(scores: &[f32], labels: &[u8]) -> Option<f64> {
    let groups = groups(scores, labels)?;
    let positives: u64 = groups.iter().map(|group| group.1).sum();
    if positives == 0 {
        return None;
    }
    let (mut hits, mut rows, mut sum) = (0, 0, 0.0);
    for (_, right, wrong) in groups {
        hits += right;
        rows += right + wrong;
        sum += right as f64 / positives as f64 * (hits as f64 / rows as f64);
    }
    Some(sum)
}

/// Expected calibration error of P(class 1): rows fall into [`CALIBRATION_BINS`] bins of equal width, each open at its
/// left and closed at its right end (0 belongs to the first), as in scikit-learn's `calibration_curve`. The error is
/// the mean over rows of the distance between their bin's mean probability and its share of class 1.
///
/// `None` without rows, or with a probability outside 0 to 1.
pub fn calibration_error(probabilities: &[f32], labels: &[u8]) -> Option<f64> {
    if probabilities.is_empty() || !probabilities.iter().all(|p| (0.0..=1.0).contains(p)) {
        return None;
    }
    let mut bins = [(0.0f64, 0.0f64); CALIBRATION_BINS];
    for (&probability, &label) in probabilities.iter().zip(labels) {
        let bin = &mut bins[calibration_bin(probability)];
        bin.0 += f64::from(probability);
        bin.1 += f64::from(u8::from(label == 1));
    }
    Some(bins.iter().map(|(sure, right)| (sure - right).abs()).sum::<f64>() / probabilities.len() as f64)
}

/// The bin of a probability: the edges are k · (1/15), as numpy's `linspace` has them.
pub(super) fn calibration_bin(probability: f32) -> usize {
    let (width, value) = (1.0 / CALIBRATION_BINS as f64, f64::from(probability));
    (1..CALIBRATION_BINS).filter(|&edge| edge as f64 * width < value).count()
}

/// The ROC curve: (false positive rate, true positive rate) from (0, 0) to (1, 1), one point for each distinct score.
///
/// `None` where a rate is undefined (one class only) or a score is not a number.
pub fn roc_curve(scores: &[f32], labels: &[u8]) -> Option<Vec<(f64, f64)>> {
    let groups = groups(scores, labels)?;
    let (positives, negatives) =
        groups.iter().fold((0, 0), |(all, none), group| (all + group.1, none + group.2));
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut points = vec![(0.0, 0.0)];
    let (mut hits, mut alarms) = (0, 0);
    for (_, right, wrong) in groups {
        hits += right;
        alarms += wrong;
        points.push((alarms as f64 / negatives as f64, hits as f64 / positives as f64));
    }
    Some(points)
}

/// [`roc_curve`] of one class against the rest: `truth` and `scores` are by row and class.
fn class_roc_curve(classes: usize, class: usize, truth: &[bool], scores: &[f32]) -> Option<Vec<(f64, f64)>> {
    let labels: Vec<u8> = of_class(truth, classes, class).into_iter().map(u8::from).collect();
    roc_curve(&of_class(scores, classes, class), &labels)
}

/// The macro-averaged ROC curve, every class against the rest: the mean of the classes' true positive rates at every
/// false positive rate that one of them has, each interpolated linearly (scikit-learn's example "Multiclass Receiver
/// Operating Characteristic"). `truth` and `scores` are by row and class. Where curves rise at a false positive rate,
/// that rate has a point below and one above, so the area is the mean of the classes' areas.
///
/// Classes without a ROC curve (no row, or every row) are left out. `None` if that leaves no class, or if a score is
/// not a number.
pub fn macro_roc_curve(classes: usize, truth: &[bool], scores: &[f32]) -> Option<Vec<(f64, f64)>> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let curves: Vec<Vec<(f64, f64)>> =
        (0..classes).filter_map(|class| class_roc_curve(classes, class, truth, scores)).collect();
    if curves.is_empty() {
        return None;
    }
    let mut rates: Vec<f64> = curves.iter().flatten().map(|point| point.0).collect();
    rates.sort_unstable_by(f64::total_cmp);
    rates.dedup();
    let mut sums = vec![(0.0, 0.0); rates.len()];
    for curve in &curves {
        let mut next = 0;
        for (&rate, (below, above)) in rates.iter().zip(&mut sums) {
            let first = next;
            next += curve[first..].iter().take_while(|point| point.0 == rate).count();
            let (low, high) = if next > first {
                (curve[first].1, curve[next - 1].1)
            } else {
                let (from, to) = (curve[first - 1], curve[first]);
                let value = from.1 + (to.1 - from.1) * ((rate - from.0) / (to.0 - from.0));
                (value, value)
            };
            (*below, *above) = (*below + low, *above + high);
        }
    }
    let mean = |sum: f64| sum / curves.len() as f64;
    let points = rates.iter().zip(sums).flat_map(|(&rate, (below, above))| {
        [Some((rate, mean(below))), (below != above).then(|| (rate, mean(above)))]
    });
    Some(points.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::bootstrap::Ranked;

    #[test]
    fn the_area_under_the_macro_curve_is_the_macro_roc_auc() {
        // Coarse scores tie across classes, class 3 has no row.
        let (classes, rows) = (4, 90);
        let truth: Vec<bool> =
            (0..rows * classes).map(|place| (place / classes * 7 % 11) % 3 == place % classes).collect();
        for levels in [3, 17, 1000] {
            let score = |place: usize| (place * 7919 % levels) as f32 / 2.0 + f32::from(truth[place] as u8);
            let scores: Vec<f32> = (0..rows * classes).map(score).collect();
            let curve = macro_roc_curve(classes, &truth, &scores).unwrap();
            let area: f64 =
                curve.windows(2).map(|ends| (ends[1].0 - ends[0].0) * (ends[0].1 + ends[1].1) / 2.0).sum();
            let auc = Ranked::one_vs_rest(classes, &truth, &scores).unwrap().roc_auc(&vec![1; rows]).unwrap();
            assert!((area - auc).abs() < 1e-12, "{area} under the curve, {auc} by pairs");
            assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
            assert_eq!((curve[0], curve[curve.len() - 1]), ((0.0, 0.0), (1.0, 1.0)));
        }
    }

    #[test]
    fn the_macro_curve_of_two_classes_worked_by_hand() {
        // Class 0 is perfect: up, then right. Class 1 ties all rows: the diagonal.
        let (truth, scores) = ([true, false, false, true], [0.9, 0.5, 0.1, 0.5]);
        assert_eq!(macro_roc_curve(2, &truth, &scores).unwrap(), [(0.0, 0.0), (0.0, 0.5), (1.0, 1.0)]);
        assert_eq!(macro_roc_curve(2, &[true; 4], &scores), None);
        assert_eq!(macro_roc_curve(2, &truth, &[f32::NAN; 4]), None);
        assert_eq!(macro_roc_curve(0, &[], &[]), None);
    }

    #[test]
    fn the_roc_curve_of_the_known_example_has_its_corners_and_area() {
        let (scores, labels) = ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]);
        let curve = roc_curve(&scores, &labels).unwrap();
        assert_eq!(curve, [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]);
        // 0.5·1 + 0.5·2/3: scikit-learn's own example, 0.83.
        assert!((average_precision(&scores, &labels).unwrap() - 5.0 / 6.0).abs() < 1e-15);
        // All rows tied: one step, the diagonal.
        assert_eq!(roc_curve(&[0.5; 4], &labels).unwrap(), [(0.0, 0.0), (1.0, 1.0)]);
    }

    #[test]
    fn what_is_undefined_is_none() {
        assert_eq!(roc_curve(&[0.1, 0.2], &[1, 1]), None);
        assert_eq!(average_precision(&[0.1, 0.2], &[0, 0]), None);
        assert_eq!(average_precision(&[0.1, f32::NAN], &[0, 1]), None);
        assert_eq!(calibration_error(&[f32::NAN], &[0]), None);
        assert_eq!(calibration_error(&[], &[]), None);
    }

    #[test]
    fn calibration_is_the_distance_of_belief_and_truth() {
        // Two rows of 0.75 in one bin, one of them positive: |0.75 − 0.5|.
        assert_eq!(calibration_error(&[0.75, 0.75], &[1, 0]), Some(0.25));
        // 0 and 1 lie in the first and the last bin.
        assert_eq!([0.0, 1.0].map(calibration_bin), [0, CALIBRATION_BINS - 1]);
        assert_eq!(calibration_error(&[0.0, 1.0], &[0, 1]), Some(0.0));
    }
}
