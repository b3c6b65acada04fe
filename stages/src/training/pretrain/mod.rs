//! Pretrains a small model on pictures with captions that are true of them: a masked-language model that
//! may look at the regions. It replaces the paper's COCO checkpoint where that cannot be had, so that FC and
//! PE start from a base that knows something. What no text
//! is read off, such as the pooler, is not part of this task and keeps its fresh weights.
//!
//! ```text
//! <tree>/config.json             the model's dimensions
//! <tree>/weights.safetensors     the base under its checkpoint names, `model.bert.*`
//! <tree>/pretrain-history.json   loss and accuracy on masked words by update
//! ```

mod masking;
mod settings;

use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError, Unit};

use self::masking::{Masked, Masking};
use self::settings::PretrainParams;
use crate::artifacts::samples::Split;
use crate::artifacts::{weights, write_json};
use crate::host::device;
use crate::models::{self, Batch, MlmHead, Model, SmallConfig};
use crate::nn::{
    AdamW, Compute, Dropout, DropoutAt, Loader, ParamStore, cross_entropy, decays, rng, select_rows,
    tune_allocator,
};
use crate::training::dataset::{MemeDataset, REGIONS, TOKENS};
use crate::training::prefetch::prefetch;
use crate::training::sampler::{BatchSampler, Order};
use crate::training::schedule::{LinearSchedule, is_due};

/// The stage.
pub(crate) struct Pretrain;

/// Validation on masked words after an update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Point {
    /// Updates done.
    update: u64,
    /// Mean cross-entropy a masked word, in training since the last point.
    train_loss: f64,
    /// Mean cross-entropy a masked word, on the split `val`.
    val_loss: f64,
    /// Share of masked words guessed, on the split `val`.
    val_accuracy: f64,
}

impl Stage for Pretrain {
    type Params = PretrainParams;
    const NAME: &'static str = "pretrain";
    const ABOUT: &'static str = "Pretrains a small model on captioned pictures (masked words)";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::one(TOKENS), Port::one(REGIONS)];

    fn check(&self, settings: &PretrainParams) -> Result<(), String> {
        settings.check()
    }

    fn run(&self, settings: &PretrainParams, job: &Job) -> Result<(), StageError> {
        tune_allocator();
        let device = device::open(&job.host.device)?;

        // Data.
        let memes = MemeDataset::open(job.inputs, settings.view())?;
        let config = settings.model.small(&small(settings, &memes));
        config.check().map_err(StageError::failed)?;
        memes.check_fits(&*config)?;
        let (train_rows, val_rows) = (memes.rows_of(Split::Train)?, memes.rows_of(Split::Val)?);
        let (share, hidden, replaced) =
            (settings.mask_probability, settings.mask_hidden, settings.mask_replaced);
        let masking =
            Masking::new(&memes.tokens.info, share, hidden, replaced).map_err(StageError::failed)?;
        let corrupt = |rows: &[usize], purpose: &str| -> Vec<Masked> {
            let mut rng = rng::generator(settings.seed, purpose);
            rows.iter().map(|&row| masking.apply(&memes.text(row), &mut rng)).collect()
        };
        let task = |rows: &[usize], texts: Vec<Masked>| -> candle_core::Result<Task> {
            let ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.clone()).collect();
            Ok(Task { batch: memes.batch(rows, &ids)?, texts })
        };
        // The validation guesses the same words each time, so that its points can be compared.
        let val_texts = corrupt(&val_rows, "masks of validation");
        let val_tasks = || {
            let tasks = val_rows.chunks(settings.batch).zip(val_texts.chunks(settings.batch));
            tasks.map(|(rows, texts)| task(rows, texts.to_vec()))
        };

        // Model.
        let setup_failed = |error| device::failed("setting up the model", &error);
        let mut tensors = models::init_random(&*config, settings.seed, &device).map_err(setup_failed)?;
        let head = models::init_mlm_head(&*config, settings.seed, &device);
        tensors.extend(head.map_err(setup_failed)?);
        let params = ParamStore::new(tensors, |_| true).map_err(setup_failed)?;
        let model = config.build(&params).map_err(setup_failed)?;
        let head = MlmHead::load(&Loader::new(&params), &config.dimensions()).map_err(setup_failed)?;
        let compute = params.compute();
        let guesser = Guesser { model: &*model, head: &head, compute, device: &device };

        // Optimizer.
        let mut optimizer = AdamW::new(&params, settings.adamw(), decays).map_err(setup_failed)?;
        let schedule =
            LinearSchedule { peak: settings.lr, warm_up: settings.warm_up, updates: settings.updates };
        let dropout = Dropout::new(settings.dropout, settings.seed).map_err(setup_failed)?;

        // Loop.
        let mut sampler = BatchSampler::new(&train_rows, settings.batch, Order::Shuffled, settings.seed);
        let mut points = Vec::new();
        let (mut sum, mut words) = (0.0, 0.0);
        let (mut watch, mut watched) = (Instant::now(), 0);
        let tasks = (1..=settings.updates).map(|update| {
            let rows = sampler.next_batch();
            (update, task(rows, corrupt(rows, &format!("masks of update {update}"))))
        });
        prefetch(tasks, |tasks| -> Result<(), StageError> {
            for (update, task) in tasks {
                job.check_cancelled()?;
                let learn = |optimizer: &mut AdamW| -> candle_core::Result<Option<(f64, usize)>> {
                    let Some(guess) = guesser.guess(&task?, Some(&dropout.at(update)))? else {
                        return Ok(None);
                    };
                    let masked = guess.targets.dim(0)?;
                    let loss = cross_entropy(compute, &guess.logits, &guess.targets, masked)?;
                    loss.backward()?;
                    optimizer.step(schedule.after(update - 1))?;
                    Ok(Some((compute.sum(&[loss])?, masked)))
                };
                let learnt = learn(&mut optimizer)
                    .map_err(|error| device::failed(format_args!("update {update}"), &error))?;
                if let Some((loss, masked)) = learnt {
                    if !loss.is_finite() {
                        let problem = format!("the loss of update {update} is {loss}; a lower lr may help");
                        return Err(StageError::failed(problem));
                    }
                    sum += loss * masked as f64;
                    words += masked as f64;
                }
                job.progress.advance(update, settings.updates, Unit::Items);
                if is_due(update, settings.evaluate_every, settings.updates) {
                    let rate = (update - watched) as f64 / watch.elapsed().as_secs_f64();
                    let (val_loss, val_accuracy) = guesser.validate(val_tasks(), job)?;
                    let point =
                        Point { update, train_loss: sum / f64::max(words, 1.0), val_loss, val_accuracy };
                    job.progress.scalar("loss", update, point.train_loss);
                    job.progress.scalar("val loss", update, val_loss);
                    job.progress.scalar("val accuracy", update, val_accuracy);
                    job.progress.scalar("updates per second", update, rate);
                    points.push(point);
                    (sum, words) = (0.0, 0.0);
                    (watch, watched) = (Instant::now(), update);
                }
            }
            Ok(())
        })?;

        // Output: the base alone; what follows brings its own head.
        let mut tensors = params.tensors();
        tensors.retain(|name, _| name.starts_with("model.bert."));
        weights::write(job.out, &config, &tensors)?;
        write_json(&job.out.join("pretrain-history.json"), &points)?;
        Ok(())
    }
}

/// The model's dimensions: those asked for, and those the data decides.
fn small(settings: &PretrainParams, memes: &MemeDataset) -> SmallConfig {
    SmallConfig {
        words: memes.tokens.info.vocab_size,
        positions: settings.positions,
        features: memes.feature_width(),
        hidden: settings.hidden,
        layers: settings.layers,
        heads: settings.heads,
        intermediate: settings.intermediate,
        dropout: settings.dropout,
        initializer_range: settings.initializer_range,
    }
}

/// Words to guess.
struct Task {
    /// What the model sees.
    batch: Batch,
    /// The text of each row, with the words.
    texts: Vec<Masked>,
}

/// The model with its head, guessing masked words.
struct Guesser<'a> {
    model: &'a dyn Model,
    head: &'a MlmHead,
    compute: &'a Compute,
    device: &'a Device,
}

/// Guesses for all masked words of a batch, `n` in number.
struct Guess {
    /// Logits over the vocabulary, `[n, vocabulary]`.
    logits: Tensor,
    /// True ids, `[n]`.
    targets: Tensor,
}

impl Guesser<'_> {
    /// Guesses the words of a task. `None` when it has none.
    fn guess(&self, task: &Task, dropout: Option<&DropoutAt>) -> candle_core::Result<Option<Guess>> {
        let states = self.model.encode(&task.batch.to_device(self.device)?, dropout)?;
        let (_, length, _) = states.dims3()?;
        // The head is as wide as the vocabulary: it is run on the masked positions only.
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (at, text) in task.texts.iter().enumerate() {
            for &(position, id) in &text.targets {
                places.push((at * length + position) as u32);
                targets.push(id);
            }
        }
        if targets.is_empty() {
            return Ok(None);
        }
        let places = Tensor::new(places, states.device())?;
        let masked = select_rows(self.compute, &states.flatten(0, 1)?, &places)?;
        let targets = Tensor::new(targets, states.device())?;
        Ok(Some(Guess { logits: self.head.logits(&masked)?, targets }))
    }

    /// Mean loss and accuracy a masked word, without dropout.
    fn validate(
        &self,
        tasks: impl Iterator<Item = candle_core::Result<Task>> + Send,
        job: &Job,
    ) -> Result<(f64, f64), StageError> {
        let (mut loss, mut right, mut words) = (0.0, 0.0, 0.0);
        prefetch(tasks, |tasks| -> Result<(), StageError> {
            for task in tasks {
                job.check_cancelled()?;
                let score = || -> candle_core::Result<Option<(f64, f64, f64)>> {
                    let Some(Guess { logits, targets }) = self.guess(&task?, None)? else { return Ok(None) };
                    let words = targets.dim(0)? as f64;
                    let hits = logits.argmax(1)?.eq(&targets)?.to_vec1::<u8>()?;
                    let hits = hits.iter().map(|&hit| f64::from(hit)).sum::<f64>();
                    let loss = self.compute.sum(&[cross_entropy(
                        self.compute,
                        &logits,
                        &targets,
                        targets.dim(0)?,
                    )?])?;
                    Ok(Some((loss * words, hits, words)))
                };
                let scored = score().map_err(|error| device::failed("validation", &error))?;
                if let Some((batch_loss, batch_right, batch_words)) = scored {
                    loss += batch_loss;
                    right += batch_right;
                    words += batch_words;
                }
            }
            Ok(())
        })?;
        let words = f64::max(words, 1.0);
        Ok((loss / words, right / words))
    }
}
