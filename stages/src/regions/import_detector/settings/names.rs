//! The names of maskrcnn-benchmark's settings by what they mean for region features.

use std::fmt;

use serde_json::Value;

/// The one value of a setting that the detector has.
pub(super) enum Only {
    Flag(bool),
    Number(f64),
    Text(&'static str),
    Numbers(&'static [f64]),
}

impl Only {
    pub(super) fn is(&self, found: &Value) -> bool {
        match self {
            Self::Flag(flag) => found.as_bool() == Some(*flag),
            Self::Number(number) => found.as_f64() == Some(*number),
            Self::Text(text) => found.as_str() == Some(*text),
            Self::Numbers(numbers) => found
                .as_array()
                .is_some_and(|found| found.iter().map(Value::as_f64).eq(numbers.iter().map(|n| Some(*n)))),
        }
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(if *flag { "True" } else { "False" }),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::Numbers(numbers) => write!(f, "{numbers:?}"),
        }
    }
}

/// Settings with one supported value, which is also what the settings of the published detectors of this family have.
pub(super) const FIXED: [(&str, Only); 24] = [
    ("INPUT.PIXEL_STD", Only::Numbers(&[1.0, 1.0, 1.0])),
    ("INPUT.TO_BGR255", Only::Flag(true)),
    // Detectron2's names of the same.
    ("MODEL.PIXEL_STD", Only::Numbers(&[1.0, 1.0, 1.0])),
    ("INPUT.FORMAT", Only::Text("BGR")),
    ("MODEL.META_ARCHITECTURE", Only::Text("GeneralizedRCNN")),
    ("MODEL.RPN_ONLY", Only::Flag(false)),
    ("MODEL.RETINANET_ON", Only::Flag(false)),
    ("MODEL.CLS_AGNOSTIC_BBOX_REG", Only::Flag(false)),
    ("MODEL.BACKBONE.USE_GN", Only::Flag(false)),
    ("MODEL.FPN.USE_GN", Only::Flag(false)),
    ("MODEL.FPN.USE_RELU", Only::Flag(false)),
    ("MODEL.RESNETS.TRANS_FUNC", Only::Text("BottleneckWithFixedBatchNorm")),
    ("MODEL.RESNETS.STEM_FUNC", Only::Text("StemWithFixedBatchNorm")),
    ("MODEL.RESNETS.RES5_DILATION", Only::Number(1.0)),
    ("MODEL.RESNETS.WITH_MODULATED_DCN", Only::Flag(false)),
    ("MODEL.RPN.USE_FPN", Only::Flag(true)),
    ("MODEL.RPN.MIN_SIZE", Only::Number(0.0)),
    ("MODEL.RPN.RPN_HEAD", Only::Text("SingleConvRPNHead")),
    ("MODEL.RPN.FORCE_BOXES", Only::Flag(false)),
    ("MODEL.ROI_HEADS.USE_FPN", Only::Flag(true)),
    ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", Only::Text("FPN2MLPFeatureExtractor")),
    ("MODEL.ROI_BOX_HEAD.PREDICTOR", Only::Text("FPNPredictor")),
    ("MODEL.ROI_BOX_HEAD.USE_GN", Only::Flag(false)),
    ("MODEL.ROI_BOX_HEAD.DILATION", Only::Number(1.0)),
];

/// Settings that are applied to the config or compared with it.
const APPLIED: [&str; 26] = [
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.PIXEL_MEAN",
    "MODEL.PIXEL_MEAN",
    "DATALOADER.SIZE_DIVISIBILITY",
    "MODEL.BACKBONE.CONV_BODY",
    "MODEL.BACKBONE.OUT_CHANNELS",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RPN.ANCHOR_SIZES",
    "MODEL.RPN.ASPECT_RATIOS",
    "MODEL.RPN.ANCHOR_STRIDE",
    "MODEL.RPN.PRE_NMS_TOP_N_TEST",
    "MODEL.RPN.POST_NMS_TOP_N_TEST",
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.NMS",
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
];

/// Settings without influence on region features: where files are, how training went, heads that extraction does not run
/// (a checkpoint with their tensors is refused). A name that ends in a dot covers all names below it.
const WITHOUT_INFLUENCE: [&str; 37] = [
    "AMP_VERBOSE",
    "DATASETS.",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.ASPECT_RATIO_GROUPING",
    "DTYPE",
    "INPUT.BRIGHTNESS",
    "INPUT.CONTRAST",
    "INPUT.HUE",
    "INPUT.SATURATION",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT",
    "MODEL.DEVICE",
    "MODEL.FBNET.",
    "MODEL.GROUP_NORM.",
    "MODEL.KEYPOINT_ON",
    "MODEL.MASK_ON",
    "MODEL.RETINANET.",
    "MODEL.ROI_BOX_HEAD.ATTR",
    "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM",
    "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS",
    "MODEL.ROI_BOX_HEAD.RETURN_FC_FEATS",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    // The regressed boxes are not used.
    "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD",
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_KEYPOINT_HEAD.",
    "MODEL.ROI_MASK_HEAD.",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.BG_IOU_THRESHOLD",
    "MODEL.RPN.FG_IOU_THRESHOLD",
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.RPN.STRADDLE_THRESH",
    "MODEL.WEIGHT",
    "OUTPUT_DIR",
    "PATHS_CATALOG",
    "SOLVER.",
    "TEST.",
];

/// Whether a list here, or training, has the setting.
pub(super) fn is_known(path: &str) -> bool {
    let has = |name: &str| if name.ends_with('.') { path.starts_with(name) } else { path == name };
    path.ends_with("_TRAIN")
        || APPLIED.contains(&path)
        || FIXED.iter().any(|(name, _)| *name == path)
        || WITHOUT_INFLUENCE.iter().any(|name| has(name))
}

/// Whether the setting says which detections are reported. Their boxes are regressed ones; MMF's extraction leaves them and
/// chooses proposals, without a threshold, as many as the stage `regions` has in its param.
pub(super) fn chooses_detections(path: &str) -> bool {
    ["MODEL.ROI_HEADS.SCORE_THRESH", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG"].contains(&path)
}
