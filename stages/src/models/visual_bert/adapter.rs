//! The adapter: a bottleneck of two linear layers, one in every encoder layer after the feed-forward part.

use candle_core::{Result, Tensor};

use super::Config;
use crate::nn::{Linear, Params};

#[derive(Debug, Clone)]
pub struct Adapter {
    down: Linear,
    up: Linear,
}

impl Adapter {
    /// The adapter under `prefix`, if the parameters have one.
    pub fn load(config: &Config, params: &Params, prefix: &str) -> Result<Option<Self>> {
        let (hidden, bottleneck) = (config.hidden_size, config.bottleneck());
        let down = format!("{prefix}.AdaptComb1");
        if !params.iter().any(|(name, _)| name.starts_with(&down)) {
            return Ok(None);
        }
        Ok(Some(Self {
            down: Linear::load(params, &down, hidden, bottleneck)?,
            up: Linear::load(params, &format!("{prefix}.AdaptComb2"), bottleneck, hidden)?,
        }))
    }

    /// [.., H] → [.., H]: up(relu(down(x))). The sum with its surroundings is the layer's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.up.forward(&self.down.forward(x)?.relu()?)
    }
}
