//! `regions`: what the detector makes of each picture of a folder, as region features in file-name order.
//! It does not know which detector this is nor what the regions are for.

use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError, Unit};

use crate::artifacts::region_features::{PictureRegions, RegionWriter};
use crate::artifacts::weights;
use crate::device;
use crate::models::faster_rcnn::{Config, FasterRcnn, Region};
use crate::pictures::read_picture;

/// The stage.
pub struct Regions;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Most regions a picture.
    #[serde(default = "default_regions")]
    pub regions: usize,
    /// Pictures in one file of the output.
    #[serde(default = "default_shard")]
    pub shard: usize,
}

fn default_regions() -> usize {
    100
}

fn default_shard() -> usize {
    1024
}

/// More than any detector proposes. Room for all of them is taken for each picture.
const MOST_REGIONS: usize = 10_000;
/// Pictures between two looks at whether to stop; also how many are in memory at once.
const AT_ONCE: usize = 32;
/// A canvas of this many pixels fills a gigabyte or more on its way through a big network: such pictures go
/// one at a time, the threads sharing one picture's convolutions.
const BIG_CANVAS: usize = 512 * 512;

impl Stage for Regions {
    type Params = Params;
    const NAME: &'static str = "regions";
    const ABOUT: &'static str =
        "Extracts the features of each picture's most telling regions with the detector.";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("images"), Port::one("detector")];

    fn check(&self, params: &Params) -> Result<(), String> {
        match params {
            Params { regions: 0, .. } => Err("`regions` must be at least 1".to_owned()),
            Params { regions, .. } if *regions > MOST_REGIONS => {
                Err(format!("`regions` is {regions}; it may be at most {MOST_REGIONS}"))
            }
            Params { shard: 0, .. } => Err("`shard` must be at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let images = job.inputs.one("images")?;
        let weights_dir = job.inputs.one("detector")?;
        let device = device::open(&job.host.device)?;
        let config: Config = weights::read_config(weights_dir)?;
        let tensors = weights::read_tensors(weights_dir, &device)?;
        let detector = FasterRcnn::load(&config, &VarBuilder::from_tensors(tensors, DType::F32, &device))
            .map_err(|error| StageError::input("detector", weights_dir, error))?;
        let names = picture_names(images)?;
        let at_once = if config.min_size * config.max_size >= BIG_CANVAS { 1 } else { AT_ONCE };
        let mut writer = RegionWriter::new(job.out, config.head_width, params.regions, params.shard);
        let mut done = 0;
        for batch in names.chunks(at_once) {
            job.checkpoint()?;
            let found: Result<Vec<PictureRegions>, StageError> = batch
                .par_iter()
                .map(|name| describe(&detector, &images.join(name), params.regions))
                .collect();
            for (name, regions) in batch.iter().zip(found?) {
                writer.push(name, regions)?;
            }
            done += batch.len();
            job.progress.advance(done as u64, names.len() as u64, Unit::Items);
        }
        writer.finish()?;
        Ok(())
    }
}

fn describe(detector: &FasterRcnn, path: &Path, most: usize) -> Result<PictureRegions, StageError> {
    let picture = read_picture(path).map_err(|problem| StageError::input("images", path, problem))?;
    let regions = detector
        .detect(&picture, most)
        .map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
    Ok(PictureRegions {
        boxes: regions.iter().map(|region| region.corners).collect(),
        scores: regions.iter().map(|region| region.confidence).collect(),
        objects: regions.iter().map(|region| region.object).collect(),
        features: regions.into_iter().flat_map(|Region { feature, .. }| feature).collect(),
        size: (picture.width as u32, picture.height as u32),
    })
}

/// The file names of the folder's pictures, sorted.
fn picture_names(dir: &Path) -> Result<Vec<String>, StageError> {
    let fail = |problem: String| StageError::input("images", dir, problem);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| fail(error.to_string()))? {
        let path: PathBuf = entry.map_err(|error| fail(error.to_string()))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["png", "jpg", "jpeg"].contains(&extension.to_ascii_lowercase().as_str()) {
            continue;
        }
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => names.push(name.to_owned()),
            None => return Err(fail(format!("the name of {} is not UTF-8; rename it", path.display()))),
        }
    }
    names.sort();
    if names.is_empty() {
        return Err(fail("holds no .png, .jpg or .jpeg file".to_owned()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
