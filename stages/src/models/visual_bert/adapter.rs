//! The adapter: a bottleneck of two linear layers, in every encoder layer after the feed-forward part, after
//! attention, or after both.

use candle_core::{Result, Tensor};

use super::Config;
use crate::nn::{Activation, Mlp, Params};

#[derive(Debug, Clone)]
pub struct Adapter(Mlp);

impl Adapter {
    /// The adapter under `prefix`, if the parameters have one.
    pub fn load(config: &Config, params: &Params, prefix: &str) -> Result<Option<Self>> {
        let (down, up) = (format!("{prefix}.AdaptComb1"), format!("{prefix}.AdaptComb2"));
        if !params.iter().any(|(name, _)| name.starts_with(&down)) {
            return Ok(None);
        }
        let size = (config.hidden_size, config.bottleneck());
        Ok(Some(Self(Mlp::load(params, &down, &up, size, Activation::Relu)?)))
    }

    /// [.., H] → [.., H]: up(relu(down(x))). The sum with its surroundings is the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}
