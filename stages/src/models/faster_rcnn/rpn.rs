//! The region proposal network: where in a picture something is, class left open. It does not know what the
//! boxes are used for.

use candle_core::{Result, Tensor};

use super::anchors::{cell_anchors, grid};
use super::boxes::{Corners, best_first, clip, decode, suppress};
use super::config::{Config, Proposals};
use super::fpn::load_biased;
use crate::nn::Loader;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::cpu_tensor::cpu_vec;

/// The head shared by all levels, and the anchors of each.
#[derive(Debug)]
pub struct Rpn {
    hidden: Conv2d,
    objectness: Conv2d,
    deltas: Conv2d,
    settings: Proposals,
    cells: Vec<(usize, Vec<Corners>)>,
}

/// One level's anchors with what the head predicts for them; all in one order.
struct LevelPrediction {
    anchors: Vec<Corners>,
    objectness: Vec<f32>,
    deltas: Vec<[f32; 4]>,
}

impl Rpn {
    /// Reads `rpn.head`; `loader` is at that name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(config: &Config, loader: &Loader) -> Result<Self> {
        let (width, anchors) = (config.pyramid_width, config.anchor_ratios.len());
        Ok(Self {
            hidden: load_biased(&loader.pp("conv"), [width, width, 3, 3], Window::SAME_3)?.with_relu(),
            objectness: load_biased(&loader.pp("cls_logits"), [anchors, width, 1, 1], Window::POINT)?,
            deltas: load_biased(&loader.pp("bbox_pred"), [4 * anchors, width, 1, 1], Window::POINT)?,
            settings: config.proposals,
            cells: cells(config),
        })
    }

    /// The proposals of a picture, best first, inside the canvas of `height × width` pixels.
    ///
    /// # Errors
    /// What the device reports.
    pub fn proposals(&self, levels: &[Tensor], height: usize, width: usize) -> Result<Vec<Corners>> {
        let (mut boxes, mut scores) = (Vec::new(), Vec::new());
        for (map, (stride, cell)) in levels.iter().zip(&self.cells) {
            let prediction = self.predict(map, *stride, cell)?;
            let (level_boxes, level_scores) = self.choose(&prediction, height, width);
            boxes.extend(level_boxes);
            scores.extend(level_scores);
        }
        let mut order = best_first(&scores);
        order.truncate(self.settings.over_levels);
        Ok(order.into_iter().map(|index| boxes[index]).collect())
    }

    fn predict(&self, map: &Tensor, stride: usize, cell: &[Corners]) -> Result<LevelPrediction> {
        let (_, _, height, width) = map.dims4()?;
        let hidden = self.hidden.forward(map, None)?;
        let (plane, per_cell) = (height * width, cell.len());
        let logits = cpu_vec(&self.objectness.forward(&hidden, None)?)?;
        let deltas = cpu_vec(&self.deltas.forward(&hidden, None)?)?;
        // The head is channel-major (anchor, then place); the anchors are by place, then anchor.
        let places = (0..plane).flat_map(|place| (0..per_cell).map(move |anchor| (place, anchor)));
        Ok(LevelPrediction {
            anchors: grid(cell, stride, height, width),
            objectness: places
                .clone()
                .map(|(place, anchor)| sigmoid(logits[anchor * plane + place]))
                .collect(),
            deltas: places
                .map(|(place, anchor)| [0, 1, 2, 3].map(|i| deltas[(4 * anchor + i) * plane + place]))
                .collect(),
        })
    }

    /// The best of a level: by objectness, decoded, clipped, without those that a better one covers.
    ///
    /// The original also drops sides below 0 pixels. There are none: decoding puts the far edge at most 1 before the
    /// near one, clipping brings them no further apart, and both round monotonically.
    fn choose(&self, level: &LevelPrediction, height: usize, width: usize) -> (Vec<Corners>, Vec<f32>) {
        let mut order = best_first(&level.objectness);
        order.truncate(self.settings.before_nms);
        let boxes: Vec<Corners> = order
            .iter()
            .map(|&index| clip(decode(level.anchors[index], level.deltas[index]), width, height))
            .collect();
        let kept = suppress(&boxes, self.settings.nms, self.settings.after_nms);
        kept.into_iter().map(|kept| (boxes[kept], level.objectness[order[kept]])).unzip()
    }
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
