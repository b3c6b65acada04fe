//! Region features for MMF: its LMDB, or its folder of `.npy` files. It knows files and their names; the form of a value
//! is the artifact's.
//!
//! MMF's files also have the probability of each class. The step keeps none: they follow from the features by the last two
//! layers of the detector that the step read.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use stage_api::{InputView, StageError, ToolContext};

use crate::artifacts::region_features::{PictureRegions, RegionFeatures};
use crate::artifacts::{mmf_writer, weights};
use crate::formats::lmdb::LmdbWriter;
use crate::host::device;
use crate::models::faster_rcnn::{ClassScores, Config};
use crate::nn::{Loader, ParamStore};

/// The port by which a step reads the detector of its features.
const DETECTOR: &str = "detector";

/// The features that a step wrote.
pub(super) struct Features {
    regions: RegionFeatures,
    /// The device and the layers that give class probabilities, where the step read a detector.
    classes: Option<(Device, ClassScores)>,
}

impl Features {
    /// Opens the features of a step.
    ///
    /// # Errors
    /// Results that are not there, or that do not belong together.
    pub(super) fn open(context: &ToolContext, step: &str) -> Result<Self, StageError> {
        let regions = RegionFeatures::open(&context.results.output(step)?)?;
        let view = context.results.steps().into_iter().find(|view| view.name == step);
        let input = view.as_ref().and_then(|view| view.inputs.iter().find(|input| input.port == DETECTOR));
        let Some(detector) = input.and_then(InputView::step) else {
            context.progress.note(&format!(
                "`cls_prob` is None: `{step}` reads no step's detector, which would give the classes' probabilities"
            ));
            return Ok(Self { regions, classes: None });
        };
        let part = input.and_then(|input| input.source.split_once('/')).map_or("", |(_, part)| part);
        let dir = context.results.output(detector)?.join(part);
        let fail = |problem: String| StageError::input(DETECTOR, &dir, problem);
        let config: Config = weights::read_config(&dir)?;
        if config.head_width != regions.width {
            return Err(fail(format!(
                "its features have {} values, those of `{step}` have {}",
                config.head_width, regions.width
            )));
        }
        let device = device::open(&context.host.device)?;
        let tensors = device::upload(weights::read_tensors(&dir)?, &device)?;
        let load = || {
            let params = ParamStore::new(tensors, |_| false)?;
            ClassScores::load(&config, &Loader::new(&params).pp("roi_heads.box"))
        };
        let scores = load().map_err(|error| fail(error.to_string()))?;
        Ok(Self { regions, classes: Some((device, scores)) })
    }

    /// The probability of each class but the background, a row for each region.
    fn probabilities(&self, picture: &PictureRegions) -> Result<Option<Vec<f32>>, StageError> {
        let Some((device, scores)) = &self.classes else { return Ok(None) };
        let rows = picture.boxes.len();
        let compute = || {
            let features = Tensor::from_slice(&picture.features, (rows, self.regions.width), device)?;
            let probabilities = scores.probabilities(&features)?;
            let classes = probabilities.dim(1)?;
            let values = scores.compute().values(&probabilities)?;
            Ok(values.chunks(classes).flat_map(|row| row[1..].iter().copied()).collect())
        };
        compute().map(Some).map_err(|error| device::failed("class probabilities", &error))
    }
}

/// Writes MMF's LMDB into the folder `out`.
pub(super) fn lmdb(features: &Features, out: &Path, context: &ToolContext) -> Result<(), StageError> {
    refuse_existing(out)?;
    let fail = |problem: String| StageError::failed(format!("{}: {problem}", out.join("data.mdb").display()));
    let mut writer = LmdbWriter::create(out).map_err(fail)?;
    let mut keys = Vec::new();
    each(features, context, |stem, picture, probabilities| {
        keys.push(stem.as_bytes().to_vec());
        writer.put(stem.as_bytes(), &mmf_writer::value(stem, picture, probabilities)).map_err(fail)
    })?;
    writer.put(b"keys", &mmf_writer::keys(&keys)).map_err(fail)?;
    writer.finish().map_err(fail)
}

/// Writes `<stem>.npy` and `<stem>_info.npy` into the folder `out`.
pub(super) fn npy(features: &Features, out: &Path, context: &ToolContext) -> Result<(), StageError> {
    refuse_existing(out)?;
    fs::create_dir_all(out).map_err(|error| StageError::failed(format!("{}: {error}", out.display())))?;
    each(features, context, |stem, picture, probabilities| {
        let (values, info) = mmf_writer::files(picture, probabilities);
        super::write(&out.join(format!("{stem}.npy")), &values)?;
        super::write(&out.join(format!("{stem}_info.npy")), &info)
    })
}

fn refuse_existing(out: &Path) -> Result<(), StageError> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(StageError::Params(format!("--out {} is not empty; name a new folder", out.display())));
    }
    Ok(())
}

/// Calls `write` with the stem of each picture's name, which MMF looks it up by, its regions and their probabilities.
fn each(
    features: &Features,
    context: &ToolContext,
    mut write: impl FnMut(&str, &PictureRegions, Option<&[f32]>) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let images = features.regions.images();
    let mut stems = HashSet::new();
    for (number, (image, at)) in images.iter().enumerate() {
        if context.progress.cancelled() {
            return Err(StageError::Cancelled);
        }
        let stem = image.split('.').next().unwrap_or(image);
        if !stems.insert(stem) {
            return Err(StageError::failed(format!(
                "two pictures are called `{stem}` without their endings"
            )));
        }
        let picture = features.regions.picture(*at);
        write(stem, &picture, features.probabilities(&picture)?.as_deref())?;
        context.progress.advance(number as u64 + 1, images.len() as u64, stage_api::Unit::Items);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use stage_api::testing::Recorder;
    use stage_api::{AllowedEnv, Host, Results, StepView};

    use super::*;
    use crate::artifacts::region_features::{Layout, RegionWriter};
    use crate::formats::lmdb::Lmdb;
    use crate::formats::mmf_features::{MmfFeatures, read_files, read_value};
    use crate::models::faster_rcnn::FasterRcnn;
    use crate::nn::cpu_tensor::cpu_vec;

    /// `regions` with what it read at the port of the detector, and `detector`.
    struct Project {
        dir: PathBuf,
        reads: Option<&'static str>,
    }

    impl Results for Project {
        fn root(&self) -> &Path {
            &self.dir
        }
        fn file(&self) -> &Path {
            &self.dir
        }
        fn profile(&self) -> &str {
            "mini"
        }
        fn steps(&self) -> Vec<StepView> {
            let read = self.reads.map(|source| InputView {
                port: DETECTOR.to_owned(),
                source: source.to_owned(),
                digest: None,
            });
            let inputs = read.into_iter().collect();
            vec![StepView { name: "regions".to_owned(), inputs, ..StepView::default() }]
        }
        fn output(&self, step: &str) -> Result<PathBuf, StageError> {
            Ok(self.dir.join(step))
        }
    }

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1000) as f32 / 1000.0 - 0.5).collect()
    }

    /// The box head's last layers in double precision, one value after the other.
    fn probabilities(feature: &[f32], tensors: &HashMap<String, Tensor>) -> Vec<f64> {
        let layer = |name: &str, x: &[f64]| -> Vec<f64> {
            let get = |kind: &str| cpu_vec(&tensors[&format!("roi_heads.box.{name}.{kind}")]).unwrap();
            let (weight, bias) = (get("weight"), get("bias"));
            let rows = weight.chunks(x.len()).zip(&bias);
            rows.map(|(row, bias)| {
                f64::from(*bias) + row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>()
            })
            .collect()
        };
        let x: Vec<f64> = feature.iter().map(|value| f64::from(*value)).collect();
        let hidden: Vec<f64> =
            layer("feature_extractor.fc7", &x).iter().map(|value| value.max(0.0)).collect();
        let logits = layer("predictor.cls_score", &hidden);
        let exponentials: Vec<f64> = logits.iter().map(|logit| libm::exp(*logit)).collect();
        let sum: f64 = exponentials.iter().sum();
        exponentials[1..].iter().map(|value| value / sum).collect()
    }

    #[test]
    fn class_probabilities_are_those_of_the_detector() {
        let dir = tempfile::tempdir().unwrap();
        let project = |reads| Project { dir: dir.path().to_owned(), reads };
        let config = Config::mini(5);
        let named = |(at, (name, shape)): (usize, (String, Vec<usize>))| {
            let tensor = Tensor::from_vec(values(shape.iter().product(), at), shape, &Device::Cpu).unwrap();
            (name, tensor)
        };
        let tensors: HashMap<String, Tensor> =
            FasterRcnn::parameters(&config).unwrap().into_iter().enumerate().map(named).collect();
        let picture = |rows: usize| PictureRegions {
            features: values(rows * config.head_width, rows),
            boxes: vec![[0.0, 0.0, 9.0, 9.0]; rows],
            scores: vec![0.5; rows],
            objects: vec![1; rows],
            size: (10, 10),
        };
        for folder in ["regions", "detector"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        weights::write(&dir.path().join("detector"), &config, &tensors).unwrap();
        let layout = Layout { width: config.head_width, max_regions: 3, shard: 8, half: false };
        let mut writer = RegionWriter::new(&dir.path().join("regions"), layout);
        let shard = writer.begin(&["a.png".to_owned(), "b.png".to_owned()]).unwrap();
        shard.put(0, &picture(3)).unwrap();
        shard.put(1, &picture(1)).unwrap();
        writer.end(shard).unwrap();
        writer.finish().unwrap();

        let host = Host { device: "cpu".to_owned(), threads: 1 };
        let export = |project: &Project, name: &str| {
            let recorder = Recorder::default();
            let allowed_env = &AllowedEnv::default();
            let context = ToolContext {
                results: project,
                host: &host,
                allowed_env,
                progress: &recorder,
                columns: None,
            };
            let features = Features::open(&context, "regions")?;
            npy(&features, &dir.path().join(name).join("npy"), &context)?;
            lmdb(&features, &dir.path().join(name).join("lmdb"), &context)?;
            Ok::<_, StageError>(recorder.notes.into_inner().unwrap())
        };
        let check = |name: &str, look: &dyn Fn(&str, usize, MmfFeatures<'_>)| {
            let lmdb = Lmdb::open(&dir.path().join(name).join("lmdb")).unwrap();
            for (stem, rows) in [("a", 3), ("b", 1)] {
                look(stem, rows, read_value(lmdb.get(stem.as_bytes()).unwrap().unwrap()).unwrap());
                let file = |ending: &str| {
                    fs::read(dir.path().join(name).join("npy").join(format!("{stem}{ending}"))).unwrap()
                };
                look(stem, rows, read_files(&file(".npy"), Some(&file("_info.npy"))).unwrap());
            }
        };

        assert_eq!(export(&project(Some("detector")), "own").unwrap(), [""; 0]);
        check("own", &|_, rows, found| {
            let found = found.info.probabilities.unwrap();
            assert_eq!(found.shape, [rows, 4]);
            let features = picture(rows).features;
            let expected =
                features.chunks(config.head_width).flat_map(|feature| probabilities(feature, &tensors));
            for (found, expected) in found.to_f32().into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        });
        // Imported features, and those of a detector that is a file of the project: the note says why there are none.
        for (name, reads) in [("imported", None), ("file", Some("./detector"))] {
            let notes = export(&project(reads), name).unwrap();
            assert!(
                notes[0].starts_with("`cls_prob` is None: `regions` reads no step's detector"),
                "{notes:?}"
            );
            check(name, &|_, _, found| assert_eq!(found.info.probabilities, None));
        }
        let other = Config { head_width: 64, ..config.clone() };
        weights::write(&dir.path().join("detector"), &other, &tensors).unwrap();
        let refused = export(&project(Some("detector")), "other").unwrap_err().to_string();
        assert!(refused.contains("its features have 64 values, those of `regions` have 128"), "{refused}");
    }
}
