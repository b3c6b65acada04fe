//! The box head: features and class scores of proposals. It does not know how regions are chosen from them.

use candle_core::{Result, Tensor};

use super::boxes::{Corners, area};
use super::config::Config;
use crate::nn::maps::Affine;
use crate::nn::roi_align::{Level, RoiAlign};
use crate::nn::{Compute, Loader};

/// Pooling from the pyramid, two hidden layers, class scores.
#[derive(Debug)]
pub struct BoxHead {
    compute: Compute,
    pooler: Pooler,
    fc6: (Tensor, Tensor),
    classes: ClassScores,
}

/// The part of the box head behind the region features: what class a region is of.
#[derive(Debug)]
pub struct ClassScores {
    compute: Compute,
    fc7: (Tensor, Tensor),
    scores: (Tensor, Tensor),
}

/// What the head says of the proposals.
#[derive(Debug)]
pub struct Described {
    /// The first hidden layer behind its ReLU: the region features, in parts `[n, head_width]` on the device.
    pub features: Vec<Tensor>,
    /// Class probabilities, `[proposals, classes]`, background first, in host memory.
    pub probabilities: Vec<f32>,
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
        Ok(Self { compute: loader.compute(), pooler: Pooler::new(config), fc6, classes })
    }

    /// Features and class probabilities of `boxes` on the canvas, of at most `at_once` at a time.
    ///
    /// # Errors
    /// What the device reports.
    pub fn describe(&self, levels: &[Tensor], boxes: &[Corners], at_once: usize) -> Result<Described> {
        let mut described = Described { features: Vec::new(), probabilities: Vec::new() };
        for boxes in boxes.chunks(at_once) {
            let pooled = self.pooler.pool(&self.compute, levels, boxes)?;
            let features = affine(&self.compute, &self.fc6, true, &pooled)?;
            drop(pooled);
            let probabilities = self.compute.values(&self.classes.probabilities(&features)?)?;
            described.features.push(features);
            if described.probabilities.is_empty() {
                described.probabilities = probabilities;
            } else {
                described.probabilities.extend(probabilities);
            }
        }
        Ok(described)
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
            compute: loader.compute(),
            fc7: linear(loader, "feature_extractor.fc7", width, width)?,
            scores: linear(loader, "predictor.cls_score", config.classes, width)?,
        })
    }

    /// What computes them.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Class probabilities `[n, classes]`, background first, of region features `[n, head_width]`.
    ///
    /// # Errors
    /// What the device reports.
    pub fn probabilities(&self, features: &Tensor) -> Result<Tensor> {
        let hidden = affine(&self.compute, &self.fc7, true, features)?;
        self.compute.softmax(&affine(&self.compute, &self.scores, false, &hidden)?)
    }
}

/// The weight and the bias of an affine map.
fn linear(loader: &Loader, name: &str, outputs: usize, inputs: usize) -> Result<(Tensor, Tensor)> {
    let at = loader.pp(name);
    Ok((at.tensor("weight", &[outputs, inputs])?, at.tensor("bias", &[outputs])?))
}

/// The affine map of a weight and a bias, with a ReLU where `relu`.
fn affine(compute: &Compute, (weight, bias): &(Tensor, Tensor), relu: bool, x: &Tensor) -> Result<Tensor> {
    compute.affine(Affine { weight, bias, relu }, x)
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
    pub(super) fn pool(&self, compute: &Compute, levels: &[Tensor], boxes: &[Corners]) -> Result<Tensor> {
        let mut members: Vec<Vec<(usize, Corners)>> = self.strides.iter().map(|_| Vec::new()).collect();
        for (row, &corners) in boxes.iter().enumerate() {
            members[level_of(corners, self.strides.len())].push((row, corners));
        }
        let levels = levels.iter().zip(&self.strides).zip(members);
        let level = |((map, &stride), boxes)| {
            Ok(Level { map, size: compute.map_size(map)?, scale: 1.0 / stride as f32, boxes })
        };
        let levels = levels.map(level).collect::<Result<Vec<_>>>()?;
        compute.pool_boxes(RoiAlign { bins: self.bins, samples: self.samples }, &levels, boxes.len())
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
