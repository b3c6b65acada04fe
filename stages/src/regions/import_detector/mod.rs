//! `import-detector`: a published checkpoint as a weights artifact, with the settings that its own file says. It checks every name and shape: a
//! detector with one random layer still computes features, and no error would show it.

mod settings;

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::weights;
use crate::formats::torch_file;
use crate::models::faster_rcnn::anchors::cell_anchors;
use crate::models::faster_rcnn::{Config, FasterRcnn};

/// The stage.
pub struct ImportDetector;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportDetectorParams {
    /// Dimensions of the checkpoint's model, and how proposals are chosen, which no checkpoint says; X-152 by default.
    #[serde(default = "Config::x152")]
    config: Config,
}

/// Parts of the checkpoint that only its training used.
const TRAINING_ONLY: [&str; 3] = [
    "roi_heads.box.predictor.cls_embed.",
    "roi_heads.box.predictor.attr_linear1.",
    "roi_heads.box.predictor.attr_linear2.",
];
const CELL_ANCHORS: &str = "rpn.anchor_generator.cell_anchors.";

impl Stage for ImportDetector {
    type Params = ImportDetectorParams;
    const NAME: &'static str = "import-detector";
    const ABOUT: &'static str =
        "Turns the published X-152 checkpoint into weights, checking every name and shape.";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[Port::one("checkpoint"), Port::optional("settings")];

    fn check(&self, params: &ImportDetectorParams) -> Result<(), String> {
        params.config.check()
    }

    fn run(&self, params: &ImportDetectorParams, job: &Job) -> Result<(), StageError> {
        let path = job.inputs.one("checkpoint")?;
        let fail = |problem: String| StageError::input("checkpoint", path, problem);
        let mut config = params.config.clone();
        match job.inputs.optional("settings") {
            Some(file) => {
                let report = settings::apply(file, &mut config)
                    .map_err(|problem| StageError::input("settings", file, problem))?;
                report.log(job.progress);
            }
            None => job
                .progress
                .note("no settings file is given: dimensions and the choice of proposals as in params"),
        }
        let file = torch_file::open(path).map_err(fail)?;
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let loaded = file.load(&names.iter().map(String::as_str).collect::<Vec<_>>()).map_err(fail)?;
        job.check_cancelled()?;
        let tensors = take(loaded, &config).map_err(fail)?;
        job.progress.note(&format!("{} tensors, every name and shape as expected", tensors.len()));
        weights::write(job.out, &config, &tensors)?;
        Ok(())
    }
}

/// The detector's tensors out of a checkpoint's, as `f32`, without the prefix `module.`.
///
/// # Errors
/// A tensor that is missing, of another shape, or unknown; anchors that differ from those the config makes.
fn take(
    loaded: impl IntoIterator<Item = (String, Tensor)>,
    config: &Config,
) -> Result<HashMap<String, Tensor>, String> {
    let mut loaded: BTreeMap<String, Tensor> = loaded
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix("module.").unwrap_or(&name).to_owned(), tensor))
        .filter(|(name, _)| !TRAINING_ONLY.iter().any(|part| name.starts_with(part)))
        .collect();
    let mut tensors = HashMap::new();
    for (name, shape) in FasterRcnn::parameters(config).map_err(|error| error.to_string())? {
        let tensor = loaded.remove(&name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        if tensor.dims() != shape {
            return Err(format!("tensor `{name}` is {:?}; the model needs {shape:?}", tensor.dims()));
        }
        let tensor = tensor.to_dtype(DType::F32).map_err(|error| format!("tensor `{name}`: {error}"))?;
        tensors.insert(name, tensor);
    }
    for (level, &size) in config.anchor_sizes.iter().enumerate() {
        if let Some(anchors) = loaded.remove(&format!("{CELL_ANCHORS}{level}")) {
            let found = anchors.to_dtype(DType::F32).and_then(|anchors| anchors.to_vec2::<f32>());
            let expected = cell_anchors(config.stride(level), size, &config.anchor_ratios);
            if found.as_ref().ok() != Some(&expected.iter().map(|corners| corners.to_vec()).collect()) {
                return Err(format!(
                    "the anchors of level {level} are {found:?}; the model needs {expected:?}"
                ));
            }
        }
    }
    match loaded.first_key_value() {
        Some((name, _)) => Err(format!("{} unknown tensors, the first is `{name}`", loaded.len())),
        None => Ok(tensors),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    type Listed = Vec<(String, Tensor)>;

    fn checkpoint(config: &Config) -> Listed {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
        let named = |(name, shape): (String, Vec<usize>)| (format!("module.{name}"), zeros(&shape));
        let mut list: Listed = FasterRcnn::parameters(config).unwrap().into_iter().map(named).collect();
        list.push(("module.roi_heads.box.predictor.cls_embed.weight".to_owned(), zeros(&[3, 2])));
        let anchors = Tensor::new(&[[-13.0f32, -13.0, 16.0, 16.0]], &Device::Cpu).unwrap();
        list.push((format!("module.{CELL_ANCHORS}0"), anchors));
        list
    }

    #[test]
    fn takes_exactly_the_tensors_of_the_detector() {
        let config = Config::mini(5);
        let tensors = take(checkpoint(&config), &config).unwrap();
        assert_eq!(tensors.len(), FasterRcnn::parameters(&config).unwrap().len());
        assert!(tensors.values().all(|tensor| tensor.dtype() == DType::F32));
    }

    #[test]
    fn refuses_any_mismatch_by_name() {
        let config = Config::mini(5);
        let refused = |change: &dyn Fn(&mut Listed)| {
            let mut list = checkpoint(&config);
            change(&mut list);
            take(list, &config).unwrap_err()
        };
        let stem = "`backbone.body.stem.conv1.weight`";
        assert!(refused(&|list| drop(list.remove(0))).contains(&format!("{stem} is missing")));
        assert!(refused(&|list| list[0].1 = list[1].1.clone()).contains(&format!("{stem} is [24]")));
        assert!(refused(&|list| list[2].0 = "x".to_owned()).contains("bn1.bias` is missing"));
        assert!(refused(&|list| list.push(("x".to_owned(), list[0].1.clone()))).contains("first is `x`"));
        let moved = |list: &mut Listed| {
            let last = list.len() - 1;
            list[last].1 = (&list[last].1 + 1.0).unwrap();
        };
        assert!(refused(&moved).contains("anchors of level 0"));
    }

    #[test]
    fn reads_both_layouts_and_names_the_file_it_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import_model");
        let expected = [
            ("zip.pth", "tensor `backbone.body.stem.conv1.weight` is missing"),
            ("old.pth", "tensor `backbone.body.stem.conv1.weight` is missing"),
            ("make.py", "is not a torch file of either layout"),
        ];
        for (name, problem) in expected {
            let path = fixtures.join(name);
            let inputs = [("checkpoint", path.as_path())];
            let out = dir.path().join("out");
            let error = stage_api::testing::run_stage(&ImportDetector, "()", &inputs, &out).err().unwrap();
            let error = error.to_string();
            assert!(error.contains(name) && error.contains(problem), "{error}");
        }
    }
}
