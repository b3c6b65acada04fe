//! The variance of a ROC-AUC of which nothing but its value and the sizes of both classes is known (Hanley and McNeil,
//! Radiology 1982): what can be said of a published number without its scores.

/// The variance of a ROC-AUC on `positives` and `negatives` rows, both above 0.
pub fn variance(auc: f64, positives: u64, negatives: u64) -> f64 {
    let (m, n) = (positives as f64, negatives as f64);
    // Chances that two rows of one class both rank on the right side of one of the other, for exponential scores.
    let (two_positives, two_negatives) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let sum =
        auc * (1.0 - auc) + (m - 1.0) * (two_positives - auc * auc) + (n - 1.0) * (two_negatives - auc * auc);
    sum.max(0.0) / (m * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_formula_worked_by_hand() {
        // θ = 0.8, 50 and 60 rows: Q1 = 0.8 / 1.2, Q2 = 1.28 / 1.8, θ² = 0.64.
        let expected = (0.16 + 49.0 * (2.0 / 3.0 - 0.64) + 59.0 * (1.28 / 1.8 - 0.64)) / 3000.0;
        assert!((variance(0.8, 50, 60) - expected).abs() < 1e-15);
        // Near 0.73 on the paper's 500 rows it is about 0.022.
        assert!((variance(0.73, 247, 253).sqrt() - 0.022).abs() < 5e-4);
        assert_eq!(variance(1.0, 5, 5), 0.0);
    }
}
