//! `make-detector`: a small detector fitted to pictures whose objects are known. It does not know who drew them.

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::scene_objects::{self, SceneObjects};
use crate::artifacts::{weights, write_json};
use crate::formats::image_decode::read_picture;
use crate::models::faster_rcnn::Config;
use crate::models::faster_rcnn::fit::{Example, fit};

/// The stage.
pub struct MakeDetector;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeDetectorParams {
    /// Seed of the random kernels.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Pictures to fit to, the first ones of `scenes`.
    #[serde(default = "default_examples")]
    pub examples: usize,
}

fn default_seed() -> u64 {
    1
}

fn default_examples() -> usize {
    160
}

impl Stage for MakeDetector {
    type Params = MakeDetectorParams;
    const NAME: &'static str = "make-detector";
    const ABOUT: &'static str =
        "Makes a small detector: seeded random kernels, readouts fitted to known scenes.";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::one("scenes")];

    fn check(&self, params: &MakeDetectorParams) -> Result<(), String> {
        if params.examples == 0 { Err("`examples` must be at least 1".to_owned()) } else { Ok(()) }
    }

    fn run(&self, params: &MakeDetectorParams, job: &Job) -> Result<(), StageError> {
        let dir = job.inputs.one("scenes")?;
        let (examples, names) = read_examples(dir, params.examples)?;
        let config = Config::mini(names.len() + 1);
        job.check_cancelled()?;
        let tensors = fit(&config, &examples, params.seed)
            .map_err(|error| StageError::input("scenes", dir.join("objects.jsonl"), error))?;
        weights::write(job.out, &config, &tensors)?;
        // Class `i` of the region features is line `i` here.
        write_json(&job.out.join("classes.json"), &names)?;
        Ok(())
    }
}

/// The first `count` pictures of `dir`, and the names of the classes that their objects have.
pub(crate) fn read_examples(dir: &Path, count: usize) -> Result<(Vec<Example>, Vec<String>), StageError> {
    let mut scenes = scene_objects::read(dir)?;
    scenes.truncate(count);
    // A class is a kind in a colour, as Visual Genome's detectors have classes and attributes.
    let names: BTreeSet<(&str, &str)> =
        scenes.iter().flat_map(|scene| scene.objects.iter().map(|object| object.name())).collect();
    let names: Vec<String> = names.iter().map(|(kind, colour)| format!("{colour} {kind}")).collect();
    let examples: Result<Vec<Example>, StageError> =
        scenes.par_iter().map(|scene| read_example(dir, scene, &names)).collect();
    Ok((examples?, names))
}

fn read_example(dir: &Path, scene: &SceneObjects, names: &[String]) -> Result<Example, StageError> {
    let path = dir.join("images").join(&scene.image);
    let picture = read_picture(&path).map_err(|problem| StageError::input("scenes", &path, problem))?;
    let objects = scene.objects.iter().filter_map(|object| {
        let (kind, colour) = object.name();
        let class = names.iter().position(|name| *name == format!("{colour} {kind}"))?;
        Some((object.corners(), class as u32))
    });
    Ok(Example { picture, objects: objects.collect() })
}
