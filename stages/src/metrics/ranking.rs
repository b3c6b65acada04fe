//! What is read off the rows in the order of their scores: the ROC curve, average precision, and calibration by bins
//! of the score. It knows scores of class 1 and labels.

use super::CALIBRATION_BINS;

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

#[cfg(test)]
mod tests {
    use super::*;

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
