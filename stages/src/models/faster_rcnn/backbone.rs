//! The ResNeXt body: stem and bottleneck stages, batch normalisation folded into the convolutions. It does not
//! know what reads its maps.

use candle_core::{Result, Tensor};

use super::config::Config;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::frozen_batch_norm::FrozenBatchNorm;
use crate::nn::maps::Addend;
use crate::nn::{Compute, Loader};

/// Window of the stem's convolution.
pub(super) const STEM: Window = Window { stride: 2, padding: 3, groups: 1 };

/// The body of the network.
#[derive(Debug)]
pub struct Body {
    compute: Compute,
    stem: Conv2d,
    stages: Vec<Vec<Bottleneck>>,
}

impl Body {
    /// Reads `backbone.body`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let shape = [config.stem_width, 3, 7, 7];
        let stem = load_normed(&loader.pp("stem"), "conv1", "bn1", shape, STEM)?.with_relu();
        let mut stages = Vec::new();
        for (stage, &blocks) in config.blocks.iter().enumerate() {
            let at = loader.pp(format!("layer{}", stage + 1));
            let load = |block: usize| Bottleneck::load(config, stage, block, &at.pp(block));
            stages.push((0..blocks).map(load).collect::<Result<_>>()?);
        }
        Ok(Self { compute: loader.compute(), stem, stages })
    }

    /// The output of each stage for a canvas, finest first. The canvas's memory is free once the stem has read it.
    ///
    /// # Errors
    /// What the device reports.
    pub fn forward(&self, pixels: Tensor) -> Result<Vec<Tensor>> {
        let stem = self.stem.forward(&pixels, None)?;
        drop(pixels);
        let mut x = self.compute.max_pool(&stem, 3)?;
        drop(stem);
        let mut outputs = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x)?;
            }
            outputs.push(x.clone());
        }
        Ok(outputs)
    }
}

/// 1×1, grouped 3×3, 1×1, added to the (projected) input.
#[derive(Debug)]
pub(super) struct Bottleneck {
    projection: Option<Conv2d>,
    reduce: Conv2d,
    grouped: Conv2d,
    expand: Conv2d,
}

/// The windows of a block: projection (and first 1×1 convolution when the stride is there), 3×3.
pub(super) fn windows(config: &Config, stage: usize, block: usize) -> (Window, Window, Window) {
    let stride = if stage > 0 && block == 0 { 2 } else { 1 };
    let (first, second) = if config.stride_in_1x1 { (stride, 1) } else { (1, stride) };
    (
        Window { stride, ..Window::POINT },
        Window { stride: first, ..Window::POINT },
        Window { stride: second, padding: 1, groups: config.groups },
    )
}

impl Bottleneck {
    pub(super) fn load(config: &Config, stage: usize, block: usize, loader: &Loader) -> Result<Self> {
        let (width, outputs) = (config.bottleneck_width(stage), config.stage_widths[stage]);
        let inputs = match (stage, block) {
            (0, 0) => config.stem_width,
            (_, 0) => config.stage_widths[stage - 1],
            _ => outputs,
        };
        let (projection, first, second) = windows(config, stage, block);
        let shape = [outputs, inputs, 1, 1];
        let project = || load_normed(&loader.pp("downsample"), "0", "1", shape, projection);
        Ok(Self {
            projection: if block == 0 { Some(project()?) } else { None },
            reduce: load_normed(loader, "conv1", "bn1", [width, inputs, 1, 1], first)?.with_relu(),
            grouped: load_normed(loader, "conv2", "bn2", [width, width / config.groups, 3, 3], second)?
                .with_relu(),
            expand: load_normed(loader, "conv3", "bn3", [outputs, width, 1, 1], Window::POINT)?.with_relu(),
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.projection {
            Some(projection) => projection.forward(x, None)?,
            None => x.clone(),
        };
        let inner = self.grouped.forward(&self.reduce.forward(x, None)?, None)?;
        // The shortcut is added before the last ReLU.
        self.expand.forward(&inner, Some(Addend::same(&shortcut)))
    }
}

/// The convolution `conv` with its normalisation `norm` folded in.
fn load_normed(loader: &Loader, conv: &str, norm: &str, shape: [usize; 4], window: Window) -> Result<Conv2d> {
    let weight = loader.pp(conv).tensor("weight", &shape)?;
    let norm = FrozenBatchNorm::load(&loader.pp(norm), shape[0])?;
    if loader.lists() {
        return Ok(Conv2d::listed(&loader.compute(), &weight, window));
    }
    let (weight, bias) = norm.fold_into(&weight)?;
    Conv2d::new(&loader.compute(), &weight, bias, window)
}
