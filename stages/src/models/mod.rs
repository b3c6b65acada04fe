//! The models: dimensions, one struct per block, names equal to the checkpoints'. They compute on tensors and
//! know neither files nor stages.
//!
//! What classifies memes is an [`Architecture`]: its dimensions and all that follows from them. Stages know only that and
//! [`Model`], so that another model is a file for its `load` and its passes, one for its config, and a line in each of
//! [`Family`] and [`Config`].

mod bert;
mod checks;
mod family;
pub mod faster_rcnn;
mod head;
mod init;
mod mode;
mod shape_inference;
#[cfg(test)]
mod tests;
pub mod vilbert;
pub mod visual_bert;

use candle_core::{Device, Result, Tensor};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use bert::{MlmHead, classifier_name};
pub use family::{Config, Family};
pub use head::{Head, ProblemType};
pub use init::{Start, init_from_pretrained, init_mlm_head, init_random};
pub use mode::{AdapterPlace, Mode};
pub use shape_inference::TensorShapes;

use crate::nn::{DropoutAt, Listing, Loader, ParamStore, list};

/// What a model reads. Texts and pictures may be padded to any common length: padding changes nothing but rounding.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, u32 [B, T]; the first of each row is `[CLS]`.
    pub ids: Tensor,
    /// Region features, f32 [B, R, D].
    pub regions: Tensor,
    /// Where each region is, f32 [B, R, 5]: its left, upper, right and lower edge and its area, as shares of the picture's.
    pub locations: Tensor,
    /// f32 [B, T + R]: 1 where a token or region is there, 0 where it is padding. It is in host memory wherever the others are:
    /// what a model computes depends on it.
    pub mask: Tensor,
}

impl Batch {
    /// The tensors that move to a device, in the order that [`Batch::from_tensors`] takes them: all but the mask.
    pub fn tensors(&self) -> [&Tensor; 3] {
        [&self.ids, &self.regions, &self.locations]
    }

    /// The batch with the tensors that [`Batch::tensors`] gave, on another device.
    pub fn from_tensors([ids, regions, locations]: [Tensor; 3], mask: Tensor) -> Self {
        Self { ids, regions, locations, mask }
    }

    /// The same batch on `device`, with its mask in host memory.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let [ids, regions, locations] = self.tensors().map(|tensor| tensor.to_device(device));
        Ok(Self::from_tensors([ids?, regions?, locations?], self.mask.clone()))
    }

    /// Its rows in batches of at most `max_rows`, in order, padded as they are.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn split(&self, max_rows: usize) -> Result<Vec<Self>> {
        let rows = self.ids.dim(0)?;
        let part = |begin: usize| {
            let length = max_rows.min(rows - begin);
            let narrow = |tensor: &Tensor| tensor.narrow(0, begin, length);
            Ok(Self {
                ids: narrow(&self.ids)?,
                regions: narrow(&self.regions)?,
                locations: narrow(&self.locations)?,
                mask: narrow(&self.mask)?,
            })
        };
        (0..rows).step_by(max_rows).map(part).collect()
    }
}

/// A model with its parameters.
pub trait Model {
    /// The last hidden states, [B, S, H], of a sequence that begins with the T tokens of the text.
    ///
    /// # Errors
    /// A batch that does not fit the model.
    fn encode(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor>;

    /// Logits of the classes, [B, C]: in the paper of "not hateful" and "hateful".
    ///
    /// # Errors
    /// A batch that does not fit the model, or weights without a head.
    fn logits(&self, batch: &Batch, dropout: Option<&DropoutAt>) -> Result<Tensor>;
}

/// The dimensions of a model, and what follows from them.
pub trait Architecture {
    /// Whether these dimensions make a model.
    ///
    /// # Errors
    /// Says which do not, and why.
    fn check(&self) -> Result<()>;

    /// Whether adapters of these dimensions have a width: asked only where a model has adapters.
    ///
    /// # Errors
    /// They have none.
    fn check_adapters(&self) -> Result<()>;

    /// The dimensions that every model has.
    fn dimensions(&self) -> Dimensions;

    /// The model: the one description of its parameters, their order and its places of dropout. The dimensions have passed
    /// their check.
    ///
    /// # Errors
    /// A parameter that is missing or has another shape, by name.
    fn load(&self, loader: &Loader, parts: Parts) -> Result<Box<dyn Model>>;

    /// The base's tensor whose initial values `name` has: itself, unless the original begins with a copy.
    fn init_from(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Replaces what a run may choose for itself.
    fn change(&mut self, changes: &ModelOverrides);

    /// The name of the base's tensor that a checkpoint of `origin` calls `name`; nothing for what is not of the base.
    fn own_name(&self, origin: Origin, name: &str) -> Option<String>;

    /// Whether checkpoints of `origin` have nothing for the base's tensor `name`.
    fn is_fresh(&self, origin: Origin, name: &str) -> bool;

    /// The name of a run's tensor, of the base or of the classifier, that a checkpoint of this model calls `name`; nothing for
    /// what a run does not have.
    fn run_name(&self, name: &str) -> Option<String> {
        self.own_name(Origin::Itself, name).or_else(|| classifier_name(name))
    }

    /// What shapes do not tell of these dimensions.
    fn known(&self) -> Known;

    /// Sets every dimension that the shapes of a finished run's tensors tell, by their names here; the others as `known` says.
    ///
    /// # Errors
    /// A tensor that is missing or has a shape that none of its kind has; a dimension that neither tells.
    fn set_from_shapes(&mut self, shapes: &TensorShapes, known: &Known) -> std::result::Result<(), String>;

    /// The model over `params`, with the parts that are there: without a head (as in pretraining) there are no
    /// [`logits`](Model::logits).
    ///
    /// # Errors
    /// Dimensions that make no model; a parameter that is missing or has another shape, by name.
    fn build(&self, params: &ParamStore) -> Result<Box<dyn Model>> {
        self.check()?;
        self.load(&Loader::new(params), Parts::of(params))
    }

    /// What [`load`](Self::load) asks for. It allocates no parameter.
    ///
    /// # Errors
    /// Those of `load`, which dimensions that have passed their check do not have.
    fn listing(&self, parts: Parts) -> Result<Listing> {
        list(|loader| self.load(loader, parts))
    }

    /// Names and shapes of the parameters, in the order of the data's path.
    ///
    /// # Errors
    /// As for [`listing`](Self::listing).
    fn parameters(&self, parts: Parts) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(self.listing(parts)?.parameters)
    }

    /// Parameter counts of a run in `mode`: the paper's Table I, without allocating a model.
    ///
    /// # Errors
    /// As for [`listing`](Self::listing).
    fn counts(&self, mode: Mode) -> Result<Counts> {
        let mut counts = Counts { total: 0, trained: 0, adapters: 0 };
        for (name, shape) in self.parameters(mode.parts())? {
            let size = shape.iter().map(|&dim| dim as u64).product::<u64>();
            counts.total += size;
            counts.trained += if mode.trains(&name) { size } else { 0 };
            counts.adapters += if name.contains("Adapt") { size } else { 0 };
        }
        Ok(counts)
    }
}

/// What a model has in addition to its base, `model.bert.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Adapters, where the config puts them.
    pub adapters: bool,
    /// The classification head.
    pub head: bool,
}

impl Parts {
    /// The base alone: what pretraining makes and every run starts from.
    pub const BASE: Self = Self { adapters: false, head: false };

    /// Those that `params` have.
    pub fn of(params: &ParamStore) -> Self {
        let adapters = params.iter().any(|(name, _)| name.contains("Adapt"));
        Self { adapters, head: bert::Classifier::is_in(params) }
    }
}

/// An architecture whose checkpoints can be imported.
pub trait Pretrained:
    Architecture
    + Into<Config>
    + Clone
    + Serialize
    + DeserializeOwned
    + schemars::JsonSchema
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// Which one.
    const FAMILY: Family;

    /// The paper's dimensions.
    fn base_size() -> Self;
}

/// What every model has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dimensions {
    /// Entries of the vocabulary.
    pub words: usize,
    /// Longest text.
    pub positions: usize,
    /// Width of a region's features.
    pub features: usize,
    /// Width of the text's hidden states.
    pub hidden: usize,
    /// Width of what the classifier reads.
    pub pooled: usize,
    /// ε within the square root of every LayerNorm.
    pub layer_norm_eps: f64,
    /// Probability of dropout in training.
    pub dropout: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
    /// What the head tells apart.
    pub head: Head,
}

/// What a run may choose for itself; the weights' own config decides what is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModelOverrides {
    /// Probability of dropout everywhere.
    pub dropout: Option<f64>,
    /// An adapter's bottleneck is the width divided by this, rounded down.
    pub adapter_divisor: Option<usize>,
    /// Where in a layer adapters are.
    pub adapter_place: Option<AdapterPlace>,
    /// What the head tells apart: what the data has.
    pub head: Option<Head>,
    /// Width of a region's features.
    pub features: Option<usize>,
}

/// A model to be pretrained here: what its makers may choose. The rest is as in the paper's.
#[derive(Debug, Clone, Copy)]
pub struct SmallConfig {
    /// Entries of the vocabulary.
    pub words: usize,
    /// Longest text.
    pub positions: usize,
    /// Width of a region's features.
    pub features: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Encoder layers of the text.
    pub layers: usize,
    /// Attention heads a layer.
    pub heads: usize,
    /// Width within the feed-forward part.
    pub intermediate: usize,
    /// Probability of dropout.
    pub dropout: f64,
    /// Standard deviation of initial weights.
    pub initializer_range: f64,
}

/// What names and shapes of tensors do not tell of a model, under the names of `config.json`. What is absent follows from the
/// paper's model: heads as wide as its own, co-attention with the last layers of the text and the first of the regions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Known {
    /// Attention heads a layer; in ViLBERT those of the text.
    pub num_attention_heads: Option<usize>,
    /// ViLBERT: attention heads of a layer of regions.
    pub v_num_attention_heads: Option<usize>,
    /// ViLBERT: attention heads of a layer of co-attention.
    pub bi_num_attention_heads: Option<usize>,
    /// ViLBERT: the text layer that follows each layer of co-attention.
    pub t_biattention_id: Option<Vec<usize>>,
    /// ViLBERT: the layer of regions that follows each layer of co-attention.
    pub v_biattention_id: Option<Vec<usize>>,
    /// Whether a row has one of the classes, or any number of them.
    pub problem_type: Option<ProblemType>,
}

/// What a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The model itself, as the original or Hugging Face saves it.
    Itself,
    /// A BERT, as Hugging Face saves it: no visual parts.
    Bert,
}

/// How many parameters a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Those a mode trains.
    pub trained: u64,
    /// Those in adapters.
    pub adapters: u64,
}
