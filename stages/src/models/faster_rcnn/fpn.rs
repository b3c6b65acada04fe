//! The feature pyramid: every stage's map at one width, with what the coarser ones know added. It does not know
//! what reads its levels.

use candle_core::{Result, Tensor};

use super::config::Config;
use crate::nn::Loader;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::cpu::parallel;
use crate::nn::cpu_tensor::with_cpu_values;

/// Lateral, top-down and output convolutions.
#[derive(Debug)]
pub struct Pyramid {
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
        Ok(Self { lateral, output })
    }

    /// The levels of a picture, finest first: one a stage, and the last one subsampled.
    ///
    /// # Errors
    /// Maps that are not each half of the one before.
    pub fn forward(&self, stages: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut levels = self.output_levels(&self.top_down(stages)?)?;
        if let Some(last) = levels.last() {
            levels.push(subsample(last)?);
        }
        Ok(levels)
    }

    /// Lateral maps with the coarser ones added, finest first.
    pub(super) fn top_down(&self, stages: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut merged: Vec<Tensor> = Vec::with_capacity(stages.len());
        for (lateral, stage) in self.lateral.iter().zip(stages).rev() {
            let above = match merged.last() {
                Some(coarser) => Some(twice_as_large(coarser)?),
                None => None,
            };
            merged.push(lateral.forward(stage, above.as_ref())?);
        }
        merged.reverse();
        Ok(merged)
    }

    fn output_levels(&self, merged: &[Tensor]) -> Result<Vec<Tensor>> {
        self.output.iter().zip(merged).map(|(output, map)| output.forward(map, None)).collect()
    }
}

/// Every row and column twice.
fn twice_as_large(map: &Tensor) -> Result<Tensor> {
    let (_, channels, height, width) = map.dims4()?;
    if !map.device().is_cpu() {
        return map.upsample_nearest2d(2 * height, 2 * width);
    }
    let values = with_cpu_values(&map.contiguous()?, |map| {
        parallel::filled(4 * map.len(), 4 * width, |first, y| {
            for (y, x) in y.chunks_exact_mut(4 * width).zip(map[first * width..].chunks_exact(width)) {
                for y in y.chunks_exact_mut(2 * width) {
                    y.as_chunks_mut::<2>().0.iter_mut().zip(x).for_each(|(y, &x)| *y = [x; 2]);
                }
            }
        })
    })?;
    Tensor::from_vec(values, (1, channels, 2 * height, 2 * width), map.device())
}

/// Every second row and column: max-pooling with a window of one.
pub(super) fn subsample(map: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = map.dims4()?;
    let every_second = |size: usize| {
        let places: Vec<u32> = (0..size as u32).step_by(2).collect();
        Tensor::from_vec(places, size.div_ceil(2), map.device())
    };
    map.index_select(&every_second(height)?, 2)?.index_select(&every_second(width)?, 3)
}

/// A convolution with its own bias; `loader` is at its name.
pub(super) fn load_biased(loader: &Loader, shape: [usize; 4], window: Window) -> Result<Conv2d> {
    let (weight, bias) = (loader.tensor("weight", &shape)?, loader.tensor("bias", &shape[..1])?);
    if loader.lists() { Ok(Conv2d::listed(weight, window)) } else { Conv2d::new(weight, bias, window) }
}
