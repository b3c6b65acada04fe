//! Trains a model on memes in one of the paper's modes: FC (classifier only), PE (classifier and adapters)
//! or Full-FT. [`Train::run`] shows the loop; the order of its steps is the original's (MMF).
//!
//! ```text
//! <tree>/history.json          loss, learning rate and validation metrics by update; the best validation
//! <tree>/view.json             what of a meme the model was shown
//! <tree>/config.json           the model's dimensions
//! <tree>/weights.safetensors   all tensors of the best checkpoint
//! ```
//!
//! After every validation a checkpoint goes to the scratch folder; a run that was killed goes on from there and
//! ends with the same bytes.

mod best_checkpoint;
mod checkpoint;
mod settings;
mod trainer;

use std::time::Instant;

use stage_api::{Job, Port, Stage, StageError, Unit};

use self::best_checkpoint::BestCheckpoint;
use self::checkpoint::State;
pub(crate) use self::settings::TrainParams;
use self::trainer::Trainer;
use crate::artifacts::history::{History, ParameterCounts, RunInfo, TrainPoint, ValPoint};
use crate::artifacts::samples::Split;
use crate::artifacts::scalars;
use crate::artifacts::weights;
use crate::host::device;
use crate::models::{self, Config};
use crate::nn::{AdamW, Dropout, ParamStore, decays, tune_allocator};
use crate::training::dataset::{MemeDataset, REGIONS, TOKENS};
use crate::training::inference::{Rows, Scores};
use crate::training::prefetch::prefetch;
use crate::training::sampler::BatchSampler;
use crate::training::schedule::{LinearSchedule, is_due};

/// The port the pretrained weights come in by.
const WEIGHTS: &str = "weights";

/// The stage.
pub(crate) struct Train;

impl Stage for Train {
    type Params = TrainParams;
    const NAME: &'static str = "train";
    const ABOUT: &'static str = "Trains a model on memes: fc, pe or full";
    const VERSION: u32 = 6;
    const INPUTS: &'static [Port] = &[Port::one(TOKENS), Port::one(REGIONS), Port::one(WEIGHTS)];

    fn check(&self, settings: &TrainParams) -> Result<(), String> {
        settings.check()
    }

    fn run(&self, settings: &TrainParams, job: &Job) -> Result<(), StageError> {
        tune_allocator();
        let device = device::open(&job.host.device)?;

        // Data: everything that can be wrong with it is found before the first update.
        let memes = MemeDataset::open(job.inputs, settings.view())?;
        let weights_dir = job.inputs.one(WEIGHTS)?;
        let from_weights = |problem: &dyn std::fmt::Display| StageError::input(WEIGHTS, weights_dir, problem);
        let mut config: Config =
            weights::read_config(weights_dir).map_err(|error| from_weights(&error.problem))?;
        config.change(&settings.changes());
        memes.check_fits(&*config)?;
        let (train_rows, val_rows) = (memes.rows_of(Split::Train)?, memes.rows_of(Split::Val)?);
        memes.labels(&train_rows)?;
        let val_labels = memes.labels(&val_rows)?;
        if val_labels.iter().all(|label| *label == val_labels[0]) {
            let problem = format!("all rows of the split `val` have label {}: no ROC-AUC", val_labels[0]);
            return Err(StageError::input(TOKENS, job.inputs.one(TOKENS)?, problem));
        }

        // Model: the pretrained base, a fresh classifier and, for PE, fresh adapters; or what a run has of these.
        let mode = settings.mode;
        let found =
            weights::read_tensors(weights_dir, &device).map_err(|error| from_weights(&error.problem))?;
        let tensors =
            models::init_from_pretrained(&found, &*config, mode, settings.start, settings.seed, &device)
                .map_err(|error| from_weights(&error))?;
        let params = ParamStore::new(tensors, |name| mode.trains(name)).map_err(StageError::failed)?;
        // Validations run on the same tensors, in full precision and without a graph.
        let validated = config.build(&params.frozen()).map_err(|error| from_weights(&error))?;
        let kernels = settings.kernels(params.kernels());
        let params = params.with_kernels(kernels);
        let model = config.build(&params).map_err(|error| from_weights(&error))?;

        // Optimiser.
        let optimizer = AdamW::new(&params, settings.adamw(), decays).map_err(StageError::failed)?;
        let schedule =
            LinearSchedule { peak: settings.lr, warm_up: settings.warm_up, updates: settings.updates };
        let dropout = Dropout::new(config.dimensions().dropout, settings.seed).map_err(StageError::failed)?;
        let mut trainer = Trainer { params, model, optimizer, dropout, schedule, device };

        // Loop, from where an earlier attempt of this very run was killed.
        let (mut state, mut best) = resumed(&mut trainer, job);
        let mut sampler =
            BatchSampler::new(&train_rows, settings.batch, settings.order, settings.seed).after(state.update);
        let micro_batch = settings.micro_batch.unwrap_or(settings.batch);
        let batches = state.update..settings.updates;
        let batches = batches.map(|_| memes.train_batch(sampler.next_batch(), micro_batch));
        prefetch(batches, |batches| -> Result<(), StageError> {
            let (mut watch, mut watched) = (Instant::now(), state.update);
            for batch in batches {
                if settings.is_patience_over(best.updates_since_best(&state.val)) {
                    break;
                }
                job.check_cancelled()?;
                let (update, batch) = (state.update + 1, batch?);
                let micro_batch_size = state.micro_batch_size;
                let loss = trainer
                    .update(update, &batch, &mut state.micro_batch_size)
                    .map_err(|error| StageError::failed(format!("update {update}: {error}")))?;
                if state.micro_batch_size < micro_batch_size {
                    let rows = state.micro_batch_size;
                    job.progress.warn(&format!(
                        "update {update}: the device's memory does not hold the batch; from here on {rows} rows at a time, \
                         slower and with the same result"
                    ));
                    job.progress.scalar(scalars::ROWS_AT_ONCE, update, rows as f64);
                }
                if !loss.is_finite() {
                    let problem = format!("the loss of update {update} is {loss}; a lower lr may help");
                    return Err(StageError::failed(problem));
                }
                state.update = update;
                job.progress.advance(update, settings.updates, Unit::Items);
                if is_due(update, settings.log_every, settings.updates) {
                    state.meter.add(loss, batch.labels.len());
                    job.progress.scalar(scalars::BATCH_LOSS, update, loss);
                    let (loss, loss_average) = (state.meter.median(), state.meter.average());
                    let lr = schedule.after(update);
                    let rate = (update - watched) as f64 / watch.elapsed().as_secs_f64();
                    state.train.push(TrainPoint { update, loss, loss_average, lr });
                    job.progress.scalar(scalars::LOSS, update, loss);
                    job.progress.scalar("lr", update, lr);
                    job.progress.scalar(scalars::RATE, update, rate);
                    (watch, watched) = (Instant::now(), update);
                }
                if is_due(update, settings.evaluate_every, settings.updates) {
                    let rows = Rows { memes: &memes, rows: &val_rows, batch: settings.evaluation_batch };
                    let scores = Scores::compute(&*validated, &trainer.device, rows, job)?;
                    let found = scores.summary(&val_labels);
                    let Some(roc_auc) = found.roc_auc else {
                        return Err(StageError::failed(format!(
                            "the logits after update {update} are not numbers"
                        )));
                    };
                    let (loss, accuracy, f1) = (found.loss, found.accuracy, found.f1);
                    let point = ValPoint { update, loss, roc_auc, accuracy, f1 };
                    job.progress.scalar(scalars::ROC_AUC, update, roc_auc);
                    best.update(point, &trainer.params).map_err(StageError::failed)?;
                    state.val.push(point);
                    keep(&mut state, &trainer, &best, job)?;
                    // The rate is of training alone.
                    (watch, watched) = (Instant::now(), update);
                }
            }
            Ok(())
        })?;

        // Output: the best checkpoint with its history.
        let counts = config.counts(mode).map_err(StageError::failed)?;
        let (best, tensors) = best
            .finish(&trainer.params)
            .ok_or_else(|| StageError::failed("no validation took place".to_owned()))?;
        let run = RunInfo {
            dataset: memes.tokens.info.dataset.clone(),
            model: config.family().as_str().to_owned(),
            mode: mode.to_string(),
            seed: settings.seed,
            updates: state.update,
        };
        let parameters =
            ParameterCounts { total: counts.total, trained: counts.trained, adapters: counts.adapters };
        let rows = (train_rows.len() as u64, val_rows.len() as u64);
        let (train, val) = (state.train, state.val);
        History { run, parameters, rows, train, val, best }.write(job.out)?;
        settings.view().write(job.out)?;
        weights::write(job.out, &config, &tensors)?;
        Ok(())
    }
}

/// Puts the trainer where an earlier attempt left off; at the beginning when there is none, or none of use.
fn resumed(trainer: &mut Trainer, job: &Job) -> (State, BestCheckpoint) {
    let restored = checkpoint::read(job.scratch).and_then(|saved| match saved {
        Some(saved) => trainer.restore(&saved).map(|()| Some(saved)),
        None => Ok(None),
    });
    match restored {
        Ok(None) => {}
        Ok(Some(saved)) => {
            job.progress.note(&format!("goes on after update {}", saved.state.update));
            return (saved.state, saved.best);
        }
        Err(error) => {
            job.progress.note(&format!("starts from the beginning: the checkpoint cannot be used: {error}"))
        }
    }
    (State::default(), BestCheckpoint::default())
}

/// Keeps a checkpoint.
fn keep(state: &mut State, trainer: &Trainer, best: &BestCheckpoint, job: &Job) -> Result<(), StageError> {
    let moments = trainer.optimizer.state();
    let kept = moments.and_then(|moments| {
        checkpoint::write(job.scratch, std::mem::take(state), &trainer.params, moments, best)
    });
    *state = kept.map_err(|error| StageError::failed(format!("the checkpoint cannot be kept: {error}")))?;
    Ok(())
}
