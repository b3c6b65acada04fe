//! The loss.

use candle_core::{DType, Error, Result, Tensor};

use super::Param;
use super::backend::Backend;
use super::composed::Composed;
use super::compute::Compute;
use super::op::{Forward, Op};

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
        let Some(mut gradient) = saved else { return Ok(vec![None]) };
        on.scale_by(&mut gradient, grad)?;
        Ok(vec![Some(gradient)])
    }

    fn composed(&self, _: &Composed, inputs: &[Tensor]) -> Result<Tensor> {
        let log = candle_nn::ops::log_softmax(&inputs[0], 1)?;
        let picked = log.gather(&self.labels.unsqueeze(1)?, 1)?;
        (picked.sum_all()? * (-1.0 / self.total as f64))?.reshape(())
    }
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
}
