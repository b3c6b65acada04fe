//! The settings of a detector as maskrcnn-benchmark keeps them: YAML, lists also as Python's tuples in text.
//!
//! A setting that changes region features is applied to the config, or refused by name where the detector knows one value of
//! it. The others are training's, or belong to what MMF's extraction does not read. A name in none of these lists is reported.

mod names;

use std::path::Path;

use serde_json::Value;
use stage_api::Progress;

use crate::formats::file_kind;
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
mod tests;
