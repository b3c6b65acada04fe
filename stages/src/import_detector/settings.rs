//! The settings of a detector as maskrcnn-benchmark keeps them: YAML, lists also as Python's tuples in text.
//!
//! A setting that changes region features is applied to the config, or refused by name where the detector knows one value of
//! it. The others are training's, or belong to what MMF's extraction does not read. A name in none of these lists is reported.

mod names;

use std::path::Path;

use serde_json::Value;
use stage_api::Progress;

use crate::file_kind;
use crate::models::faster_rcnn::Config;

/// Blocks of the stages by the name of the body.
const BODIES: [(&str, [usize; 4]); 3] =
    [("R-50", [3, 4, 6, 3]), ("R-101", [3, 4, 23, 3]), ("R-152", [3, 8, 36, 3])];

/// What a settings file leaves to say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Names of applied settings that the file does not have.
    pub(super) silent: Vec<&'static str>,
    /// Settings of the file that no list knows. They are not used.
    pub(super) unknown: Vec<String>,
    /// Settings of the file that choose detections. Regions are chosen by MMF's rule instead.
    pub(super) unused: Vec<String>,
    /// Applied values that differ from those of MMF's extraction, which does not read them from the file.
    pub(super) differing: Vec<String>,
}

impl Report {
    pub(super) fn log(&self, progress: &dyn Progress) {
        let Self { silent, unknown, unused, differing } = self;
        if !silent.is_empty() {
            progress.note(&format!("the settings do not say {}: as in params", silent.join(", ")));
        }
        if !unused.is_empty() {
            progress.note(&format!(
                "not used: {}; regions are chosen as MMF's extraction does, by the params of `regions`",
                unused.join(", ")
            ));
        }
        if !unknown.is_empty() {
            progress.warn(&format!("settings that are not known, and not used: {}", unknown.join(", ")));
        }
        if !differing.is_empty() {
            progress.warn(&format!(
                "{}; the settings are followed, MMF's extraction does not read these from them",
                differing.join("; ")
            ));
        }
    }
}

/// Puts what `file` says into `config`.
///
/// # Errors
/// A file that cannot be read, a setting of another type, a value that the detector does not have, dimensions that make no
/// sense.
pub(super) fn apply(file: &Path, config: &mut Config) -> Result<Report, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    if let Some(problem) = file_kind::placeholder(text.as_bytes()) {
        return Err(problem);
    }
    let root: Value = serde_saphyr::from_str(&text).map_err(|error| format!("is no YAML: {error}"))?;
    let mut settings = Settings { root, silent: Vec::new() };
    settings.check_supported()?;
    settings.apply_network(config)?;
    settings.apply_proposals(config)?;
    let differing = settings.apply_extraction(config)?;
    config.check()?;
    let (unknown, unused) = settings.not_applied();
    Ok(Report { silent: settings.silent, unknown, unused, differing })
}

struct Settings {
    root: Value,
    /// Last parts of the names of what was asked for and not found.
    silent: Vec<&'static str>,
}

impl Settings {
    /// Refuses settings whose value the detector does not have.
    fn check_supported(&self) -> Result<(), String> {
        if self.root.get("_BASE_").is_some() {
            return Err(
                "_BASE_ names another file, which is not read: put all settings into this one".to_owned()
            );
        }
        for (path, only) in names::FIXED {
            if let Some(found) = self.get(path)?
                && !only.is(&found)
            {
                return Err(format!("{path} is `{}`; only `{only}` is supported", plain(&found)));
            }
        }
        Ok(())
    }

    /// Dimensions of body, pyramid and box head.
    fn apply_network(&mut self, config: &mut Config) -> Result<(), String> {
        if let Some(body) = self.find("MODEL.BACKBONE.CONV_BODY")? {
            let body = body.as_str().unwrap_or_default().to_owned();
            let blocks =
                BODIES.iter().find(|(name, _)| body.strip_prefix(name).is_some_and(|rest| rest == "-FPN"));
            let Some((_, blocks)) = blocks else {
                return Err(format!("CONV_BODY is `{body}`; R-50-FPN, R-101-FPN and R-152-FPN are known"));
            };
            config.blocks = blocks.to_vec();
        }
        self.number("MODEL.RESNETS.NUM_GROUPS", &mut config.groups)?;
        self.number("MODEL.RESNETS.WIDTH_PER_GROUP", &mut config.width_per_group)?;
        self.number("MODEL.RESNETS.STEM_OUT_CHANNELS", &mut config.stem_width)?;
        let mut first = config.stage_widths.first().copied().unwrap_or(256);
        self.number("MODEL.RESNETS.RES2_OUT_CHANNELS", &mut first)?;
        config.stage_widths =
            (0..config.blocks.len()).map(|stage| first.saturating_mul(1 << stage)).collect();
        // Older files say here how wide the pyramid is, newer ones under BACKBONE.
        let widths = ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "MODEL.BACKBONE.OUT_CHANNELS"];
        let width = if self.get(widths[1])?.is_some() { widths[1] } else { widths[0] };
        self.number(width, &mut config.pyramid_width)?;
        if let Some(flag) = self.find("MODEL.RESNETS.STRIDE_IN_1X1")? {
            config.stride_in_1x1 = flag.as_bool().ok_or("STRIDE_IN_1X1 is neither True nor False")?;
        }
        self.number("MODEL.ROI_BOX_HEAD.NUM_CLASSES", &mut config.classes)?;
        self.number("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", &mut config.head_width)?;
        self.number("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", &mut config.pooled_size)?;
        self.number("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", &mut config.sampling_ratio)?;
        let scales = (0..config.blocks.len()).map(|level| 1.0 / config.stride(level) as f64).collect();
        self.check_equal("MODEL.ROI_BOX_HEAD.POOLER_SCALES", scales)
    }

    /// Anchors, and how proposals are chosen from them.
    fn apply_proposals(&mut self, config: &mut Config) -> Result<(), String> {
        self.numbers("MODEL.RPN.ANCHOR_SIZES", &mut config.anchor_sizes)?;
        self.numbers("MODEL.RPN.ASPECT_RATIOS", &mut config.anchor_ratios)?;
        let strides = (0..config.anchor_sizes.len()).map(|level| config.stride(level) as f64).collect();
        self.find("MODEL.RPN.ANCHOR_STRIDE")?;
        self.check_equal("MODEL.RPN.ANCHOR_STRIDE", strides)?;
        self.number("MODEL.RPN.PRE_NMS_TOP_N_TEST", &mut config.proposals.before_nms)?;
        self.number("MODEL.RPN.POST_NMS_TOP_N_TEST", &mut config.proposals.after_nms)?;
        self.number("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", &mut config.proposals.over_levels)?;
        if let Some(overlap) = self.find("MODEL.RPN.NMS_THRESH")? {
            config.proposals.nms = overlap.as_f64().ok_or("NMS_THRESH is no number")? as f32;
        }
        Ok(())
    }

    /// What MMF's extraction has as constants: a file without these leaves nothing open. Returns what the file changes.
    fn apply_extraction(&mut self, config: &mut Config) -> Result<Vec<String>, String> {
        let mut differing = Vec::new();
        for (path, field) in [
            ("INPUT.MIN_SIZE_TEST", &mut config.min_size),
            ("INPUT.MAX_SIZE_TEST", &mut config.max_size),
            ("DATALOADER.SIZE_DIVISIBILITY", &mut config.size_divisor),
        ] {
            if let Some(found) = self.get(path)? {
                let number = whole(path, &found)?;
                if number != *field {
                    differing.push(format!("{path} is {number}, not {field}"));
                }
                *field = number;
            }
        }
        for path in ["INPUT.PIXEL_MEAN", "MODEL.PIXEL_MEAN"] {
            if let Some(found) = self.get(path)? {
                let means = list(path, &found)?.iter().map(|mean| *mean as f32).collect::<Vec<_>>();
                let means = <[f32; 3]>::try_from(means)
                    .map_err(|means| format!("{path} has {} numbers; it must have 3", means.len()))?;
                if means != config.means_bgr {
                    differing.push(format!("{path} is {means:?}, not {:?}", config.means_bgr));
                }
                config.means_bgr = means;
            }
        }
        let path = "MODEL.ROI_HEADS.NMS";
        if let Some(found) = self.get(path)? {
            let overlap =
                found.as_f64().ok_or_else(|| format!("{path} is `{}`, no number", plain(&found)))? as f32;
            if overlap != config.class_nms {
                differing.push(format!("{path} is {overlap}, not {}", config.class_nms));
            }
            config.class_nms = overlap;
        }
        Ok(differing)
    }

    /// Settings that no list knows, and those that choose detections.
    fn not_applied(&self) -> (Vec<String>, Vec<String>) {
        let (mut unknown, mut unused) = (Vec::new(), Vec::new());
        leaves(&self.root, String::new(), &mut |path| {
            if names::chooses_detections(&path) {
                unused.push(path);
            } else if !names::is_known(&path) {
                unknown.push(path);
            }
        });
        (unknown, unused)
    }

    /// A value; a tuple in text as a list.
    fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let Some(value) = path.split('.').try_fold(&self.root, |value, part| value.get(part)) else {
            return Ok(None);
        };
        match value.as_str().map(str::trim) {
            Some(text) if text.starts_with(['(', '[']) => {
                let inside = text.trim_matches(['(', ')', '[', ']', ' ', ',']);
                // Python's `1.` is no number of JSON.
                let numbers: Result<Vec<f64>, _> =
                    inside.split(',').map(|number| number.trim().parse()).collect();
                numbers
                    .map(|numbers| Some(numbers.into()))
                    .map_err(|_| format!("{path} is `{text}`, no list of numbers"))
            }
            _ => Ok(Some(value.clone())),
        }
    }

    /// A value that the config needs.
    fn find(&mut self, path: &'static str) -> Result<Option<Value>, String> {
        let found = self.get(path)?;
        if found.is_none() {
            self.silent.push(path.rsplit('.').next().unwrap_or(path));
        }
        Ok(found)
    }

    fn number(&mut self, path: &'static str, into: &mut usize) -> Result<(), String> {
        if let Some(value) = self.find(path)? {
            *into = whole(path, &value)?;
        }
        Ok(())
    }

    fn numbers(&mut self, path: &'static str, into: &mut Vec<f64>) -> Result<(), String> {
        if let Some(value) = self.find(path)? {
            *into = list(path, &value)?;
        }
        Ok(())
    }

    /// Refuses a list that differs from what the other settings lead to.
    fn check_equal(&self, path: &str, expected: Vec<f64>) -> Result<(), String> {
        match self.get(path)?.map(|value| list(path, &value)).transpose()? {
            Some(found) if found != expected => {
                Err(format!("{path} is {found:?}; only {expected:?} is supported"))
            }
            _ => Ok(()),
        }
    }
}

fn whole(path: &str, value: &Value) -> Result<usize, String> {
    let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
    number.ok_or_else(|| format!("{path} is `{}`, no whole number", plain(value)))
}

fn list(path: &str, value: &Value) -> Result<Vec<f64>, String> {
    let list = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<_>>());
    list.ok_or_else(|| format!("{path} is `{}`, no list of numbers", plain(value)))
}

/// A value for a message: text without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Calls `take` with the path of each value that is not a mapping.
fn leaves(value: &Value, path: String, take: &mut impl FnMut(String)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(value, path, take);
            }
        }
        _ => take(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply_text(text: &str, config: &mut Config) -> Result<Report, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.yaml");
        std::fs::write(&file, text).unwrap();
        apply(&file, config)
    }

    #[test]
    fn the_stand_in_for_them_says_everything() {
        let text = crate::stand_in::settings(&Config::x152());
        let mut config = Config { blocks: vec![1; 4], groups: 1, classes: 2, ..Config::x152() };
        config.proposals.before_nms = 7;
        assert_eq!(apply_text(&text, &mut config).unwrap(), Report::default());
        assert_eq!(config, Config::x152());
    }

    #[test]
    fn a_file_of_the_original_s_form_says_the_dimensions() {
        // An X-101 with a narrower pyramid, as the siblings of the published file are written.
        let text = "MODEL:\n  META_ARCHITECTURE: \"GeneralizedRCNN\"\n  BACKBONE:\n    CONV_BODY: \"R-101-FPN\"\n    OUT_CHANNELS: 256\n  \
            RPN:\n    USE_FPN: True\n    ANCHOR_STRIDE: (4, 8, 16, 32, 64)\n    ANCHOR_SIZES: (16, 32, 64, 128, 256,)\n    \
            PRE_NMS_TOP_N_TEST: 1000\n    FPN_POST_NMS_TOP_N_TEST: 1000\n  ROI_BOX_HEAD:\n    NUM_CLASSES: 1601\n    \
            POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)\n    MLP_HEAD_DIM: 1024\n  RESNETS:\n    STRIDE_IN_1X1: False\n    \
            NUM_GROUPS: 32\n    WIDTH_PER_GROUP: 8\nDATALOADER:\n  SIZE_DIVISIBILITY: 32\n";
        let mut config = Config::x152();
        let Report { silent, unknown, .. } = apply_text(text, &mut config).unwrap();
        assert_eq!(unknown, [""; 0]);
        let expected = Config {
            blocks: vec![3, 4, 23, 3],
            pyramid_width: 256,
            head_width: 1024,
            anchor_sizes: vec![16.0, 32.0, 64.0, 128.0, 256.0],
            proposals: crate::models::faster_rcnn::config::Proposals {
                before_nms: 1000,
                over_levels: 1000,
                ..Config::x152().proposals
            },
            ..Config::x152()
        };
        assert_eq!(config, expected);
        for name in ["POST_NMS_TOP_N_TEST", "NMS_THRESH", "ASPECT_RATIOS"] {
            assert!(silent.contains(&name), "{silent:?}");
        }
        assert!(!silent.contains(&"NUM_GROUPS"));
    }

    #[test]
    fn what_a_picture_s_canvas_and_its_regions_depend_on_is_applied() {
        let text = "INPUT:\n  MIN_SIZE_TRAIN: (600,)\n  MIN_SIZE_TEST: 600\n  MAX_SIZE_TEST: 1000\n  \
            PIXEL_MEAN: (103.53, 116.28, 123.)\n  PIXEL_STD: [1., 1., 1.]\n  TO_BGR255: True\n\
            DATALOADER:\n  SIZE_DIVISIBILITY: 64\nMODEL:\n  ROI_HEADS:\n    NMS: 0.3\n";
        let mut config = Config::x152();
        let differing = apply_text(text, &mut config).unwrap().differing;
        let expected = Config {
            min_size: 600,
            max_size: 1000,
            size_divisor: 64,
            means_bgr: [103.53, 116.28, 123.0],
            class_nms: 0.3,
            ..Config::x152()
        };
        assert_eq!(config, expected);
        assert_eq!(
            differing,
            [
                "INPUT.MIN_SIZE_TEST is 600, not 800",
                "INPUT.MAX_SIZE_TEST is 1000, not 1333",
                "DATALOADER.SIZE_DIVISIBILITY is 64, not 32",
                "INPUT.PIXEL_MEAN is [103.53, 116.28, 123.0], not [102.9801, 115.9465, 122.7717]",
                "MODEL.ROI_HEADS.NMS is 0.3, not 0.5",
            ]
        );
        // The same values as MMF's extraction has are nothing to report.
        let same = "INPUT:\n  MIN_SIZE_TEST: 800\n  MAX_SIZE_TEST: 1333\n  PIXEL_MEAN: [102.9801, 115.9465, 122.7717]\n\
            DATALOADER:\n  SIZE_DIVISIBILITY: 32\nMODEL:\n  ROI_HEADS:\n    NMS: 0.5\n";
        let mut config = Config::x152();
        assert_eq!(apply_text(same, &mut config).unwrap().differing, [""; 0]);
        assert_eq!(config, Config::x152());
    }

    #[test]
    fn a_value_that_the_detector_does_not_have_is_refused_by_name() {
        for (path, found, only) in [
            ("INPUT.PIXEL_STD", "[57.375,57.12,58.395]", "[1.0, 1.0, 1.0]"),
            ("INPUT.PIXEL_STD", "(57.375, 57.12, 58.395)", "[1.0, 1.0, 1.0]"),
            ("MODEL.PIXEL_STD", "[2.0,2.0,2.0]", "[1.0, 1.0, 1.0]"),
            ("INPUT.TO_BGR255", "false", "True"),
            ("INPUT.FORMAT", "RGB", "BGR"),
            ("MODEL.META_ARCHITECTURE", "AttrRCNN", "GeneralizedRCNN"),
            ("MODEL.RPN_ONLY", "true", "False"),
            ("MODEL.FPN.USE_RELU", "true", "False"),
            ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN", "BottleneckWithFixedBatchNorm"),
            ("MODEL.RESNETS.RES5_DILATION", "2", "1"),
            ("MODEL.RPN.MIN_SIZE", "16", "0"),
            ("MODEL.RPN.USE_FPN", "false", "True"),
            (
                "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR",
                "FPNXconv1fcFeatureExtractor",
                "FPN2MLPFeatureExtractor",
            ),
        ] {
            let parts: Vec<&str> = path.split('.').collect();
            let mut text = String::new();
            for (depth, part) in parts.iter().enumerate() {
                text += &format!(
                    "{}{part}:{}",
                    "  ".repeat(depth),
                    if depth + 1 < parts.len() { "\n" } else { "" }
                );
            }
            let refused = apply_text(&format!("{text} {found}\n"), &mut Config::x152()).unwrap_err();
            assert!(refused.starts_with(&format!("{path} is `")), "{refused}");
            assert!(refused.ends_with(&format!("; only `{only}` is supported")), "{refused}");
            if !found.starts_with('(') {
                assert!(refused.contains(&format!("`{found}`")), "{refused}");
            }
        }
    }

    #[test]
    fn what_is_not_applied_is_named() {
        let text = "MODEL:\n  ROI_HEADS:\n    SCORE_THRESH: 0.2\n    DETECTIONS_PER_IMG: 600\n    NMS_FILTER: 1\n\
            INPUT:\n  MIN_SIZE_TSET: 600\n  MAX_SIZE_TRAIN: 1000\nSOLVER:\n  BASE_LR: 0.005\nTEST:\n  IMS_PER_BATCH: 1\n";
        let mut config = Config::x152();
        let mut report = apply_text(text, &mut config).unwrap();
        report.unknown.sort();
        report.unused.sort();
        assert_eq!(report.unknown, ["INPUT.MIN_SIZE_TSET", "MODEL.ROI_HEADS.NMS_FILTER"]);
        assert_eq!(report.unused, ["MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "MODEL.ROI_HEADS.SCORE_THRESH"]);
        assert_eq!(config, Config::x152());
    }

    #[test]
    fn no_depth_and_no_alias_takes_stack_or_memory() {
        let deep = "[".repeat(300_000);
        let nested = (0..300_000).map(|_| "- ").collect::<String>();
        let mut doubled = "a0: &a0 [x, x]\n".to_owned();
        for level in 1..60 {
            doubled += &format!("a{level}: &a{level} [*a{}, *a{}]\n", level - 1, level - 1);
        }
        for text in [deep, nested, doubled] {
            let error = apply_text(&text, &mut Config::x152()).unwrap_err();
            assert!(error.contains("is no YAML"), "{error}");
        }
        let error = apply_text("<!doctype html>Log in", &mut Config::x152()).unwrap_err();
        assert!(error.contains("web page (`Log in`)"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, problem) in [
            ("a: [", "is no YAML"),
            ("MODEL:\n  BACKBONE:\n    CONV_BODY: R-50-C4", "CONV_BODY is `R-50-C4`"),
            ("MODEL:\n  RESNETS:\n    NUM_GROUPS: many", "NUM_GROUPS is"),
            ("MODEL:\n  RPN:\n    ANCHOR_SIZES: (a, b)", "ANCHOR_SIZES is `(a, b)`"),
            ("MODEL:\n  RPN:\n    ANCHOR_STRIDE: (16,)", "ANCHOR_STRIDE"),
            ("MODEL:\n  ROI_BOX_HEAD:\n    NUM_CLASSES: 0", "classes"),
            (
                "MODEL:\n  ROI_BOX_HEAD:\n    POOLER_SCALES: (0.0625,)",
                "MODEL.ROI_BOX_HEAD.POOLER_SCALES is [0.0625]",
            ),
            ("MODEL:\n  ROI_HEADS:\n    NMS: 1.5", "`class_nms` is 1.5"),
            ("MODEL:\n  ROI_HEADS:\n    NMS: tight", "MODEL.ROI_HEADS.NMS is `tight`, no number"),
            ("INPUT:\n  MIN_SIZE_TEST: (600, 800)", "INPUT.MIN_SIZE_TEST is"),
            ("INPUT:\n  MIN_SIZE_TEST: 600\n  MAX_SIZE_TEST: 500", "`max_size` must not be below"),
            ("INPUT:\n  PIXEL_MEAN: [103.5, 116.3]", "INPUT.PIXEL_MEAN has 2 numbers; it must have 3"),
            ("INPUT:\n  PIXEL_MEAN: grey", "INPUT.PIXEL_MEAN is `grey`, no list of numbers"),
            ("DATALOADER:\n  SIZE_DIVISIBILITY: 24", "`size_divisor` must be a multiple of 32"),
            ("_BASE_: base.yaml", "_BASE_ names another file"),
        ] {
            let error = apply_text(text, &mut Config::x152()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
