//! The region proposal network: where in a picture something is, class left open. It does not know what the
//! boxes are used for.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::anchors::{anchor_at, cell_anchors};
use super::boxes::{Corners, best_first, clip, decode, suppress};
use super::config::{Config, Proposals};
use super::fpn::load_biased;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::maps::MapSize;
use crate::nn::{Compute, Loader};

/// The head shared by all levels, and the anchors of each.
#[derive(Debug)]
pub struct Rpn {
    compute: Compute,
    hidden: Conv2d,
    /// Objectness of each anchor shape, then four deltas of each.
    predictor: Conv2d,
    settings: Proposals,
    cells: Vec<(usize, Vec<Corners>)>,
}

/// What the head predicts for the anchors of a level.
#[derive(Debug)]
pub struct LevelPrediction {
    size: MapSize,
    /// In host memory, in the order of the device's maps.
    values: Vec<f32>,
}

/// Fewer anchors in all than this are chosen from by the calling thread.
const WORTH_SHARING: usize = 1 << 14;

impl Rpn {
    /// Reads `rpn.head`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let (width, anchors) = (config.pyramid_width, config.anchor_ratios.len());
        Ok(Self {
            compute: loader.compute(),
            hidden: load_biased(&loader.pp("conv"), [width, width, 3, 3], Window::SAME_3)?.with_relu(),
            predictor: load_predictor(loader, anchors, width)?,
            settings: config.proposals,
            cells: cells(config),
        })
    }

    /// What the head predicts for each level, in host memory.
    ///
    /// # Errors
    /// What the device reports.
    pub fn predict(&self, levels: &[Tensor]) -> Result<Vec<LevelPrediction>> {
        let predict = |map: &Tensor| self.predictor.forward(&self.hidden.forward(map, None)?, None);
        // All are queued before the first is waited for.
        let predictions = levels.iter().map(predict).collect::<Result<Vec<_>>>()?;
        let read = |prediction: &Tensor| {
            let size = self.compute.map_size(prediction)?;
            Ok(LevelPrediction { size, values: self.compute.values(prediction)? })
        };
        predictions.iter().map(read).collect()
    }

    /// The proposals of a picture, best first, inside the canvas of `height × width` pixels.
    pub fn proposals(&self, predictions: &[LevelPrediction], height: usize, width: usize) -> Vec<Corners> {
        let choose = |(prediction, (stride, cell)): (&LevelPrediction, &(usize, Vec<Corners>))| {
            self.choose(prediction, *stride, cell, (height, width))
        };
        let anchors: usize = predictions.iter().map(|prediction| prediction.values.len() / 5).sum();
        let chosen: Vec<(Vec<Corners>, Vec<f32>)> = if anchors >= WORTH_SHARING {
            predictions.par_iter().zip(&self.cells).with_max_len(1).map(choose).collect()
        } else {
            predictions.iter().zip(&self.cells).map(choose).collect()
        };
        let (boxes, scores): (Vec<_>, Vec<_>) = chosen.into_iter().unzip();
        let (boxes, scores) = (boxes.concat(), scores.concat());
        best_first(&scores, self.settings.over_levels).into_iter().map(|index| boxes[index]).collect()
    }

    /// The best of a level: by objectness, decoded, clipped, without those that a better one covers. Anchors are numbered by
    /// place, then shape.
    ///
    /// The original also drops sides below 0 pixels. There are none: decoding puts the far edge at most 1 before the
    /// near one, clipping brings them no further apart, and both round monotonically.
    fn choose(
        &self,
        level: &LevelPrediction,
        stride: usize,
        cell: &[Corners],
        (height, width): (usize, usize),
    ) -> (Vec<Corners>, Vec<f32>) {
        let (size, shapes) = (level.size, cell.len());
        let value = |channel: usize, place: usize| level.values[self.compute.map_index(size, channel, place)];
        let objectness: Vec<f32> = (0..size.places())
            .flat_map(|place| (0..shapes).map(move |shape| (place, shape)))
            .map(|(place, shape)| sigmoid(value(shape, place)))
            .collect();
        let order = best_first(&objectness, self.settings.before_nms);
        let corners = |&index: &usize| {
            let (place, shape) = (index / shapes, index % shapes);
            let anchor = anchor_at(cell[shape], stride, place / size.width, place % size.width);
            let deltas = [0, 1, 2, 3].map(|i| value(shapes + 4 * shape + i, place));
            clip(decode(anchor, deltas), width, height)
        };
        let boxes: Vec<Corners> = order.iter().map(corners).collect();
        let kept = suppress(&boxes, self.settings.nms, self.settings.after_nms);
        kept.into_iter().map(|kept| (boxes[kept], objectness[order[kept]])).unzip()
    }
}

/// Objectness and deltas as one convolution.
fn load_predictor(loader: &Loader, anchors: usize, width: usize) -> Result<Conv2d> {
    let load = |name: &str, outputs: usize| -> Result<(Tensor, Tensor)> {
        let at = loader.pp(name);
        Ok((at.tensor("weight", &[outputs, width, 1, 1])?, at.tensor("bias", &[outputs])?))
    };
    let ((logits, logits_bias), (deltas, deltas_bias)) =
        (load("cls_logits", anchors)?, load("bbox_pred", 4 * anchors)?);
    if loader.lists() {
        return Ok(Conv2d::listed(&loader.compute(), &logits, Window::POINT));
    }
    let (weight, bias) = (Tensor::cat(&[logits, deltas], 0)?, Tensor::cat(&[logits_bias, deltas_bias], 0)?);
    Conv2d::new(&loader.compute(), &weight, bias, Window::POINT)
}

/// Stride and cell anchors of each level.
pub(super) fn cells(config: &Config) -> Vec<(usize, Vec<Corners>)> {
    config
        .anchor_sizes
        .iter()
        .enumerate()
        .map(|(level, &size)| {
            let stride = config.stride(level);
            (stride, cell_anchors(stride, size, &config.anchor_ratios))
        })
        .collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + libm::expf(-x))
}
