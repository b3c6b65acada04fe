//! The params of `train`. Defaults are the paper's (MMF's resolved configuration of its six runs).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::ParamEnum;

use crate::artifacts::view::{Ablation, View};
use crate::models::{AdapterPlace, Mode, ModelOverrides, Start};
use crate::nn::{self, AdamWConfig};
use crate::training::sampler::Order;

/// How to train.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainParams {
    /// `"fc"`, `"pe"` or `"full"`.
    pub mode: Mode,
    /// Decides fresh weights, the order of rows, and dropout.
    #[serde(default)]
    pub seed: u64,
    /// What the weights are: `"base"`, a pretrained base that gets a fresh head and fresh adapters, or `"run"`, a
    /// finished run that is trained further with its own.
    #[serde(default)]
    pub start: Start,
    /// An adapter's bottleneck is the hidden size divided by this, rounded down; the weights' config decides when
    /// absent (10 in the paper).
    #[serde(default)]
    pub adapter_divisor: Option<usize>,
    /// Where in a layer adapters are: `"output"`, `"attention"` or `"both"`, in ViLBERT also `"co-attention"`; the
    /// weights' config decides when absent (`"output"` in the paper).
    #[serde(default)]
    pub adapter_place: Option<AdapterPlace>,
    /// What the factors of matrix products in training are rounded to: `"f32"`, not at all; `"tf32"` (10 bits of
    /// mantissa) or `"bf16"` (7 bits), faster on a GPU that has them. Trained tensors, the optimizer and every
    /// validation stay in f32.
    #[serde(default)]
    pub precision: Precision,
    /// Rows an update.
    #[serde(default = "defaults::batch")]
    pub batch: usize,
    /// Rows computed at once; the gradients of an update are added up over its micro-batches. All of `batch` when
    /// absent: fewer need less memory and give the same result up to rounding.
    #[serde(default)]
    pub micro_batch: Option<usize>,
    /// `"shuffled"` again in each epoch, or `"sequential"`.
    #[serde(default)]
    pub order: Order,
    /// Updates in all.
    #[serde(default = "defaults::updates")]
    pub updates: u64,
    /// Updates until the learning rate is at its peak.
    #[serde(default = "defaults::warm_up")]
    pub warm_up: u64,
    /// Peak of the learning rate.
    #[serde(default = "defaults::lr")]
    pub lr: f64,
    /// Decay of weights that are neither bias nor LayerNorm, a share of the learning rate.
    #[serde(default = "defaults::weight_decay")]
    pub weight_decay: f64,
    /// Decay of the moments' running means.
    #[serde(default = "defaults::betas")]
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    #[serde(default = "defaults::eps")]
    pub eps: f64,
    /// Dropout everywhere; the weights' own config decides when absent.
    #[serde(default)]
    pub dropout: Option<f64>,
    /// Updates between validations; one more follows the last update.
    #[serde(default = "defaults::evaluate_every")]
    pub evaluate_every: u64,
    /// Stops at a validation more than this many updates after the best one; never when absent.
    #[serde(default)]
    pub patience: Option<u64>,
    /// Updates between log lines, each of which samples one batch's loss.
    #[serde(default = "defaults::log_every")]
    pub log_every: u64,
    /// Most regions the model is shown.
    #[serde(default = "defaults::max_regions")]
    pub max_regions: usize,
    /// Longest text the model is shown, in tokens.
    #[serde(default = "defaults::max_text")]
    pub max_text: usize,
    /// `"none"`, `"text"` (captions emptied) or `"regions"` (features zeroed).
    #[serde(default)]
    pub ablation: Ablation,
    /// Rows a batch in validation.
    #[serde(default = "defaults::evaluation_batch")]
    pub evaluation_batch: usize,
}

/// What the factors of matrix products are rounded to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// TF32.
    Tf32,
    /// bfloat16.
    Bf16,
}

impl From<Precision> for nn::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Tf32 => Self::Tf32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

mod defaults {
    pub(super) fn batch() -> usize {
        16
    }
    pub(super) fn updates() -> u64 {
        22_000
    }
    pub(super) fn warm_up() -> u64 {
        2_000
    }
    pub(super) fn lr() -> f64 {
        5e-5
    }
    pub(super) fn weight_decay() -> f64 {
        0.01
    }
    pub(super) fn betas() -> (f64, f64) {
        (0.9, 0.999)
    }
    pub(super) fn eps() -> f64 {
        1e-8
    }
    pub(super) fn evaluate_every() -> u64 {
        1_000
    }
    pub(super) fn log_every() -> u64 {
        100
    }
    pub(super) fn max_regions() -> usize {
        100
    }
    pub(super) fn max_text() -> usize {
        128
    }
    pub(super) fn evaluation_batch() -> usize {
        16
    }
}

impl TrainParams {
    /// Whether the settings make sense together.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = [
            ("batch", self.batch as u64),
            ("updates", self.updates),
            ("evaluate_every", self.evaluate_every),
            ("log_every", self.log_every),
            ("max_regions", self.max_regions as u64),
            ("evaluation_batch", self.evaluation_batch as u64),
            ("micro_batch", self.micro_batch.unwrap_or(1) as u64),
            ("adapter_divisor", self.adapter_divisor.unwrap_or(1) as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        if self.max_text < 2 {
            return Err("max_text must be at least 2, for [CLS] and [SEP]".to_owned());
        }
        if self.warm_up > self.updates {
            return Err(format!("warm_up ({}) is longer than updates ({})", self.warm_up, self.updates));
        }
        let rates = [("lr", self.lr), ("weight_decay", self.weight_decay), ("eps", self.eps)];
        if let Some((name, value)) = rates.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return Err(format!("{name} is {value}; it must be a number of at least 0"));
        }
        let shares = [Some(self.betas.0), Some(self.betas.1), self.dropout];
        if shares.iter().flatten().any(|share| !(0.0..1.0).contains(share)) {
            return Err("betas and dropout must lie between 0 and 1, 1 excluded".to_owned());
        }
        Ok(())
    }

    /// Whether a run whose best validation is `age` updates old ends early.
    pub(super) fn is_patience_over(&self, age: u64) -> bool {
        self.patience.is_some_and(|patience| age > patience)
    }

    /// What the run chooses for itself of the model's dimensions.
    pub(super) fn changes(&self) -> ModelOverrides {
        let Self { dropout, adapter_divisor, adapter_place, .. } = *self;
        ModelOverrides { dropout, adapter_divisor, adapter_place, ..ModelOverrides::default() }
    }

    /// What of a meme the model is shown.
    pub(super) fn view(&self) -> View {
        View { max_text: self.max_text, max_regions: self.max_regions, ablation: self.ablation }
    }

    /// The optimizer's constants.
    pub(super) fn adamw(&self) -> AdamWConfig {
        AdamWConfig { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay }
    }
}
