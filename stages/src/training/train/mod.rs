//! Trains a model on memes in one of the paper's modes: FC (classifier only), PE (classifier and adapters)
//! or Full-FT. [`Trainer`] shows the loop; the order of its steps is the original's (MMF).
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

use std::path::Path;

use stage_api::{Job, Port, Scalars, Stage, StageError};

use self::best_checkpoint::BestCheckpoint;
use self::checkpoint::State;
pub(crate) use self::settings::TrainParams;
use self::trainer::Trainer;
use crate::artifacts::history::{History, ParameterCounts, RunInfo, ValPoint};
use crate::artifacts::samples::Split;
use crate::artifacts::weights;
use crate::host::device;
use crate::models::{self, Config, ModelOverrides};
use crate::nn::gpu::Upload;
use crate::nn::{AdamW, Dropout, ParamStore, decays, tune_allocator};
use crate::training::dataset::{MemeDataset, REGIONS, TOKENS};
use crate::training::inference::{Rows, Scores};
use crate::training::prefetch::prefetch;
use crate::training::sampler::BatchSampler;
use crate::training::schedule::LinearSchedule;

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
    const HISTORY: Option<&'static str> = Some(History::FILE);

    fn check(&self, settings: &TrainParams) -> Result<(), String> {
        settings.check()
    }

    fn read_scalars(&self, history: &Path) -> Result<Vec<Scalars>, StageError> {
        Ok(History::read(history)?.scalars())
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
        config.change(&ModelOverrides { head: Some(memes.head()), ..settings.changes() });
        memes.check_fits(&*config)?;
        let (train_rows, val_rows) = (memes.rows_of(Split::Train)?, memes.rows_of(Split::Val)?);
        memes.labels(&train_rows)?;
        let val_labels = memes.labels(&val_rows)?;
        if !memes.tokens.info.classes.has_roc_auc(&val_labels) {
            let problem = format!("all rows of the split `val` have label {}: no ROC-AUC", val_labels[0]);
            return Err(StageError::input(TOKENS, job.inputs.one(TOKENS)?, problem));
        }

        let setup_failed = |error| device::failed("setting up the model", &error);
        // Model: the pretrained base, a fresh classifier and, for PE, fresh adapters; or what a run has of these.
        let mode = settings.mode;
        let found = weights::read_tensors(weights_dir).map_err(|error| from_weights(&error.problem))?;
        let found = device::upload(found, &device)?;
        let tensors =
            models::init_from_pretrained(&found, &*config, mode, settings.start, settings.seed, &device)
                .map_err(|error| from_weights(&error))?;
        let params = ParamStore::new(tensors, |name| mode.trains(name)).map_err(setup_failed)?;
        // Validations run on the same tensors, in full precision and without a graph.
        let validated = config.build(&params.frozen()).map_err(|error| from_weights(&error))?;
        let params = params.with_precision(settings.precision.into()).map_err(setup_failed)?;
        let model = config.build(&params).map_err(|error| from_weights(&error))?;

        // Optimizer.
        let optimizer = AdamW::new(&params, settings.adamw(), decays).map_err(setup_failed)?;
        let schedule =
            LinearSchedule { peak: settings.lr, warm_up: settings.warm_up, updates: settings.updates };
        let dropout = Dropout::new(config.dimensions().dropout, settings.seed).map_err(setup_failed)?;
        let (state, best) = (State::default(), BestCheckpoint::default());
        let mut trainer = Trainer {
            settings,
            params,
            model,
            optimizer,
            dropout,
            schedule,
            state,
            best,
            device: device.clone(),
        };

        // Loop, from where an earlier attempt of this very run was killed.
        trainer.resume(job);
        let begin = trainer.state.update;
        let mut sampler =
            BatchSampler::new(&train_rows, settings.batch, settings.order, settings.seed).after(begin);
        let micro_batch = settings.micro_batch.unwrap_or(settings.batch);
        let upload = Upload::new(&device).map_err(setup_failed)?;
        let batches = (begin..settings.updates).map(|_| {
            let batch = memes.train_batch(sampler.next_batch(), micro_batch)?;
            batch.stage(&upload).map_err(|error| device::failed("copying a batch to the device", &error))
        });
        let validate = |update: u64| {
            let rows = Rows { memes: &memes, rows: &val_rows, batch: settings.evaluation_batch };
            let found = Scores::compute(&*validated, memes.head(), &device, rows, job)?.summary(&val_labels);
            let problem = || StageError::failed(format!("the logits after update {update} are not numbers"));
            let roc_auc = found.roc_auc.ok_or_else(problem)?;
            Ok(ValPoint { update, loss: found.loss, roc_auc, accuracy: found.accuracy, f1: found.f1 })
        };
        prefetch(batches, |batches| trainer.train(batches, validate, job))?;

        // Output: the best checkpoint with its history.
        let counts = config.counts(mode).map_err(StageError::failed)?;
        let Trainer { state, best, params, .. } = trainer;
        let (best, tensors) =
            best.finish(&params).ok_or_else(|| StageError::failed("no validation took place".to_owned()))?;
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
