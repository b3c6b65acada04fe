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

use candle_core::{Device, Result};

pub use boxes::Corners;
pub use config::Config;
pub use head::ClassScores;

pub use crate::formats::image_decode::Picture;
use crate::nn::cpu_tensor::cpu_vec;
use crate::nn::{Loader, ParamStore, list};
use backbone::Body;
use fpn::Pyramid;
use head::{BoxHead, Described};
use preprocess::Canvas;
use rpn::Rpn;

/// A detector with its weights.
#[derive(Debug)]
pub struct FasterRcnn {
    config: Config,
    device: Device,
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
            device: loader.device(),
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
    /// # Errors
    /// A picture without pixels; features that are not finite (damaged weights); what the device reports.
    pub fn detect(&self, picture: &Picture, max_regions: usize) -> Result<Vec<Region>> {
        let Looked { scale, proposals, described } = self.look(picture)?;
        let probabilities = cpu_vec(&described.probabilities)?;
        let Config { classes, class_nms, head_width, .. } = self.config;
        let features = cpu_vec(&described.features)?;
        let values = features.iter().chain(&probabilities).chain(proposals.as_flattened());
        if !values.into_iter().all(|value| value.is_finite()) {
            return Err(candle_core::Error::Msg(
                "a feature, score or box is not a finite number: check the weights".to_owned(),
            ));
        }
        let choices = selection::choose(&proposals, scale, &probabilities, classes, class_nms, max_regions);
        Ok(choices
            .into_iter()
            .map(|choice| Region {
                corners: choice.corners,
                confidence: choice.confidence,
                object: choice.object,
                feature: features[choice.proposal * head_width..][..head_width].to_vec(),
            })
            .collect())
    }

    /// What the network makes of a picture, before regions are chosen.
    fn look(&self, picture: &Picture) -> Result<Looked> {
        if picture.width == 0 || picture.height == 0 {
            return Err(candle_core::Error::Msg("the picture has no pixels".to_owned()));
        }
        let Canvas { pixels, scale } = preprocess::prepare(picture, &self.config, &self.device)?;
        let (_, _, height, width) = pixels.dims4()?;
        let levels = self.pyramid.forward(&self.body.forward(&pixels)?)?;
        let proposals = self.rpn.proposals(&levels, height, width)?;
        let described = self.head.forward(&levels, &proposals)?;
        Ok(Looked { scale, proposals, described })
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
