//! `import-features`: region features that somebody extracted before, for the pictures of a data set: MMF's LMDB, folders of
//! `.npy` files, the tsv of bottom-up attention. It does not know what the features are for.
//!
//! A picture has all rows that the file has for it, at most `regions`; how many boxes scored is not looked at, as in MMF.

mod entries;
mod source;
mod tsv;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError, Unit};

use self::source::Source;
use crate::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use crate::artifacts::samples::SampleSet;
use crate::host::disk_space;

/// The stage.
pub struct ImportFeatures;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportFeaturesParams {
    /// Most regions a picture (MMF's `max_features`).
    #[serde(default = "default_regions")]
    pub regions: usize,
    /// Pictures in one file of the output.
    #[serde(default = "default_shard")]
    pub shard: usize,
    /// Whether features are kept in 16 bits.
    #[serde(default)]
    pub half: bool,
}

fn default_regions() -> usize {
    100
}

fn default_shard() -> usize {
    256
}

/// Pictures between two looks at whether the run is to end.
const AT_ONCE: usize = 64;

impl Stage for ImportFeatures {
    type Params = ImportFeaturesParams;
    const NAME: &'static str = "import-features";
    const ABOUT: &'static str =
        "Takes region features that exist already: MMF's LMDB, folders of .npy, tsv of bottom-up attention.";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[Port::one("features"), Port::one("samples")];

    fn check(&self, params: &ImportFeaturesParams) -> Result<(), String> {
        Layout::check(params.regions, params.shard)
    }

    fn run(&self, params: &ImportFeaturesParams, job: &Job) -> Result<(), StageError> {
        let (path, samples) = (job.inputs.one("features")?, job.inputs.one("samples")?);
        let set = SampleSet::read(samples)
            .map_err(|error| StageError::input("samples", error.path, error.problem))?;
        let mut images: Vec<String> = set.samples.into_iter().map(|sample| sample.image).collect();
        images.sort_unstable();
        images.dedup();
        if images.is_empty() {
            return Err(StageError::input("samples", samples, "names no picture"));
        }
        let fail = |problem: String| StageError::input("features", path, problem);
        let source = Source::open(path).map_err(fail)?;
        let keys = source.entries().and_then(|entries| entries.assign(&images)).map_err(fail)?;
        let width = source.width(&keys[0]).map_err(fail)?;
        let ImportFeaturesParams { regions: max_regions, shard, half } = *params;
        let layout = Layout { width, max_regions, shard, half };
        disk_space::check(job.out, layout.bytes(images.len()))?;
        let mut writer = RegionWriter::new(job.out, layout);
        let (mut done, unplaced) = (0, AtomicUsize::new(0));
        for (images_of_shard, keys) in images.chunks(shard).zip(keys.chunks(shard)) {
            let shard = writer.begin(images_of_shard)?;
            for (first, batch) in (0..).step_by(AT_ONCE).zip(keys.chunks(AT_ONCE)) {
                job.check_cancelled()?;
                batch.par_iter().enumerate().try_for_each(|(at, key)| {
                    let regions = source.regions(key, width, max_regions).map_err(fail)?;
                    unplaced.fetch_add(
                        usize::from(regions.size == PictureRegions::UNKNOWN_SIZE),
                        Ordering::Relaxed,
                    );
                    shard.put(first + at, &regions).map_err(StageError::from)
                })?;
                done += batch.len();
                job.progress.advance(done as u64, images.len() as u64, Unit::Items);
            }
            writer.end(shard)?;
        }
        let unplaced = unplaced.into_inner();
        if unplaced > 0 {
            job.progress.note(&format!(
                "of {unplaced} pictures no boxes or no size are known: VisualBERT does not read them, ViLBERT does"
            ));
        }
        Ok(writer.finish()?)
    }
}

#[cfg(test)]
mod tests;
