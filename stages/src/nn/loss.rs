//! The loss.

use candle_core::{DType, Error, Result, Tensor};

use super::cpu::per_instruction_set;
use super::fused::math::{self, largest};
use super::fused::{self, Kernel};

/// Softmax cross-entropy, the mean over rows: `logits` `[N, C]`, `labels` u32 `[N]` → a scalar.
///
/// # Errors
/// Shapes that do not fit, or a label that is no column of `logits`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    if !logits.device().is_cpu() {
        return candle_nn::loss::cross_entropy(logits, labels);
    }
    let (rows, classes) = logits.dims2()?;
    let labels: Vec<u32> = labels.to_dtype(DType::U32)?.to_vec1()?;
    if rows == 0 || labels.len() != rows {
        return Err(Error::msg(format!("a loss of {rows} rows of logits and {} labels", labels.len())));
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(Error::msg(format!("label {label} where there are {classes} classes")));
    }
    fused::apply(CrossEntropy { labels, classes }, &[logits], &[])
}

struct CrossEntropy {
    labels: Vec<u32>,
    classes: usize,
}

impl Kernel for CrossEntropy {
    /// The probabilities.
    type Saved = Vec<f32>;

    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<f32>, Vec<f32>) {
        let mut probabilities = inputs[0].to_vec();
        let mut scales = vec![0f32; self.labels.len()];
        softmax(&mut probabilities, &mut scales, self.classes);
        let rows = inputs[0].chunks_exact(self.classes).zip(&self.labels).zip(&scales);
        // −ln p = ln Σ exp(x − max) − (x − max), added up in double precision.
        let total: f64 = rows
            .map(|((logits, &label), &total)| {
                let max = largest(logits);
                f64::from(libm::logf(total)) - f64::from(logits[label as usize] - max)
            })
            .sum();
        (vec![(total / self.labels.len() as f64) as f32], probabilities)
    }

    fn backward(
        &self,
        _: &[&[f32]],
        probabilities: &Vec<f32>,
        grad: &[f32],
        _: &[bool],
    ) -> Vec<Option<Vec<f32>>> {
        let share = grad[0] / self.labels.len() as f32;
        let mut gradient = probabilities.clone();
        for (row, &label) in gradient.chunks_exact_mut(self.classes).zip(&self.labels) {
            row[label as usize] -= 1.0;
            row.iter_mut().for_each(|value| *value *= share);
        }
        vec![Some(gradient)]
    }
}

per_instruction_set! {
    /// Rows of `columns` values ← their softmax; `sums` ← Σ exp(x − max) of each row.
    pub fn softmax(x: &mut [f32], sums: &mut [f32], columns: usize) {
        for (x, total) in x.chunks_exact_mut(columns).zip(sums) {
            *total = math::softmax(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn follows_its_definition() {
        let values: Vec<f32> = (0..35).map(|i| (i * 37 % 23) as f32 / 3.0 - 4.0).collect();
        let labels = [0u32, 6, 3, 3, 1];
        let logits = Var::from_slice(&values, (5, 7), &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &Tensor::new(&labels, &Device::Cpu).unwrap()).unwrap();
        let found = loss.backward().unwrap().get(&logits).unwrap().to_vec2::<f32>().unwrap();
        let mut expected = 0.0;
        for ((row, &label), found) in values.chunks(7).zip(&labels).zip(found) {
            let total: f64 = row.iter().map(|&x| libm::exp(f64::from(x))).sum();
            expected += (libm::log(total) - f64::from(row[label as usize])) / 5.0;
            for (class, (&x, found)) in row.iter().zip(found).enumerate() {
                let target = f64::from(u8::from(class == label as usize));
                let gradient = (libm::exp(f64::from(x)) / total - target) / 5.0;
                assert!((f64::from(found) - gradient).abs() < 1e-7, "{found} {gradient}");
            }
        }
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn refuses_labels_that_do_not_fit_and_shows_what_is_no_number() {
        let logits = Tensor::new(&[[0f32, 1.0], [2.0, f32::NAN]], &Device::Cpu).unwrap();
        let labels = |labels: &[u32]| Tensor::new(labels, &Device::Cpu).unwrap();
        let error = cross_entropy(&logits, &labels(&[0, 2])).unwrap_err().to_string();
        assert!(error.contains("label 2 where there are 2 classes"), "{error}");
        assert!(cross_entropy(&logits, &labels(&[0])).is_err());
        let loss = cross_entropy(&logits, &labels(&[0, 1])).unwrap().to_scalar::<f32>().unwrap();
        assert!(loss.is_nan());
    }
}
