//! The losses: of one label a row, and of several.

use candle_core::{DType, Error, Result, Tensor};

use super::Param;
use super::backend::Backend;
use super::composed::Composed;
use super::compute::Compute;
use super::op::{Forward, Locked, Op};

/// Softmax cross-entropy of `logits` `[N, C]` and `labels` u32 `[N]`, added up over the rows and divided by `total`: a scalar.
/// With `total` = N it is the mean; over the micro-batches of a batch of `total` rows it adds up to the batch's mean.
///
/// # Errors
/// Shapes that do not fit; on the CPU a label that is not a column of `logits`.
pub fn cross_entropy(compute: &Compute, logits: &Tensor, labels: &Tensor, total: usize) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if rows == 0 || labels.dims() != [rows] {
        return Err(Error::msg(format!("a loss of {rows} rows of logits and labels {:?}", labels.dims())));
    }
    let labels = labels.to_dtype(DType::U32)?.contiguous()?;
    compute.apply(CrossEntropyOp { labels, classes, total }, &[logits], &[])
}

/// Binary cross-entropy of sigmoid(`logits`) [N, C] and `targets` [N, C] from 0 to 1, each class by itself: the mean over the classes,
/// added up over the rows and divided by `total`: a scalar. With `total` = N it is PyTorch's `BCEWithLogitsLoss()`; over the
/// micro-batches of a batch of `total` rows it adds up to the batch's mean. `targets` get no gradient.
///
/// # Errors
/// Shapes that do not fit.
pub fn binary_cross_entropy(
    compute: &Compute,
    logits: &Tensor,
    targets: &Tensor,
    total: usize,
) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if rows == 0 || classes == 0 || targets.dims() != logits.dims() {
        let (logits, targets) = (logits.dims(), targets.dims());
        return Err(Error::msg(format!("a loss of logits {logits:?} and targets {targets:?}")));
    }
    let targets = targets.detach().to_dtype(DType::F32)?.contiguous()?;
    compute.apply(BinaryCrossEntropyOp { targets, classes, total }, &[logits], &[])
}

struct CrossEntropyOp {
    labels: Tensor,
    classes: usize,
    total: usize,
}

impl Op for CrossEntropyOp {
    /// The gradient of the loss.
    type Saved<B: Backend> = Option<B::Buffer>;

    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Self::Saved<B>> {
        let (loss, grad) =
            on.cross_entropy(inputs[0], &self.labels, self.classes, self.total, keep.is_some())?;
        Ok((loss, keep.map(|_| grad)))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        saved: Self::Saved<B>,
        grad: B::View<'_>,
        _: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        scaled(on, saved, grad)
    }

    fn composed(&self, _: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let log = candle_nn::ops::log_softmax(&inputs[0], 1)?;
        let picked = log.gather(&self.labels.unsqueeze(1)?, 1)?;
        (picked.sum_all()? * (-1.0 / self.total as f64))?.reshape(())
    }
}

struct BinaryCrossEntropyOp {
    targets: Tensor,
    classes: usize,
    total: usize,
}

impl Op for BinaryCrossEntropyOp {
    /// The gradient of the loss.
    type Saved<B: Backend> = Option<B::Buffer>;

    fn params(&self) -> Vec<&Param> {
        Vec::new()
    }

    fn forward<B: Backend>(
        &self,
        on: &B,
        inputs: &[B::View<'_>],
        keep: Option<&[bool]>,
    ) -> Forward<B, Self::Saved<B>> {
        let targets = Locked::new(&self.targets)?;
        let (loss, grad) =
            on.binary_cross_entropy(inputs[0], targets.view(on)?, self.classes, self.total, keep.is_some())?;
        Ok((loss, keep.map(|_| grad)))
    }

    fn backward<B: Backend>(
        &self,
        on: &B,
        _: &[B::View<'_>],
        saved: Self::Saved<B>,
        grad: B::View<'_>,
        _: &[bool],
    ) -> Result<Vec<Option<B::Buffer>>> {
        scaled(on, saved, grad)
    }

    /// The two classes of logits x and 0 have the probabilities sigmoid(x) and 1 − sigmoid(x). Unlike max(x, 0) and |x|, their
    /// softmax has candle's gradient at 0 too.
    fn composed(&self, _: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let logits = Tensor::stack(&[&inputs[0], &inputs[0].zeros_like()?], 2)?;
        let targets = Tensor::stack(&[&self.targets, &self.targets.affine(-1.0, 1.0)?], 2)?;
        let log = (candle_nn::ops::log_softmax(&logits, 2)? * targets)?;
        (log.sum_all()? * (-1.0 / (self.classes as f64 * self.total as f64)))?.reshape(())
    }
}

/// The gradient of a loss's logits, given that of the loss.
fn scaled<B: Backend>(
    on: &B,
    gradient: Option<B::Buffer>,
    grad: B::View<'_>,
) -> Result<Vec<Option<B::Buffer>>> {
    let Some(mut gradient) = gradient else { return Ok(vec![None]) };
    on.scale_by(&mut gradient, grad)?;
    Ok(vec![Some(gradient)])
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nn::Precision;

    fn cpu() -> Compute {
        Compute::for_device(&Device::Cpu, Precision::F32).unwrap()
    }

    #[test]
    fn follows_its_definition() {
        let values: Vec<f32> = (0..35).map(|i| (i * 37 % 23) as f32 / 3.0 - 4.0).collect();
        let labels = [0u32, 6, 3, 3, 1];
        for total in [5, 8] {
            let logits = Var::from_slice(&values, (5, 7), &Device::Cpu).unwrap();
            let labels_tensor = Tensor::new(&labels, &Device::Cpu).unwrap();
            let loss = cross_entropy(&cpu(), &logits, &labels_tensor, total).unwrap();
            let found = loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
            let mut expected = 0.0;
            for ((row, &label), found) in values.chunks(7).zip(&labels).zip(found) {
                let sum: f64 = row.iter().map(|&x| libm::exp(f64::from(x))).sum();
                expected += (libm::log(sum) - f64::from(row[label as usize])) / total as f64;
                for (class, (&x, found)) in row.iter().zip(found).enumerate() {
                    let target = f64::from(u8::from(class == label as usize));
                    let gradient = (libm::exp(f64::from(x)) / sum - target) / total as f64;
                    assert!((f64::from(found) - gradient).abs() < 1e-7, "{found} {gradient}");
                }
            }
            let found = f64::from(loss.to_scalar::<f32>().unwrap());
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn refuses_labels_that_do_not_fit_and_shows_what_is_no_number() {
        let logits = Tensor::new(&[[0f32, 1.0], [2.0, f32::NAN]], &Device::Cpu).unwrap();
        let labels = |labels: &[u32]| Tensor::new(labels, &Device::Cpu).unwrap();
        let error = cross_entropy(&cpu(), &logits, &labels(&[0, 2]), 2).unwrap_err().to_string();
        assert!(error.contains("label 2 where there are 2 classes"), "{error}");
        assert!(cross_entropy(&cpu(), &logits, &labels(&[0]), 2).is_err());
        let loss = cross_entropy(&cpu(), &logits, &labels(&[0, 1]), 2).unwrap().to_scalar::<f32>().unwrap();
        assert!(loss.is_nan());
    }

    /// The loss and the gradient of `rows` rows of logits.
    fn binary(logits: &[f32], targets: &[f32], rows: usize, total: usize) -> (f64, Vec<f32>) {
        let shape = (rows, logits.len() / rows);
        let logits = Var::from_slice(logits, shape, &Device::Cpu).unwrap();
        let targets = Tensor::from_slice(targets, shape, &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(&cpu(), &logits, &targets, total).unwrap();
        let grad = loss.backward().unwrap().get(&logits).unwrap().flatten_all().unwrap();
        (loss.to_scalar::<f32>().unwrap().into(), grad.to_vec1().unwrap())
    }

    #[test]
    fn the_binary_one_follows_its_definition() {
        let logits: Vec<f32> = (0..35).map(|i| (i * 37 % 23) as f32 / 3.0 - 4.0).collect();
        let targets: Vec<f32> = (0..35).map(|i| (i * i % 5 % 2) as f32).collect();
        for (rows, total) in [(5, 5), (5, 8), (35, 35), (1, 3)] {
            let count = (35 / rows * total) as f64;
            let (loss, grad) = binary(&logits, &targets, rows, total);
            let mut expected = 0.0;
            for ((&x, &y), &found) in logits.iter().zip(&targets).zip(&grad) {
                let probability = 1.0 / (1.0 + libm::exp(-f64::from(x)));
                expected -= libm::log(if y == 1.0 { probability } else { 1.0 - probability }) / count;
                let gradient = (probability - f64::from(y)) / count;
                assert!((f64::from(found) - gradient).abs() < 1e-8, "{found} {gradient}");
            }
            assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
        }
    }

    #[test]
    fn the_binary_one_is_pytorch_s_mean_and_micro_batches_add_up_to_it() {
        let (logits, targets) = ([0.0, 2.0, -1.0, 30.0], [1.0, 0.0, 1.0, 1.0]);
        // (ln 2 + ln(1 + e²) + ln(1 + e) + ln(1 + e⁻³⁰)) / 4
        let expected = 1.033_334_219_78;
        let (loss, grad) = binary(&logits, &targets, 2, 2);
        assert!((loss - expected).abs() < 1e-7, "{loss}");
        let (first, first_grad) = binary(&logits[..2], &targets[..2], 1, 2);
        let (second, second_grad) = binary(&logits[2..], &targets[2..], 1, 2);
        assert!((first + second - expected).abs() < 1e-7, "{first} {second}");
        assert_eq!([first_grad, second_grad].concat(), grad);
    }

    #[test]
    fn the_binary_one_is_finite_for_large_logits_and_shows_what_is_no_number() {
        let logits = [1000.0, -1000.0, 1000.0, -1000.0, 0.0];
        let targets = [1.0, 0.0, 0.0, 1.0, 1.0];
        let (loss, grad) = binary(&logits, &targets, 1, 1);
        assert!((loss - (2000.0 + std::f64::consts::LN_2) / 5.0).abs() < 1e-4, "{loss}");
        assert_eq!(grad, [0.0, 0.0, 0.2, -0.2, -0.1]);
        for (logits, targets) in [([f32::NAN, 0.0], [0.0, 1.0]), ([0.0, 0.0], [1.0, f32::NAN])] {
            let (loss, grad) = binary(&logits, &targets, 2, 2);
            let place = usize::from(!logits[0].is_nan());
            assert!(loss.is_nan() && grad[place].is_nan() && !grad[1 - place].is_nan(), "{loss} {grad:?}");
        }
    }

    #[test]
    fn the_binary_one_refuses_targets_that_do_not_fit() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        for (logits, targets) in [
            (&[2, 3][..], &[2, 2][..]),
            (&[2, 3], &[3, 2]),
            (&[2, 3], &[6]),
            (&[2, 1], &[2]),
            (&[0, 3], &[0, 3]),
            (&[2, 0], &[2, 0]),
            (&[6], &[6]),
        ] {
            let found = binary_cross_entropy(&cpu(), &zeros(logits), &zeros(targets), 2);
            assert!(found.is_err(), "{logits:?} {targets:?}");
        }
        let targets = Tensor::new(&[[1u8, 0]], &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(&cpu(), &zeros(&[1, 2]), &targets, 1).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), std::f32::consts::LN_2);
    }
}
