//! The dimensions and settings of a detector. It knows what they are, not what is done with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// No number of a config is greater than this: products of three cannot overflow.
const MAX: usize = 1 << 20;
/// Some decide how much memory or time a single picture takes: the side of the canvas (a gigabyte and more), the
/// proposals (compared in pairs), the samples of a bin.
const MAX_SIDE: usize = 1 << 14;
const MAX_PROPOSALS: usize = 1 << 14;
const MAX_SAMPLES: usize = 1 << 6;

/// A Faster R-CNN with a ResNeXt body and a feature pyramid.
///
/// Level `l` (0-based) of the pyramid has stride `4 · 2^l`; one more level than the body has stages comes from
/// subsampling the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Channels of the 7×7 stem.
    pub stem_width: usize,
    /// Bottleneck blocks of each stage.
    pub blocks: Vec<usize>,
    /// Groups of the 3×3 convolutions.
    pub groups: usize,
    /// Channels of a group in the first stage; doubles with each stage.
    pub width_per_group: usize,
    /// Output channels of each stage.
    pub stage_widths: Vec<usize>,
    /// Whether a stage's stride is in its first 1×1 convolution instead of the 3×3 one.
    pub stride_in_1x1: bool,
    /// Channels of every pyramid level.
    pub pyramid_width: usize,
    /// Side of the square anchor of each level, in pixels of the canvas.
    pub anchor_sizes: Vec<f64>,
    /// Height over width of the anchors.
    pub anchor_ratios: Vec<f64>,
    /// How proposals are chosen from the anchors.
    pub proposals: Proposals,
    /// Bins along each side of a pooled box.
    pub pooled_size: usize,
    /// Samples along each side of a bin.
    pub sampling_ratio: usize,
    /// Width of the two layers of the box head; the first one is the region feature.
    pub head_width: usize,
    /// Classes, the background (0) included.
    pub classes: usize,
    /// Overlap, in pixels of the picture, above which a box is suppressed by a better one of its class.
    pub class_nms: f32,
    /// The shorter side of a picture is scaled to this many pixels …
    pub min_size: usize,
    /// … unless the longer side would exceed this.
    pub max_size: usize,
    /// Canvas sides are rounded up to a multiple of this.
    pub size_divisor: usize,
    /// Subtracted from the blue, green and red values (0 to 255).
    pub means_bgr: [f32; 3],
}

/// How proposals are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proposals {
    /// Best anchors of a level that are looked at.
    pub before_nms: usize,
    /// Overlap above which a proposal is suppressed by a better one of its level.
    pub nms: f32,
    /// Best proposals of a level that are kept.
    pub after_nms: usize,
    /// Best proposals over all levels that are kept.
    pub over_levels: usize,
}

impl Config {
    /// X-152 32×8d with FPN 512, head 2048 and the 1600 Visual Genome classes: the detector of the published
    /// features.
    ///
    /// Its settings file is not at hand; `proposals` are the defaults of the code it was trained with.
    pub fn x152() -> Self {
        Self {
            stem_width: 64,
            blocks: vec![3, 8, 36, 3],
            groups: 32,
            width_per_group: 8,
            stage_widths: vec![256, 512, 1024, 2048],
            stride_in_1x1: false,
            pyramid_width: 512,
            anchor_sizes: vec![32.0, 64.0, 128.0, 256.0, 512.0],
            anchor_ratios: vec![0.5, 1.0, 2.0],
            proposals: Proposals { before_nms: 6000, nms: 0.7, after_nms: 1000, over_levels: 2000 },
            pooled_size: 7,
            sampling_ratio: 2,
            head_width: 2048,
            classes: 1601,
            class_nms: 0.5,
            min_size: 800,
            max_size: 1333,
            size_divisor: 32,
            means_bgr: [102.9801, 115.9465, 122.7717],
        }
    }

    /// A detector of the same make for pictures of about 100 pixels with objects of about 30: milliseconds a
    /// picture on one thread.
    pub fn mini(classes: usize) -> Self {
        Self {
            stem_width: 24,
            blocks: vec![1, 1, 1],
            groups: 4,
            width_per_group: 8,
            stage_widths: vec![48, 64, 96],
            pyramid_width: 48,
            anchor_sizes: vec![30.0, 48.0, 72.0, 104.0],
            anchor_ratios: vec![1.0],
            proposals: Proposals { before_nms: 200, nms: 0.6, after_nms: 48, over_levels: 48 },
            pooled_size: 4,
            head_width: 128,
            classes,
            min_size: 112,
            max_size: 224,
            size_divisor: 16,
            ..Self::x152()
        }
    }

    /// Bottleneck channels of stage `stage` (0-based).
    pub fn bottleneck_width(&self, stage: usize) -> usize {
        (self.groups * self.width_per_group) << stage
    }

    /// Stride of pyramid level `level` (0-based) in pixels of the canvas.
    pub fn stride(&self, level: usize) -> usize {
        4 << level
    }

    /// Values of a pooled box.
    pub fn pooled_values(&self) -> usize {
        self.pyramid_width * self.pooled_size * self.pooled_size
    }

    /// Says what is wrong with the numbers, if anything: they may come from a file.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        let stages = self.blocks.len();
        let positive = [
            ("stem_width", self.stem_width),
            ("groups", self.groups),
            ("width_per_group", self.width_per_group),
            ("pyramid_width", self.pyramid_width),
            ("before_nms", self.proposals.before_nms),
            ("after_nms", self.proposals.after_nms),
            ("over_levels", self.proposals.over_levels),
            ("pooled_size", self.pooled_size),
            ("sampling_ratio", self.sampling_ratio),
            ("head_width", self.head_width),
            ("min_size", self.min_size),
            ("size_divisor", self.size_divisor),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{name}` must be at least 1"));
        }
        let limits = [
            ("sampling_ratio", self.sampling_ratio, MAX_SAMPLES),
            ("over_levels", self.proposals.over_levels, MAX_PROPOSALS),
            ("max_size", self.max_size, MAX_SIDE),
            ("size_divisor", self.size_divisor, MAX_SIDE),
        ];
        let widths = self.stage_widths.iter().map(|&width| ("stage_widths", width, MAX));
        let others = [("classes", self.classes, MAX)].into_iter().chain(widths);
        let others = others.chain(positive.map(|(name, value)| (name, value, MAX)));
        if let Some((name, value, max)) = limits.into_iter().chain(others).find(|(_, value, max)| value > max)
        {
            return Err(format!("`{name}` is {value}, more than {max}"));
        }
        if !(1..=8).contains(&stages) || self.blocks.contains(&0) {
            return Err("`blocks` must name 1 to 8 stages of at least one block".to_owned());
        }
        if self.stage_widths.len() != stages || self.stage_widths.contains(&0) {
            return Err(format!("`stage_widths` must name the channels of {stages} stages"));
        }
        if self.anchor_sizes.len() != stages + 1 || self.anchor_ratios.is_empty() {
            return Err(format!(
                "`anchor_sizes` must name {} levels, `anchor_ratios` at least one",
                stages + 1
            ));
        }
        if !self.anchor_sizes.iter().chain(&self.anchor_ratios).all(|value| *value > 0.0 && value.is_finite())
        {
            return Err("`anchor_sizes` and `anchor_ratios` must be positive".to_owned());
        }
        if !self.size_divisor.is_multiple_of(self.stride(stages - 1)) {
            // Otherwise a level is not exactly half of the one below, and the top-down path does not fit.
            return Err(format!("`size_divisor` must be a multiple of {}", self.stride(stages - 1)));
        }
        if self.max_size < self.min_size {
            return Err("`max_size` must not be below `min_size`".to_owned());
        }
        for (name, overlap) in [("nms", self.proposals.nms), ("class_nms", self.class_nms)] {
            if !(0.0..=1.0).contains(&overlap) {
                return Err(format!("`{name}` is {overlap}; an overlap is 0 to 1"));
            }
        }
        if !self.means_bgr.iter().all(|mean| mean.is_finite()) {
            return Err(format!("`means_bgr` is {:?}; it must be numbers", self.means_bgr));
        }
        if self.classes < 2 {
            return Err("`classes` must hold the background and at least one more".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        assert_eq!(Config::x152().check(), Ok(()));
        let huge = 1_000_000_000_000;
        let proposals = Config::x152().proposals;
        for (name, config) in [
            ("head_width", Config { head_width: 0, ..Config::x152() }),
            ("classes", Config { classes: huge, ..Config::x152() }),
            ("groups", Config { groups: usize::MAX, ..Config::x152() }),
            ("max_size", Config { min_size: 5, max_size: huge, ..Config::x152() }),
            ("size_divisor", Config { size_divisor: 32 << 20, ..Config::x152() }),
            ("sampling_ratio", Config { sampling_ratio: huge, ..Config::x152() }),
            (
                "over_levels",
                Config { proposals: Proposals { over_levels: huge, ..proposals }, ..Config::x152() },
            ),
            ("stage_widths", Config { stage_widths: vec![1, 1, 1, huge], ..Config::x152() }),
        ] {
            let error = config.check().unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
