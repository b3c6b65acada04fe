//! DeLong's test for the difference of two ROC-AUCs on the same rows (DeLong, DeLong and Clarke-Pearson, Biometrics
//! 1988), by midranks in O(n log n) (Sun and Xu, IEEE Signal Processing Letters 2014).
//!
//! Of two classes the AUC is that of [`super::roc_auc`], the mean over both columns; its structural components are the
//! means of the columns' components, so the variance is that of the very number that tables show.
//!
//! Of several classes it is the macro average of one class against the rest ([`Components::one_vs_rest`]).
//! DeLong's covariance is of several scores of the same positives and negatives: the AUCs θ have the structural
//! components V₁₀ of the m positives and V₀₁ of the n negatives, and the covariance is
//! Σ (V₁₀ − θ)(V₁₀′ − θ′) / (m (m − 1)) + Σ (V₀₁ − θ)(V₀₁′ − θ′) / (n (n − 1)).
//! Here a row is positive for one class and negative for another. But as a sum over rows the same formula holds: with
//! the contribution h of a row to θ, (V₁₀ − θ) / √(m (m − 1)) of a positive and (V₀₁ − θ) / √(n (n − 1)) of a negative
//! one, the covariance is Σ h h′ over all rows (Hájek's projection of both U-statistics; Obuchowski, Biometrics 1997,
//! sums in the same way over clusters with rows of both kinds). So the contribution of a row to the macro average is
//! the mean of its contributions to the classes' AUCs, and the variance is the sum of its squares. Of two classes with
//! complementary scores that is DeLong's variance, with its n − 1, up to rounding.

use super::of_class;

/// How much each row contributes to an AUC: the structural components, whose mean over any group of rows is the AUC.
#[derive(Debug, Clone, PartialEq)]
pub struct Components {
    /// By group and row. Of two classes the groups are class 1 (of each row the share of rows of class 0 that it ranks
    /// above, ties counted half) and class 0 (the share of rows of class 1 that rank above it). Of a macro average all
    /// rows are one group, and a component is the AUC plus √(n (n − 1)) times the row's contribution.
    groups: Vec<Vec<f64>>,
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
        Some(Self { groups: vec![mean(own, mirrored_own), mean(other, mirrored_other)] })
    }

    /// The components of the macro-averaged AUC of any number of classes, each against the rest: `truth` and `scores`
    /// by row and class.
    ///
    /// Classes without an AUC (no row, or every row) are left out. `None` if that leaves no class, for a class with one
    /// row or with all rows but one (no variance), or for a score that is not a number.
    pub fn one_vs_rest(classes: usize, truth: &[bool], scores: &[f32]) -> Option<Self> {
        if scores.iter().any(|score| score.is_nan()) {
            return None;
        }
        let rows = truth.len().checked_div(classes)?;
        let (mut aucs, mut contributions) = (Vec::new(), vec![0.0; rows]);
        for class in 0..classes {
            let (truth, scores) = (of_class(truth, classes, class), of_class(scores, classes, class));
            let (high, low): (Vec<usize>, Vec<usize>) = (0..rows).partition(|&row| truth[row]);
            if high.is_empty() || low.is_empty() {
                continue;
            }
            let pick = |rows: &[usize]| rows.iter().map(|&row| scores[row]).collect::<Vec<f32>>();
            let (of_high, of_low) = column(&pick(&high), &pick(&low))?;
            let auc = mean(&of_high);
            for (rows, components) in [(high, of_high), (low, of_low)] {
                let scale = contribution_scale(rows.len());
                for (row, component) in rows.into_iter().zip(components) {
                    contributions[row] += (component - auc) / scale;
                }
            }
            aucs.push(auc);
        }
        if aucs.is_empty() {
            return None;
        }
        let (auc, scale) = (mean(&aucs), contribution_scale(rows) / aucs.len() as f64);
        Some(Self { groups: vec![contributions.into_iter().map(|sum| auc + sum * scale).collect()] })
    }

    /// The components of the mean AUC of several models on the same rows; `None` for none, or for other rows.
    pub fn mean(of: &[Self]) -> Option<Self> {
        let first = of.first()?;
        let average = |group: usize| -> Vec<f64> {
            let sum = |row: usize| of.iter().map(|components| components.groups[group][row]).sum::<f64>();
            (0..first.groups[group].len()).map(|row| sum(row) / of.len() as f64).collect()
        };
        of.iter()
            .all(|other| other.has_rows_of(first))
            .then(|| Self { groups: (0..first.groups.len()).map(average).collect() })
    }

    fn has_rows_of(&self, other: &Self) -> bool {
        self.groups.iter().map(Vec::len).eq(other.groups.iter().map(Vec::len))
    }

    /// The AUC.
    pub fn auc(&self) -> f64 {
        mean(&self.groups[0])
    }

    /// Its variance.
    pub fn variance(&self) -> f64 {
        self.groups.iter().map(|values| variance(values) / values.len() as f64).sum()
    }

    /// Compares the AUCs of two models on the same rows; `None` when the rows cannot be the same.
    pub fn compare(&self, other: &Self) -> Option<Comparison> {
        if !self.has_rows_of(other) {
            return None;
        }
        let minus = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a - b).collect();
        let between = Self { groups: self.groups.iter().zip(&other.groups).map(minus).collect() };
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

/// √(n (n − 1)) of n rows.
fn contribution_scale(rows: usize) -> f64 {
    (rows as f64 * (rows as f64 - 1.0)).sqrt()
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
