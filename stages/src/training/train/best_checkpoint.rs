//! The best checkpoint: the weights of the first validation with the strictly greatest ROC-AUC, as the original
//! keeps them. It does not know how a validation is computed.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor};

use crate::artifacts::history::ValPoint;
use crate::nn::{Param, ParamStore};

/// The best validation so far, with copies of the trained tensors.
#[derive(Default)]
pub(super) struct BestCheckpoint(Option<(ValPoint, HashMap<String, Tensor>)>);

impl BestCheckpoint {
    /// Keeps the weights of `params` if `point` is better than what is kept.
    pub(super) fn update(&mut self, point: ValPoint, params: &ParamStore) -> Result<()> {
        if self.0.as_ref().is_none_or(|(best, _)| point.roc_auc > best.roc_auc) {
            // The optimizer changes variables in place, so their values have to be copied; and into host memory:
            // the device's is what a large model runs short of.
            let copy = |(name, param): (&str, &Param)| {
                Ok((name.to_owned(), param.value().detach().to_device(&Device::Cpu)?.copy()?))
            };
            self.0 = Some((point, params.trained().map(copy).collect::<Result<_>>()?));
        }
        Ok(())
    }

    /// The best validation so far and the trained tensors it was computed with.
    pub(super) fn kept(&self) -> (Option<ValPoint>, impl Iterator<Item = (&String, &Tensor)>) {
        let point = self.0.as_ref().map(|(point, _)| *point);
        (point, self.0.iter().flat_map(|(_, tensors)| tensors))
    }

    /// What [`BestCheckpoint::kept`] gave, taken back.
    pub(super) fn from_kept(point: Option<ValPoint>, tensors: HashMap<String, Tensor>) -> Self {
        Self(point.map(|point| (point, tensors)))
    }

    /// Updates from the best validation to the last one of `all`.
    pub(super) fn updates_since_best(&self, all: &[ValPoint]) -> u64 {
        let (Some((best, _)), Some(last)) = (&self.0, all.last()) else { return 0 };
        last.update.saturating_sub(best.update)
    }

    /// The best validation and the complete tensors it was computed with; `None` without any validation.
    pub(super) fn finish(self, params: &ParamStore) -> Option<(ValPoint, HashMap<String, Tensor>)> {
        let (point, trained) = self.0?;
        let mut tensors = params.tensors();
        tensors.extend(trained);
        Some((point, tensors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(aucs: &[f64]) -> (u64, f32) {
        let start = HashMap::from([("w".to_owned(), Tensor::new(&[0f32], &Device::Cpu).unwrap())]);
        let params = ParamStore::new(start, |_| true).unwrap();
        let mut best = BestCheckpoint::default();
        for (at, &roc_auc) in aucs.iter().enumerate() {
            let param = params.trained().next().unwrap().1;
            param.set(&Tensor::new(&[at as f32], &Device::Cpu).unwrap()).unwrap();
            let point = ValPoint { update: at as u64, loss: 0.0, roc_auc, accuracy: 0.0, f1: 0.0 };
            best.update(point, &params).unwrap();
        }
        let (point, tensors) = best.finish(&params).unwrap();
        (point.update, tensors["w"].to_vec1::<f32>().unwrap()[0])
    }

    #[test]
    fn the_first_of_equal_validations_is_kept_with_its_own_weights() {
        assert_eq!(offered(&[0.5, 0.7, 0.7, 0.6]), (1, 1.0));
        assert_eq!(offered(&[0.5, 0.4]), (0, 0.0));
        assert_eq!(offered(&[0.0]), (0, 0.0));
        assert_eq!(offered(&[0.1, 0.2, 0.3]), (2, 2.0));
    }
}
