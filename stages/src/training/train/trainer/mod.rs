//! One update of the model: forward, loss, backward, step, the batch whole or in micro-batches, which become smaller where the
//! device's memory does not hold them. It does not know where batches come from, nor what is done between updates.

use candle_core::backprop::GradStore;
use candle_core::{Device, Error, Result, Tensor};

use super::checkpoint::Saved;
use crate::host::device_fault::DeviceFault;
use crate::models::{Batch, Model};
use crate::nn::{AdamW, Dropout, DropoutAt, ParamStore, cross_entropy};
use crate::training::dataset::TrainBatch;
use crate::training::schedule::LinearSchedule;

/// A model in training.
pub(super) struct Trainer {
    pub params: ParamStore,
    pub model: Box<dyn Model>,
    pub optimizer: AdamW,
    pub dropout: Dropout,
    pub schedule: LinearSchedule,
    /// Where it computes.
    pub device: Device,
}

impl Trainer {
    /// Update number `update` (from 1). Returns the batch's mean loss.
    ///
    /// At most `micro_batch_size` rows are computed side by side. Where the device's memory does not hold so many, it is tried
    /// with half of them, and `micro_batch_size` says how many it were in the end: the result is the same up to rounding.
    ///
    /// # Errors
    /// A device that fails in another way, or that cannot hold a single row; the model is as it was then.
    pub(super) fn update(
        &mut self,
        update: u64,
        batch: &TrainBatch,
        micro_batch_size: &mut usize,
    ) -> Result<f64> {
        loop {
            match self.gradients_of(update, batch, *micro_batch_size) {
                Ok((loss, grads)) => {
                    if let Some(grads) = grads {
                        self.optimizer.step(&grads, self.schedule.after(update - 1))?;
                    }
                    return Ok(loss);
                }
                Err(error) => {
                    let largest = batch.largest_micro_batch().min(*micro_batch_size);
                    if largest < 2 || DeviceFault::from_error(&error) != Some(DeviceFault::OutOfMemory) {
                        return Err(error);
                    }
                    *micro_batch_size = largest.div_ceil(2);
                }
            }
        }
    }

    /// The mean loss of the whole batch and its gradients, of at most `micro_batch_size` rows at a time.
    fn gradients_of(
        &self,
        update: u64,
        TrainBatch { micro_batches, labels }: &TrainBatch,
        micro_batch_size: usize,
    ) -> Result<(f64, Option<GradStore>)> {
        let dropout = self.dropout.at(update);
        let (mut done, mut loss, mut sum) = (0, 0.0, None);
        for micro_batch in micro_batches
            .iter()
            .map(|micro_batch| micro_batch.split(micro_batch_size))
            .collect::<Result<Vec<_>>>()?
            .concat()
        {
            let micro_batch = micro_batch.to_device(&self.device)?;
            let rows = micro_batch.ids.dim(0)?;
            let weight = rows as f64 / labels.len() as f64;
            let labels = &labels[done..done + rows];
            let (mean, grads) =
                self.gradients(&micro_batch, labels, &dropout.micro_batch(done, rows), weight)?;
            loss += mean * weight;
            done += rows;
            sum = Some(match sum {
                None => grads,
                Some(sum) => self.added(sum, grads)?,
            });
        }
        Ok((loss, sum))
    }

    /// The mean loss of a micro-batch, and the gradients of `weight` times it.
    fn gradients(
        &self,
        micro_batch: &Batch,
        labels: &[u8],
        dropout: &DropoutAt,
        weight: f64,
    ) -> Result<(f64, GradStore)> {
        let labels: Vec<u32> = labels.iter().map(|&label| u32::from(label)).collect();
        let labels = Tensor::new(labels, micro_batch.ids.device())?;
        let loss = cross_entropy(&self.model.logits(micro_batch, Some(dropout))?, &labels)?;
        let mean = f64::from(loss.to_scalar::<f32>()?);
        // A batch of one micro-batch is computed as if there were no micro-batches.
        let grads = if weight < 1.0 { (loss * weight)?.backward()? } else { loss.backward()? };
        Ok((mean, grads))
    }

    fn added(&self, mut sum: GradStore, more: GradStore) -> Result<GradStore> {
        for (_, var) in self.params.trained() {
            if let Some(grad) = more.get(var) {
                let total = match sum.remove(var) {
                    Some(so_far) => (so_far + grad)?,
                    None => grad.clone(),
                };
                sum.insert(var, total);
            }
        }
        Ok(sum)
    }

    /// Takes back what a checkpoint kept.
    ///
    /// # Errors
    /// A checkpoint that does not fit the model; the trainer is as it was then.
    pub(super) fn restore(&mut self, saved: &Saved) -> Result<()> {
        for (name, var) in self.params.trained() {
            let moments = saved.moments.get(name);
            for tensor in [saved.trained.get(name), moments.map(|kept| &kept.m), moments.map(|kept| &kept.v)]
            {
                if tensor.is_none_or(|tensor| tensor.shape() != var.shape()) {
                    return Err(Error::msg(format!("it does not fit `{name}`")));
                }
            }
        }
        for (name, var) in self.params.trained() {
            var.set(&saved.trained[name].to_device(var.device())?)?;
        }
        self.optimizer.restore(&saved.moments)
    }
}

#[cfg(test)]
mod tests;
