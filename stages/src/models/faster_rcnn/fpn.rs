//! The feature pyramid: every stage's map at one width, with what the coarser ones know added. It does not know
//! what reads its levels.

use candle_core::{Result, Tensor};

use super::config::Config;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::maps::Addend;
use crate::nn::{Compute, Loader};

/// Lateral, top-down and output convolutions.
#[derive(Debug)]
pub struct Pyramid {
    compute: Compute,
    lateral: Vec<Conv2d>,
    output: Vec<Conv2d>,
}

impl Pyramid {
    /// Reads `backbone.fpn`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let width = config.pyramid_width;
        let (mut lateral, mut output) = (Vec::new(), Vec::new());
        for (stage, &inputs) in config.stage_widths.iter().enumerate() {
            let inner = loader.pp(format!("fpn_inner{}", stage + 1));
            lateral.push(load_biased(&inner, [width, inputs, 1, 1], Window::POINT)?);
            let layer = loader.pp(format!("fpn_layer{}", stage + 1));
            output.push(load_biased(&layer, [width, width, 3, 3], Window::SAME_3)?);
        }
        Ok(Self { compute: loader.compute(), lateral, output })
    }

    /// The levels of a picture, finest first: one a stage, and the last one subsampled. Each stage's memory is free once its lateral
    /// map is there.
    ///
    /// # Errors
    /// Maps that are not each half of the one before.
    pub fn forward(&self, stages: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut levels = self.output_levels(self.top_down(stages)?)?;
        if let Some(last) = levels.last() {
            // Every second row and column: max-pooling with a window of one.
            levels.push(self.compute.max_pool(last, 1)?);
        }
        Ok(levels)
    }

    /// Lateral maps with the coarser ones added, finest first.
    pub(super) fn top_down(&self, stages: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let mut merged: Vec<Tensor> = Vec::with_capacity(stages.len());
        for (lateral, stage) in self.lateral.iter().zip(stages).rev() {
            let map = lateral.forward(&stage, merged.last().map(Addend::half))?;
            merged.push(map);
        }
        merged.reverse();
        Ok(merged)
    }

    fn output_levels(&self, merged: Vec<Tensor>) -> Result<Vec<Tensor>> {
        self.output.iter().zip(merged).map(|(output, map)| output.forward(&map, None)).collect()
    }
}

/// A convolution with its own bias; `loader` is at its name.
pub(super) fn load_biased(loader: &Loader, shape: [usize; 4], window: Window) -> Result<Conv2d> {
    let (weight, bias) = (loader.tensor("weight", &shape)?, loader.tensor("bias", &shape[..1])?);
    let compute = loader.compute();
    match loader.lists() {
        true => Ok(Conv2d::listed(&compute, &weight, window)),
        false => Conv2d::new(&compute, &weight, bias, window),
    }
}
