//! What a row's logits mean: probabilities, the predicted class, and the loss against the truth. For two classes, for
//! any number of which a row has one (single-label), and for any number of which it has any (multi-label).
//! It knows one row at a time.

/// P(class 0) and P(class 1) of a pair of logits, in float32 as the original: values near 1 collapse, values
/// near 0 do not, and [`super::roc_auc`] must see the ties that this makes.
pub fn softmax([a, b]: [f32; 2]) -> [f32; 2] {
    let max = a.max(b);
    let (a, b) = (libm::expf(a - max), libm::expf(b - max));
    [a / (a + b), b / (a + b)]
}

/// The probability of each class of a single-label row, in float32. Of two classes it has the bits of [`softmax`].
pub fn softmax_of(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| libm::expf(logit - max)).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

/// The probability of a class of a multi-label row, in float32.
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-logit))
}

/// The class with the greater value; class 0 on a tie, as an argmax that returns the first maximum.
pub fn argmax([a, b]: [f32; 2]) -> u8 {
    u8::from(b > a)
}

/// The class with the greatest value, the first of several; 0 without classes.
pub fn argmax_of(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, class| if values[class] > values[best] { class } else { best })
}

/// Cross-entropy of a single-label row's logits against its class, in nats.
///
/// # Panics
/// For a label that is not below the number of logits.
pub fn cross_entropy(logits: &[f32], label: u8) -> f64 {
    let (greatest, own) = (argmax_of(logits), f64::from(logits[usize::from(label)]));
    let max = f64::from(logits[greatest]);
    // ln Σ eˣ = max + ln(1 + Σ e^(x − max)) with the sum over the others: nothing overflows, and small terms count.
    let others = logits.iter().enumerate().filter(|(class, _)| *class != greatest);
    let sum: f64 = others.map(|(_, &logit)| libm::exp(f64::from(logit) - max)).sum();
    max - own + libm::log1p(sum)
}

/// Mean over the classes of the binary cross-entropies of a multi-label row's logits against its `truth`, in nats
/// (PyTorch's `binary_cross_entropy_with_logits`); 0 without classes.
pub fn binary_cross_entropy(logits: &[f32], truth: &[bool]) -> f64 {
    let loss = |(&logit, &is): (&f32, &bool)| softplus(f64::from(if is { -logit } else { logit }));
    logits.iter().zip(truth).map(loss).sum::<f64>() / logits.len().max(1) as f64
}

/// Cross-entropy of a row whose true class has this probability, in nats. The probability is kept away from 0 and 1 by float32's
/// ε, as scikit-learn's `log_loss` does with such arrays.
pub fn log_loss(probability: f32) -> f64 {
    -libm::log(f64::from(probability.clamp(f32::EPSILON, 1.0 - f32::EPSILON)))
}

/// ln(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn cross_entropy_is_finite_where_the_softmax_saturates() {
        assert!((cross_entropy(&[0.0, 0.0], 1) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(cross_entropy(&[0.0, 1000.0], 0), 1000.0);
        assert_eq!(cross_entropy(&[0.0, 1000.0], 1), 0.0);
        assert!((cross_entropy(&[1.0, 3.0], 0) - 2.126_928_011_042_972_5).abs() < 1e-12);
    }

    #[test]
    fn of_two_classes_every_function_has_the_bits_of_the_pair() {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        for case in 0..20_000 {
            let reach = [1.0f32, 12.0, 90.0, 1e30][case % 4];
            let mut logit = || (random.random::<f32>() - 0.5) * reach;
            let mut pair = [logit(), logit()];
            if case % 9 == 0 {
                pair[1] = pair[0];
            }
            assert_eq!(softmax_of(&pair), softmax(pair), "{pair:?}");
            assert_eq!(argmax_of(&pair), usize::from(argmax(pair)), "{pair:?}");
            for label in [0, 1] {
                // ln(1 + e^(other − own)), as results of two classes have it.
                let [own, other] = [label, 1 - label].map(|class| f64::from(pair[usize::from(class)]));
                let (found, expected) = (cross_entropy(&pair, label), softplus(other - own));
                assert_eq!(found.to_bits(), expected.to_bits(), "{pair:?}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn several_classes_have_the_values_of_pytorch() {
        // torch.softmax(torch.tensor([1., 2., 3.]), 0), cross_entropy of the same for class 0, in float64.
        let expected = [0.090_030_573_170_380_46, 0.244_728_471_054_797_64, 0.665_240_955_774_821_9];
        for (found, expected) in softmax_of(&[1.0, 2.0, 3.0]).into_iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-7);
        }
        assert!((cross_entropy(&[1.0, 2.0, 3.0], 0) - 2.407_605_964_444_38).abs() < 1e-14);
        assert_eq!(cross_entropy(&[0.0, 1000.0, -1000.0], 2), 2000.0);
        assert_eq!(softmax_of(&[0.0, 1000.0, -1000.0]), [0.0, 1.0, 0.0]);
        // A certain row has a small loss, not none: 2e⁻⁴⁰.
        assert!((cross_entropy(&[40.0, 0.0, 0.0], 0) / (2.0 * libm::exp(-40.0)) - 1.0).abs() < 1e-12);
        assert_eq!(argmax_of(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!([sigmoid(0.0), sigmoid(200.0), sigmoid(-200.0)], [0.5, 1.0, 0.0]);
        // (softplus(−1) + softplus(2) + 1000) / 3.
        let loss = binary_cross_entropy(&[1.0, 2.0, -1000.0], &[true, false, true]);
        assert!((loss - (0.313_261_687_518_222_8 + 2.126_928_011_042_972_5 + 1000.0) / 3.0).abs() < 1e-12);
    }
}
