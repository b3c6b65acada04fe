//! The training loop and its update: forward, loss, backward, step. It does not know where batches and validation scores come
//! from.

use std::time::Instant;

use candle_core::{Device, Error, Result, Tensor};
use stage_api::{Job, StageError, Unit};

use super::TrainParams;
use super::best_checkpoint::BestCheckpoint;
use super::checkpoint::{self, Saved, State};
use crate::artifacts::history::{TrainPoint, ValPoint};
use crate::artifacts::scalars;
use crate::host::device;
use crate::host::device_fault::DeviceFault;
use crate::models::Model;
use crate::nn::{AdamW, Dropout, ParamStore, binary_cross_entropy, cross_entropy};
use crate::training::dataset::{MicroBatch, StagedBatch, TrainBatch};
use crate::training::schedule::{LinearSchedule, is_due};

/// A model in training, and how far it is.
pub(super) struct Trainer<'a> {
    pub settings: &'a TrainParams,
    pub params: ParamStore,
    pub model: Box<dyn Model>,
    pub optimizer: AdamW,
    pub dropout: Dropout,
    pub schedule: LinearSchedule,
    pub state: State,
    pub best: BestCheckpoint,
    /// Where it computes.
    pub device: Device,
}

impl Trainer<'_> {
    /// Learns from `batches`, one update each, until they end or no validation was better for as long as the settings allow.
    /// `validate` scores the model; a checkpoint follows each validation.
    ///
    /// # Errors
    /// A request to stop; a batch that cannot be read; a device that fails; a loss or logits that are not numbers.
    pub(super) fn train(
        &mut self,
        batches: impl Iterator<Item = std::result::Result<StagedBatch, StageError>>,
        validate: impl Fn(u64) -> std::result::Result<ValPoint, StageError>,
        job: &Job,
    ) -> std::result::Result<(), StageError> {
        let settings = self.settings;
        let mut watch = Stopwatch::start(self.state.update);
        for batch in batches {
            if settings.is_patience_over(self.best.updates_since_best(&self.state.val)) {
                break;
            }
            job.check_cancelled()?;
            let (update, batch) = (self.state.update + 1, batch?);
            let micro_batch_size = self.state.micro_batch_size;
            let batch = batch.arrive().and_then(|batch| Ok((self.update(update, &batch)?, batch.rows)));
            let (loss, rows) =
                batch.map_err(|error| device::failed(format_args!("update {update}"), &error))?;
            if self.state.micro_batch_size < micro_batch_size {
                self.warn_of_memory(update, job);
            }
            if !loss.is_finite() {
                let problem = format!("the loss of update {update} is {loss}; a lower lr may help");
                return Err(StageError::failed(problem));
            }
            self.state.update = update;
            job.progress.advance(update, settings.updates, Unit::Items);
            if is_due(update, settings.log_every, settings.updates) {
                self.log(update, loss, rows, watch.rate(update), job);
            }
            if is_due(update, settings.evaluate_every, settings.updates) {
                let point = validate(update)?;
                job.progress.scalar(scalars::ROC_AUC, update, point.roc_auc);
                self.best
                    .update(point, &self.params)
                    .map_err(|error| device::failed("keeping the best checkpoint", &error))?;
                self.state.val.push(point);
                self.keep(job)?;
                // The rate is of training alone.
                watch = Stopwatch::start(update);
            }
        }
        Ok(())
    }

    /// Update number `update` (from 1). Returns the batch's mean loss.
    ///
    /// # Errors
    /// A device that fails, or that cannot hold a single row; before the optimizer's step the model is as it was then.
    fn update(&mut self, update: u64, batch: &TrainBatch) -> Result<f64> {
        let losses = loop {
            match self.add_gradients(update, batch) {
                Ok(losses) => break losses,
                Err(error) => {
                    self.optimizer.forget_gradients();
                    self.use_smaller_micro_batches(batch, error)?;
                }
            }
        };
        self.optimizer.step(self.schedule.after(update - 1))?;
        // The only place where an update waits for the device.
        self.params.compute().sum(&losses)
    }

    /// Adds the gradients of the batch's mean loss, one micro-batch after the other. Returns what each adds to that loss.
    fn add_gradients(&self, update: u64, batch: &TrainBatch) -> Result<Vec<Tensor>> {
        let dropout = self.dropout.at(update);
        let mut losses = Vec::new();
        for MicroBatch { batch: x, labels, before } in batch.split(self.state.micro_batch_size)? {
            let dropout = dropout.micro_batch(before, labels.dims()[0]);
            let logits = self.model.logits(&x, Some(&dropout))?;
            // Labels of rows that may have several classes are a row each.
            let loss = match labels.rank() {
                1 => cross_entropy(self.params.compute(), &logits, &labels, batch.rows)?,
                _ => binary_cross_entropy(self.params.compute(), &logits, &labels, batch.rows)?,
            };
            loss.backward()?;
            losses.push(loss.detach());
        }
        Ok(losses)
    }

    /// Halves the rows that are computed together where the device's memory does not hold them: the result is the same up to
    /// rounding.
    ///
    /// # Errors
    /// `error` itself, if it is another fault or a single row has no room.
    fn use_smaller_micro_batches(&mut self, batch: &TrainBatch, error: Error) -> Result<()> {
        let largest = batch.largest_micro_batch().min(self.state.micro_batch_size);
        if largest < 2 || DeviceFault::from_error(&error) != Some(DeviceFault::OutOfMemory) {
            return Err(error);
        }
        self.state.micro_batch_size = largest.div_ceil(2);
        Ok(())
    }

    fn warn_of_memory(&self, update: u64, job: &Job) {
        let rows = self.state.micro_batch_size;
        job.progress.warn(&format!(
            "update {update}: the device's memory does not hold the batch; from here on {rows} rows at a time, slower and \
             with the same result"
        ));
        job.progress.scalar(scalars::ROWS_AT_ONCE, update, rows as f64);
    }

    /// Logs the sampled loss of a batch of `rows` rows.
    fn log(&mut self, update: u64, loss: f64, rows: usize, rate: f64, job: &Job) {
        self.state.meter.add(loss, rows);
        job.progress.scalar(scalars::BATCH_LOSS, update, loss);
        let (loss, loss_average) = (self.state.meter.median(), self.state.meter.average());
        let lr = self.schedule.after(update);
        self.state.train.push(TrainPoint { update, loss, loss_average, lr });
        job.progress.scalar(scalars::LOSS, update, loss);
        job.progress.scalar(scalars::LEARNING_RATE, update, lr);
        job.progress.scalar(scalars::RATE, update, rate);
    }

    /// Puts the trainer where an earlier attempt left off; at the beginning when there is none, or none of use.
    pub(super) fn resume(&mut self, job: &Job) {
        let restored = checkpoint::read(job.scratch).and_then(|saved| match saved {
            Some(saved) => self.restore(&saved).map(|()| Some(saved)),
            None => Ok(None),
        });
        match restored {
            Ok(None) => {}
            Ok(Some(saved)) => {
                job.progress.note(&format!("goes on after update {}", saved.state.update));
                (self.state, self.best) = (saved.state, saved.best);
            }
            Err(error) => job
                .progress
                .note(&format!("starts from the beginning: the checkpoint cannot be used: {error}")),
        }
    }

    /// Takes back what a checkpoint kept.
    ///
    /// # Errors
    /// A checkpoint that does not fit the model; the trainer is as it was then.
    fn restore(&mut self, saved: &Saved) -> Result<()> {
        for (name, param) in self.params.trained() {
            let moments = saved.moments.get(name);
            for tensor in [saved.trained.get(name), moments.map(|kept| &kept.m), moments.map(|kept| &kept.v)]
            {
                if tensor.is_none_or(|tensor| tensor.shape() != param.value().shape()) {
                    return Err(Error::msg(format!("it does not fit `{name}`")));
                }
            }
        }
        for (name, param) in self.params.trained() {
            param.set(&saved.trained[name].to_device(&self.device)?)?;
        }
        self.optimizer.restore(&saved.moments)
    }

    /// Keeps a checkpoint.
    fn keep(&mut self, job: &Job) -> std::result::Result<(), StageError> {
        let kept = self.optimizer.state().and_then(|moments| {
            checkpoint::write(job.scratch, std::mem::take(&mut self.state), &self.params, moments, &self.best)
        });
        self.state = kept.map_err(|error| device::failed("keeping the checkpoint", &error))?;
        Ok(())
    }
}

/// Counts updates in a second.
struct Stopwatch {
    start: Instant,
    update: u64,
}

impl Stopwatch {
    fn start(update: u64) -> Self {
        Self { start: Instant::now(), update }
    }

    /// Updates in a second since it was started; it starts again.
    fn rate(&mut self, update: u64) -> f64 {
        let rate = (update - self.update) as f64 / self.start.elapsed().as_secs_f64();
        *self = Self::start(update);
        rate
    }
}

#[cfg(test)]
#[path = "trainer_tests.rs"]
mod tests;
