//! The adapter: a bottleneck of two linear layers at the end of a part of a layer, and the places where it may be.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use stage_api::ParamEnum;

use crate::nn::{Activation, Mlp, ParamStore};

#[derive(Debug, Clone)]
pub struct Adapter(Mlp);

impl Adapter {
    /// The adapter `<name>1`, `<name>2` of outer width `width`, if the parameters have one. It is as narrow within as
    /// its own weights.
    pub fn load(params: &ParamStore, name: &str, width: usize) -> Result<Option<Self>> {
        let (down, up) = (format!("{name}1"), format!("{name}2"));
        if !params.iter().any(|(name, _)| name.starts_with(&down)) {
            return Ok(None);
        }
        let narrow = params.get(&format!("{down}.weight"))?.dim(0)?;
        Ok(Some(Self(Mlp::load(params, &down, &up, (width, narrow), Activation::Relu)?)))
    }

    /// [.., H] → [.., H]: up(relu(down(x))). The sum with its surroundings is the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// Where adapters are, if the model has any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterPlace {
    /// After the feed-forward part, as in the paper.
    #[default]
    Output,
    /// After attention.
    Attention,
    /// After both (Houlsby et al., 2019).
    Both,
    /// After the text's feed-forward parts, and after those of the regions in layers of co-attention.
    CoAttention,
}

impl AdapterPlace {
    /// Whether it is the paper's.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The place of adapters that text layers have in these parts; nothing where they have none.
    pub fn from_parts(attention: bool, output: bool) -> Option<Self> {
        match (attention, output) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Attention),
            (false, true) => Some(Self::Output),
            (false, false) => None,
        }
    }

    /// The parts of a text layer, `attention.output` and `output`, that have one.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Output | Self::CoAttention => &["output"],
            Self::Attention => &["attention.output"],
            Self::Both => &["attention.output", "output"],
        }
    }
}
