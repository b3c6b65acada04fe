//! The settings of a detector as maskrcnn-benchmark keeps them: YAML, lists also as Python's tuples in text. It knows which
//! of them matter for extraction, and says which of those a file leaves open.

use std::path::Path;

use serde_json::Value;

use crate::formats::file_kind;
use crate::models::faster_rcnn::Config;

/// Blocks of the stages by the name of the body.
const BODIES: [(&str, [usize; 4]); 3] =
    [("R-50", [3, 4, 6, 3]), ("R-101", [3, 4, 23, 3]), ("R-152", [3, 8, 36, 3])];

/// Puts what `file` says into `config`; returns the names of what it does not say.
///
/// # Errors
/// A file that cannot be read, a setting of another kind, a body that is not known, dimensions that make no sense.
pub(super) fn apply(file: &Path, config: &mut Config) -> Result<Vec<&'static str>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    if let Some(problem) = file_kind::placeholder(text.as_bytes()) {
        return Err(problem);
    }
    let root: Value = serde_saphyr::from_str(&text).map_err(|error| format!("is no YAML: {error}"))?;
    let mut settings = Settings { root, silent: Vec::new() };
    if let Some(body) = settings.find("MODEL.BACKBONE.CONV_BODY")? {
        let body = body.as_str().unwrap_or_default().to_owned();
        let blocks =
            BODIES.iter().find(|(name, _)| body.strip_prefix(name).is_some_and(|rest| rest == "-FPN"));
        let Some((_, blocks)) = blocks else {
            return Err(format!("CONV_BODY is `{body}`; R-50-FPN, R-101-FPN and R-152-FPN are known"));
        };
        config.blocks = blocks.to_vec();
    }
    settings.number("MODEL.RESNETS.NUM_GROUPS", &mut config.groups)?;
    settings.number("MODEL.RESNETS.WIDTH_PER_GROUP", &mut config.width_per_group)?;
    settings.number("MODEL.RESNETS.STEM_OUT_CHANNELS", &mut config.stem_width)?;
    let mut first = config.stage_widths.first().copied().unwrap_or(256);
    settings.number("MODEL.RESNETS.RES2_OUT_CHANNELS", &mut first)?;
    config.stage_widths = (0..config.blocks.len()).map(|stage| first.saturating_mul(1 << stage)).collect();
    // Older files say here how wide the pyramid is, newer ones under BACKBONE.
    let widths = ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "MODEL.BACKBONE.OUT_CHANNELS"];
    let width = if settings.is_there(widths[1]) { widths[1] } else { widths[0] };
    settings.number(width, &mut config.pyramid_width)?;
    if let Some(flag) = settings.find("MODEL.RESNETS.STRIDE_IN_1X1")? {
        config.stride_in_1x1 = flag.as_bool().ok_or("STRIDE_IN_1X1 is neither True nor False")?;
    }
    settings.numbers("MODEL.RPN.ANCHOR_SIZES", &mut config.anchor_sizes)?;
    settings.numbers("MODEL.RPN.ASPECT_RATIOS", &mut config.anchor_ratios)?;
    let mut strides: Vec<f64> =
        (0..config.anchor_sizes.len()).map(|level| config.stride(level) as f64).collect();
    let expected = strides.clone();
    settings.numbers("MODEL.RPN.ANCHOR_STRIDE", &mut strides)?;
    if strides != expected {
        return Err(format!("ANCHOR_STRIDE is {strides:?}; only {expected:?} is known"));
    }
    settings.number("MODEL.RPN.PRE_NMS_TOP_N_TEST", &mut config.proposals.before_nms)?;
    settings.number("MODEL.RPN.POST_NMS_TOP_N_TEST", &mut config.proposals.after_nms)?;
    settings.number("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", &mut config.proposals.over_levels)?;
    if let Some(overlap) = settings.find("MODEL.RPN.NMS_THRESH")? {
        config.proposals.nms = overlap.as_f64().ok_or("NMS_THRESH is no number")? as f32;
    }
    settings.number("MODEL.ROI_BOX_HEAD.NUM_CLASSES", &mut config.classes)?;
    settings.number("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", &mut config.head_width)?;
    settings.number("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", &mut config.pooled_size)?;
    settings.number("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", &mut config.sampling_ratio)?;
    config.check()?;
    Ok(settings.silent)
}

struct Settings {
    root: Value,
    /// Last parts of the names of what was asked for and not found.
    silent: Vec<&'static str>,
}

impl Settings {
    fn is_there(&self, path: &str) -> bool {
        path.split('.').try_fold(&self.root, |value, part| value.get(part)).is_some()
    }

    /// A value; a tuple in text as a list.
    fn find(&mut self, path: &'static str) -> Result<Option<Value>, String> {
        let name = path.rsplit('.').next().unwrap_or(path);
        let Some(value) = path.split('.').try_fold(&self.root, |value, part| value.get(part)) else {
            self.silent.push(name);
            return Ok(None);
        };
        match value.as_str().map(str::trim) {
            Some(text) if text.starts_with(['(', '[']) => {
                let inside = text.trim_matches(['(', ')', '[', ']', ' ', ',']);
                let list = format!("[{inside}]");
                serde_json::from_str(&list)
                    .map(Some)
                    .map_err(|_| format!("{name} is `{text}`, no list of numbers"))
            }
            _ => Ok(Some(value.clone())),
        }
    }

    fn number(&mut self, path: &'static str, into: &mut usize) -> Result<(), String> {
        if let Some(value) = self.find(path)? {
            let found = value.as_u64().and_then(|value| usize::try_from(value).ok());
            *into = found.ok_or_else(|| format!("{path} is `{value}`, no whole number"))?;
        }
        Ok(())
    }

    fn numbers(&mut self, path: &'static str, into: &mut Vec<f64>) -> Result<(), String> {
        if let Some(value) = self.find(path)? {
            let list =
                value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect::<Option<_>>());
            *into = list.ok_or_else(|| format!("{path} is `{value}`, no list of numbers"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply_text(text: &str, config: &mut Config) -> Result<Vec<&'static str>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("settings.yaml");
        std::fs::write(&file, text).unwrap();
        apply(&file, config)
    }

    #[test]
    fn the_stand_in_for_them_says_everything() {
        let text = crate::acquire::stand_in::settings(&Config::x152());
        let mut config = Config { blocks: vec![1; 4], groups: 1, classes: 2, ..Config::x152() };
        config.proposals.before_nms = 7;
        assert_eq!(apply_text(&text, &mut config).unwrap(), [""; 0]);
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
        let silent = apply_text(text, &mut config).unwrap();
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
        ] {
            let error = apply_text(text, &mut Config::x152()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
