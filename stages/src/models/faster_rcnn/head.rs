//! The box head: features and class scores of proposals. It does not know how regions are chosen from them.

use candle_core::{Device, Result, Tensor};

use super::boxes::{Corners, area};
use super::config::Config;
use crate::nn::Loader;
use crate::nn::cpu::parallel;
use crate::nn::cpu_tensor::{affine, softmax};
use crate::nn::roi_align::RoiAlign;

/// Pooling from the pyramid, two hidden layers, class scores.
#[derive(Debug)]
pub struct BoxHead {
    pooler: Pooler,
    fc6: (Tensor, Tensor),
    classes: ClassScores,
}

/// The part of the box head behind the region features: what class a region is of.
#[derive(Debug)]
pub struct ClassScores {
    fc7: (Tensor, Tensor),
    scores: (Tensor, Tensor),
}

/// What the head says of the proposals.
#[derive(Debug)]
pub struct Described {
    /// The first hidden layer behind its ReLU, `[n, head_width]`: the region features.
    pub features: Tensor,
    /// Class probabilities, `[n, classes]`, background first.
    pub probabilities: Tensor,
}

impl BoxHead {
    /// Reads `roi_heads.box`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let fc6 = linear(loader, "feature_extractor.fc6", config.head_width, config.pooled_values())?;
        let classes = ClassScores::load(config, loader)?;
        // Proposals are never refined.
        loader.skip_linear("predictor.bbox_pred", config.head_width, 4 * config.classes)?;
        Ok(Self { pooler: Pooler::new(config), fc6, classes })
    }

    /// Features and class probabilities of `boxes` on the canvas.
    ///
    /// # Errors
    /// What the device reports.
    pub fn forward(&self, levels: &[Tensor], boxes: &[Corners]) -> Result<Described> {
        let pooled = self.pooler.pool(levels, boxes)?;
        let features = affine(&pooled, &self.fc6.0, &self.fc6.1, true)?;
        let probabilities = self.classes.probabilities(&features)?;
        Ok(Described { features, probabilities })
    }
}

impl ClassScores {
    /// Reads its part of `roi_heads.box`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let width = config.head_width;
        Ok(Self {
            fc7: linear(loader, "feature_extractor.fc7", width, width)?,
            scores: linear(loader, "predictor.cls_score", config.classes, width)?,
        })
    }

    /// Class probabilities `[n, classes]`, background first, of region features `[n, head_width]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn probabilities(&self, features: &Tensor) -> Result<Tensor> {
        let hidden = affine(features, &self.fc7.0, &self.fc7.1, true)?;
        softmax(&affine(&hidden, &self.scores.0, &self.scores.1, false)?)
    }
}

/// The weight and the bias of an affine map.
fn linear(loader: &Loader, name: &str, outputs: usize, inputs: usize) -> Result<(Tensor, Tensor)> {
    let at = loader.pp(name);
    Ok((at.tensor("weight", &[outputs, inputs])?, at.tensor("bias", &[outputs])?))
}

/// Pools each box from the pyramid level that fits its size.
#[derive(Debug)]
pub(super) struct Pooler {
    bins: usize,
    samples: usize,
    strides: Vec<usize>,
}

impl Pooler {
    /// The pooler of `config`; the subsampled extra level is not pooled from.
    pub(super) fn new(config: &Config) -> Self {
        let strides = (0..config.blocks.len()).map(|level| config.stride(level)).collect();
        Self { bins: config.pooled_size, samples: config.sampling_ratio, strides }
    }

    /// The pooled boxes, `[boxes, width · bins²]`, in the boxes' order.
    pub(super) fn pool(&self, levels: &[Tensor], boxes: &[Corners]) -> Result<Tensor> {
        let align =
            |stride: usize| RoiAlign { bins: self.bins, samples: self.samples, scale: 1.0 / stride as f32 };
        if levels[0].device().is_cpu() {
            let values = levels[0].dims4()?.1 * self.bins * self.bins;
            let mut pooled = parallel::filled(boxes.len() * values, 1, |_, _| ());
            let mut members: Vec<Vec<_>> = self.strides.iter().map(|_| Vec::new()).collect();
            for (row, &corners) in pooled.chunks_exact_mut(values).zip(boxes) {
                members[level_of(corners, self.strides.len())].push((row, corners));
            }
            let levels = levels.iter().zip(&self.strides).zip(members);
            let mut levels = levels.filter(|(_, members)| !members.is_empty());
            levels.try_for_each(|((map, &stride), members)| align(stride).pool(map, members))?;
            return Tensor::from_vec(pooled, (boxes.len(), values), &Device::Cpu);
        }
        let (mut parts, mut order) = (Vec::new(), vec![0u32; boxes.len()]);
        let mut placed = 0;
        for (number, (map, stride)) in levels.iter().zip(&self.strides).enumerate() {
            let members: Vec<usize> =
                (0..boxes.len()).filter(|&i| level_of(boxes[i], self.strides.len()) == number).collect();
            if members.is_empty() && number + 1 < self.strides.len() {
                continue;
            }
            for &member in &members {
                order[member] = placed;
                placed += 1;
            }
            let corners: Vec<Corners> = members.iter().map(|&member| boxes[member]).collect();
            parts.push(align(*stride).forward(map, &corners)?);
        }
        let pooled = Tensor::cat(&parts, 0)?;
        if boxes.is_empty() {
            return Ok(pooled);
        }
        let order = Tensor::from_vec(order, boxes.len(), pooled.device())?;
        pooled.index_select(&order, 0)
    }
}

/// The level (0-based) a box is pooled from: one of 224 pixels a side from the third, halves one finer.
fn level_of(corners: Corners, levels: usize) -> usize {
    let level = (4.0 + libm::log2f(area(corners).sqrt() / 224.0 + 1e-6)).floor();
    (level - 2.0).clamp(0.0, levels as f32 - 1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_from_the_level_of_the_published_rule() {
        let square = |side: f32| [0.0, 0.0, side - 1.0, side - 1.0];
        for (side, level) in
            [(10.0, 0), (111.0, 0), (112.0, 1), (223.0, 1), (224.0, 2), (448.0, 3), (2000.0, 3)]
        {
            assert_eq!(level_of(square(side), 4), level, "{side}");
        }
        assert_eq!(level_of(square(2000.0), 3), 2);
    }
}
