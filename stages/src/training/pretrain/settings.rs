//! The params of `pretrain`: which model, its dimensions, and how it is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifacts::view::{Ablation, View};
use crate::models::Family;
use crate::nn::AdamWConfig;

/// Dimensions and training.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PretrainParams {
    /// `"visualbert"` or `"vilbert"`.
    #[serde(skip_serializing_if = "is_the_first")]
    pub model: Family,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Encoder layers; of the text, where regions have their own.
    pub layers: usize,
    /// Attention heads; must divide `hidden`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Text positions.
    pub positions: usize,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Dropout everywhere.
    pub dropout: f64,
    /// Decides fresh weights, the order of rows, masks and dropout.
    pub seed: u64,
    /// Rows an update.
    pub batch: usize,
    /// Updates in all.
    pub updates: u64,
    /// Updates until the learning rate is at its peak.
    pub warm_up: u64,
    /// Peak of the learning rate.
    pub lr: f64,
    /// Decay of weights that are neither bias nor LayerNorm, a share of the learning rate.
    pub weight_decay: f64,
    /// Share of words to be guessed.
    pub mask_probability: f64,
    /// Share of those that become `[MASK]`.
    pub mask_hidden: f64,
    /// Share of those that become a random word; the rest stays as it is.
    pub mask_replaced: f64,
    /// Updates between validations; one more follows the last update.
    pub evaluate_every: u64,
    /// Most regions the model is shown.
    pub max_regions: usize,
    /// Longest text the model is shown, in tokens.
    pub max_text: usize,
}

/// Steps of before there was a choice keep their keys.
fn is_the_first(family: &Family) -> bool {
    *family == Family::default()
}

impl Default for PretrainParams {
    fn default() -> Self {
        Self {
            model: Family::default(),
            hidden: 128,
            layers: 3,
            heads: 4,
            intermediate: 256,
            positions: 128,
            initializer_range: 0.05,
            dropout: 0.0,
            seed: 0,
            batch: 32,
            updates: 1000,
            warm_up: 100,
            lr: 1e-3,
            weight_decay: 0.01,
            mask_probability: 0.3,
            mask_hidden: 0.8,
            mask_replaced: 0.1,
            evaluate_every: 200,
            max_regions: 100,
            max_text: 128,
        }
    }
}

impl PretrainParams {
    /// Whether the settings make sense together.
    pub(super) fn check(&self) -> Result<(), String> {
        let positive = [
            ("hidden", self.hidden as u64),
            ("layers", self.layers as u64),
            ("heads", self.heads as u64),
            ("intermediate", self.intermediate as u64),
            ("batch", self.batch as u64),
            ("updates", self.updates),
            ("evaluate_every", self.evaluate_every),
            ("max_regions", self.max_regions as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(format!("heads ({}) must divide hidden ({})", self.heads, self.hidden));
        }
        if self.max_text < 3 || self.positions < 3 {
            return Err("max_text and positions must be at least 3, for [CLS], a word and [SEP]".to_owned());
        }
        if self.warm_up > self.updates {
            return Err(format!("warm_up ({}) is longer than updates ({})", self.warm_up, self.updates));
        }
        let rates = [
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("initializer_range", self.initializer_range),
        ];
        if let Some((name, value)) = rates.iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return Err(format!("{name} is {value}; it must be a number of at least 0"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err("dropout must lie between 0 and 1, 1 excluded".to_owned());
        }
        let shares = [self.mask_probability, self.mask_hidden, self.mask_replaced];
        let all = self.mask_hidden + self.mask_replaced;
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || all > 1.0 + 1e-9 {
            return Err("mask_probability, mask_hidden and mask_replaced must lie between 0 and 1, \
                        the last two together as well"
                .to_owned());
        }
        Ok(())
    }

    /// What of a scene the model is shown.
    pub(super) fn view(&self) -> View {
        View { max_text: self.max_text, max_regions: self.max_regions, ablation: Ablation::None }
    }

    /// The optimizer's constants.
    pub(super) fn adamw(&self) -> AdamWConfig {
        AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() }
    }
}
