//! Region features of the pictures of a data set, packed as the published ones of Hateful Memes are: MMF's LMDB in a compressed
//! archive. It makes up boxes and values; it looks at no picture.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rand::RngExt;
use stage_api::{Job, StageError};

use super::Archive;
use crate::artifacts::mmf_writer;
use crate::artifacts::region_features::PictureRegions;
use crate::artifacts::samples::SampleSet;
use crate::formats::lmdb::LmdbWriter;
use crate::models::faster_rcnn::Config;
use crate::nn::rng::generator;

/// The folder of the LMDB in the archive.
const FOLDER: &str = "detectron.lmdb";
/// Regions of a picture, as the published features have.
const REGIONS: usize = 100;
/// The same where a small one will do.
const SMALL_REGIONS: usize = 8;
/// Width and height that every picture is said to have.
const SIZE: (u32, u32) = (640, 480);

/// Writes `features.tar.gz`: of each picture that `samples` names 100 regions of 2,048 values, or 8 of 128 where `small`.
pub(super) fn write(samples: &Path, seed: u64, small: bool, job: &Job) -> Result<(), StageError> {
    let set =
        SampleSet::read(samples).map_err(|error| StageError::input("samples", error.path, error.problem))?;
    let images: BTreeSet<String> = set.samples.into_iter().map(|sample| sample.image).collect();
    let (config, regions) = match small {
        true => (Config::mini(5), SMALL_REGIONS),
        false => (Config::x152(), REGIONS),
    };

    let folder = job.scratch.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let mut lmdb = LmdbWriter::create(&folder).map_err(StageError::Failed)?;
    let mut keys = Vec::new();
    for image in &images {
        job.check_cancelled()?;
        // MMF asks for a picture by its name without the ending.
        let stem = image.rsplit_once('.').map_or(image.as_str(), |(stem, _)| stem);
        let (picture, probabilities) = made_up(seed, stem, regions, &config);
        let value = mmf_writer::value(stem, &picture, Some(&probabilities));
        lmdb.put(stem.as_bytes(), &value).map_err(StageError::Failed)?;
        keys.push(stem.as_bytes().to_vec());
    }
    lmdb.put(b"keys", &mmf_writer::keys(&keys)).map_err(StageError::Failed)?;
    lmdb.finish().map_err(StageError::Failed)?;

    let mut archive = Archive::create(&job.out.join("features.tar.gz"))?;
    archive.add(&format!("{FOLDER}/data.mdb"), &folder.join("data.mdb"))?;
    archive.finish()?;
    Ok(fs::remove_dir_all(&folder)?)
}

/// Regions within a picture, and the same probability of every class but the background.
fn made_up(seed: u64, stem: &str, regions: usize, config: &Config) -> (PictureRegions, Vec<f32>) {
    let mut random = generator(seed, stem);
    let classes = config.classes - 1;
    let (width, height) = (SIZE.0 as f32, SIZE.1 as f32);
    let mut picture = PictureRegions { size: SIZE, ..PictureRegions::default() };
    for _ in 0..regions {
        let mut side = |length: f32| {
            let (a, b) = (random.random_range(0.0..length), random.random_range(0.0..length));
            (a.min(b), a.max(b))
        };
        let ((left, right), (top, bottom)) = (side(width), side(height));
        picture.boxes.push([left, top, right, bottom]);
        picture.objects.push(random.random_range(0..classes as u32));
        picture.scores.push(1.0 / classes as f32);
        // Behind a ReLU.
        let values = (0..config.head_width).map(|_| random.random_range(-1.0f32..1.0).max(0.0));
        picture.features.extend(values);
    }
    (picture, vec![1.0 / classes as f32; regions * classes])
}
