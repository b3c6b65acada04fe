//! DeLong's test for the difference of two ROC-AUCs on the same rows (DeLong, DeLong and Clarke-Pearson, Biometrics
//! 1988), by midranks in O(n log n) (Sun and Xu, IEEE Signal Processing Letters 2014).
//!
//! The AUC is that of [`super::roc_auc`], the mean over both columns; its structural components are the means of the
//! columns' components, so the variance is that of the very number that tables show.

/// How much each row contributes to an AUC: the structural components, whose mean over either class is the AUC.
#[derive(Debug, Clone, PartialEq)]
pub struct Components {
    /// One for each row of class 1: the share of rows of class 0 that it ranks above, ties counted half.
    positive: Vec<f64>,
    /// One for each row of class 0: the share of rows of class 1 that rank above it.
    negative: Vec<f64>,
}

/// The difference of two AUCs and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// First AUC minus second.
    pub difference: f64,
    /// Its variance.
    pub variance: f64,
    /// Difference by standard error; `None` where the variance is 0 and the difference is not.
    pub z: Option<f64>,
    /// Two-sided p-value against no difference.
    pub p: Option<f64>,
}

/// Half the width of a 95% interval in standard errors.
pub const NORMAL_95: f64 = 1.959_963_984_540_054;

/// Below this a variance is rounding: the least that two rankings of n rows can differ by is about 1/n⁴, more than
/// this for 30,000 rows.
const NO_VARIANCE: f64 = 1e-20;

impl Components {
    /// The components of two-class probabilities; `None` for fewer than two rows of a class (no variance), or for a
    /// probability that is not a number.
    pub fn compute(probabilities: &[[f32; 2]], labels: &[u8]) -> Option<Self> {
        if probabilities.iter().flatten().any(|value| value.is_nan()) {
            return None;
        }
        let split = |class: u8, column: usize| -> Vec<f32> {
            let rows = probabilities.iter().zip(labels).filter(|(_, label)| **label == class);
            rows.map(|(row, _)| row[column]).collect()
        };
        let (own, other) = column(&split(1, 1), &split(0, 1))?;
        // In the column of class 0 the classes change their parts.
        let (mirrored_other, mirrored_own) = column(&split(0, 0), &split(1, 0))?;
        let mean = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
        Some(Self { positive: mean(own, mirrored_own), negative: mean(other, mirrored_other) })
    }

    /// The components of the mean AUC of several models on the same rows; `None` for none, or for other rows.
    pub fn mean(of: &[Self]) -> Option<Self> {
        let first = of.first()?;
        let same = |other: &Self| {
            (other.positive.len(), other.negative.len()) == (first.positive.len(), first.negative.len())
        };
        let average = |pick: fn(&Self) -> &[f64]| -> Vec<f64> {
            let sum = |row: usize| of.iter().map(|components| pick(components)[row]).sum::<f64>();
            (0..pick(first).len()).map(|row| sum(row) / of.len() as f64).collect()
        };
        of.iter().all(same).then(|| Self {
            positive: average(|components| &components.positive),
            negative: average(|components| &components.negative),
        })
    }

    /// The AUC.
    pub fn auc(&self) -> f64 {
        mean(&self.positive)
    }

    /// Its variance.
    pub fn variance(&self) -> f64 {
        variance(&self.positive) / self.positive.len() as f64
            + variance(&self.negative) / self.negative.len() as f64
    }

    /// Compares the AUCs of two models on the same rows; `None` when the rows cannot be the same.
    pub fn compare(&self, other: &Self) -> Option<Comparison> {
        let minus = |a: &[f64], b: &[f64]| -> Option<Vec<f64>> {
            (a.len() == b.len()).then(|| a.iter().zip(b).map(|(a, b)| a - b).collect())
        };
        let between = Self {
            positive: minus(&self.positive, &other.positive)?,
            negative: minus(&self.negative, &other.negative)?,
        };
        let (difference, variance) = (self.auc() - other.auc(), between.variance());
        let (z, p) = if variance > NO_VARIANCE {
            let z = difference / variance.sqrt();
            (Some(z), Some(libm::erfc(z.abs() / std::f64::consts::SQRT_2)))
        } else if difference.abs() < 1e-12 {
            (Some(0.0), Some(1.0))
        } else {
            (None, None)
        };
        Some(Comparison { difference, variance, z, p })
    }
}

impl Comparison {
    /// The 95% interval of the difference.
    pub fn interval(&self) -> (f64, f64) {
        let half = NORMAL_95 * self.variance.max(0.0).sqrt();
        (self.difference - half, self.difference + half)
    }
}

/// The components of one column: of the rows that should score high, and of those that should score low.
fn column(high: &[f32], low: &[f32]) -> Option<(Vec<f64>, Vec<f64>)> {
    if high.len() < 2 || low.len() < 2 {
        return None;
    }
    let (m, n) = (high.len() as f64, low.len() as f64);
    let all = midranks(&[high, low].concat());
    let of_high = all.iter().zip(midranks(high)).map(|(rank, own)| (rank - own) / n).collect();
    let of_low =
        all[high.len()..].iter().zip(midranks(low)).map(|(rank, own)| 1.0 - (rank - own) / m).collect();
    Some((of_high, of_low))
}

/// The rank of each value from 1, tied values sharing the mean of their ranks.
fn midranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        for &row in tied {
            ranks[row] = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        }
        before += tied.len();
    }
    ranks
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / (values.len() - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{roc_auc, softmax};

    fn rows(logits: &[f32]) -> Vec<[f32; 2]> {
        logits.iter().map(|&logit| softmax([0.0, logit])).collect()
    }

    #[test]
    fn equal_models_do_not_differ_and_perfect_ones_have_no_variance() {
        let labels = [0, 0, 1, 1, 1];
        let good = Components::compute(&rows(&[-2.0, -1.0, 1.0, 2.0, 3.0]), &labels).unwrap();
        let flat = Components::compute(&rows(&[0.0; 5]), &labels).unwrap();
        assert_eq!((good.auc(), good.variance(), flat.auc()), (1.0, 0.0, 0.5));
        let same = good.compare(&good.clone()).unwrap();
        assert_eq!((same.difference, same.z, same.p), (0.0, Some(0.0), Some(1.0)));
        // Half an AUC apart, yet no row speaks against another: there is nothing to test by.
        let apart = good.compare(&flat).unwrap();
        assert_eq!((apart.difference, apart.z, apart.p), (0.5, None, None));
    }

    #[test]
    fn a_class_of_one_row_and_other_rows_are_refused() {
        assert_eq!(Components::compute(&rows(&[0.0, 1.0, 2.0]), &[0, 1, 1]), None);
        let two = Components::compute(&rows(&[0.0, 1.0, 2.0, 3.0]), &[0, 1, 0, 1]).unwrap();
        let more = Components::compute(&rows(&[0.0, 1.0, 2.0, 3.0, 4.0]), &[0, 1, 0, 1, 1]).unwrap();
        assert_eq!(two.compare(&more), None);
        assert_eq!(Components::mean(&[two, more]), None);
    }

    #[test]
    fn the_mean_of_components_is_that_of_the_aucs() {
        let labels = [0, 1, 0, 1, 1, 0];
        let models = [[0.1, 0.2, 0.3, 0.1, 0.9, 0.4], [9.0, 0.1, 0.2, 30.0, 40.0, 30.0]].map(|x| rows(&x));
        let components: Vec<Components> =
            models.iter().map(|model| Components::compute(model, &labels).unwrap()).collect();
        let aucs: Vec<f64> = models.iter().map(|model| roc_auc(model, &labels).unwrap()).collect();
        for (components, auc) in components.iter().zip(&aucs) {
            assert!((components.auc() - auc).abs() < 1e-15);
        }
        let both = Components::mean(&components).unwrap();
        assert!((both.auc() - (aucs[0] + aucs[1]) / 2.0).abs() < 1e-15);
    }
}
