//! Faster R-CNN with a ResNeXt body and a feature pyramid, for inference: from a picture to the features of its
//! most telling regions.
//!
//! [`Config::x152`] is the detector of the published features, [`Config::mini`] a small one of the same make;
//! [`fit`] makes weights for the latter. It knows neither files nor stages.

pub mod anchors;
mod backbone;
mod boxes;
pub mod config;
pub mod fit;
mod fpn;
mod head;
mod preprocess;
mod rpn;
mod selection;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};

pub use boxes::{Corners, iou};
pub use config::Config;
pub use head::ClassScores;

pub use crate::formats::image_decode::Picture;
use crate::nn::{Compute, Loader, ParamStore, list, select_rows};
use backbone::Body;
use fpn::Pyramid;
use head::{BoxHead, Described};
use preprocess::Canvas;
use rpn::Rpn;

/// A detector with its weights.
#[derive(Debug)]
pub struct FasterRcnn {
    config: Config,
    compute: Compute,
    /// Whose turn it is on a device that takes one picture at a time.
    turn: Mutex<()>,
    body: Body,
    pyramid: Pyramid,
    rpn: Rpn,
    head: BoxHead,
}

/// One region of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// The proposal box, in pixels of the original picture.
    pub corners: Corners,
    /// The confidence it was chosen by.
    pub confidence: f32,
    /// Its most probable class, background left out, 0-based.
    pub object: u32,
    /// Its feature, `head_width` values.
    pub feature: Vec<f32>,
}

impl FasterRcnn {
    /// The detector over `params`.
    ///
    /// # Errors
    /// A config that makes no sense; a tensor that is missing or of another shape.
    pub fn build(config: &Config, params: &ParamStore) -> Result<Self> {
        config.check().map_err(candle_core::Error::Msg)?;
        Self::load(config, &Loader::new(params))
    }

    /// Names, as in the published checkpoint, and shapes of all tensors, in the order of the data's path. It allocates none.
    ///
    /// # Errors
    /// A config that makes no sense.
    pub fn parameters(config: &Config) -> Result<Vec<(String, Vec<usize>)>> {
        config.check().map_err(candle_core::Error::Msg)?;
        Ok(list(|loader| Self::load(config, loader))?.parameters)
    }

    fn load(config: &Config, loader: &Loader) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            compute: loader.compute(),
            turn: Mutex::default(),
            body: Body::load(config, &loader.pp("backbone.body"))?,
            pyramid: Pyramid::load(config, &loader.pp("backbone.fpn"))?,
            rpn: Rpn::load(config, &loader.pp("rpn.head"))?,
            head: BoxHead::load(config, &loader.pp("roi_heads.box"))?,
        })
    }

    /// The at most `max_regions` regions of a picture, most confident first.
    ///
    /// Boxes are proposals, clipped to the canvas and not to the picture, as in the published features.
    ///
    /// Several threads may call it. On a GPU they take turns: each computes what lies between two choices, and waits for its
    /// result, while the others read pictures, choose proposals and choose regions on the CPU. The head describes at most
    /// `boxes_at_once` boxes at a time.
    ///
    /// # Errors
    /// A picture without pixels; features that are not finite (damaged weights); what the device reports.
    pub fn detect(&self, picture: &Picture, max_regions: usize, boxes_at_once: usize) -> Result<Vec<Region>> {
        let Looked { scale, proposals, described } = self.look(picture, boxes_at_once)?;
        let Config { classes, class_nms, .. } = self.config;
        let Described { features, probabilities } = &described;
        check_finite(probabilities)?;
        check_finite(proposals.as_flattened())?;
        let choices = selection::choose(&proposals, scale, probabilities, classes, class_nms, max_regions);
        let chosen: Vec<usize> = choices.iter().map(|choice| choice.proposal).collect();
        let features = self.select(features, &chosen)?;
        check_finite(features.iter().flatten())?;
        Ok(choices
            .into_iter()
            .zip(features)
            .map(|(choice, feature)| Region {
                corners: choice.corners,
                confidence: choice.confidence,
                object: choice.object,
                feature,
            })
            .collect())
    }

    /// Whether pictures that are detected at the same time take turns on the device.
    pub fn takes_turns(&self) -> bool {
        self.compute.takes_turns()
    }

    /// What the network makes of a picture, before regions are chosen.
    fn look(&self, picture: &Picture, boxes_at_once: usize) -> Result<Looked> {
        if picture.width == 0 || picture.height == 0 {
            return Err(candle_core::Error::Msg("the picture has no pixels".to_owned()));
        }
        let turn = self.take_turn();
        let Canvas { pixels, scale } = preprocess::prepare(picture, &self.config, &self.compute)?;
        let size = self.compute.map_size(&pixels)?;
        let levels = self.pyramid.forward(self.body.forward(pixels)?)?;
        let predictions = self.rpn.predict(&levels)?;
        drop(turn);
        let proposals = self.rpn.proposals(&predictions, size.height, size.width);
        let _turn = self.take_turn();
        let described = self.head.describe(&levels, &proposals, boxes_at_once)?;
        Ok(Looked { scale, proposals, described })
    }

    /// The features of some proposals, in host memory.
    fn select(&self, features: &[Tensor], chosen: &[usize]) -> Result<Vec<Vec<f32>>> {
        let _turn = self.take_turn();
        let mut selected = vec![Vec::new(); chosen.len()];
        let mut first = 0;
        for part in features {
            let (count, width) = part.dims2()?;
            let here = || {
                chosen.iter().enumerate().filter(|(_, proposal)| (first..first + count).contains(*proposal))
            };
            let rows: Vec<u32> = here().map(|(_, proposal)| (proposal - first) as u32).collect();
            if !rows.is_empty() {
                let rows = Tensor::from_vec(rows.clone(), rows.len(), part.device())?;
                let values = self.compute.values(&select_rows(&self.compute, part, &rows)?)?;
                for ((place, _), values) in here().zip(values.chunks(width)) {
                    selected[place] = values.to_vec();
                }
            }
            first += count;
        }
        Ok(selected)
    }

    /// Waits until no other picture uses a device that takes one at a time. What its owner computes meanwhile must not wait for
    /// threads that take turns themselves.
    fn take_turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.compute.takes_turns().then(|| self.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// # Errors
/// A value is not finite.
fn check_finite<'a>(values: impl IntoIterator<Item = &'a f32>) -> Result<()> {
    match values.into_iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(candle_core::Error::Msg(
            "a feature, score or box is not a finite number: check the weights".to_owned(),
        )),
    }
}

/// A picture as the network sees it.
struct Looked {
    /// Size of the canvas over size of the picture.
    scale: f32,
    /// In pixels of the canvas.
    proposals: Vec<Corners>,
    described: Described,
}

#[cfg(test)]
mod tests;
