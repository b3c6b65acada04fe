//! `regions`: what the detector makes of each picture of a folder, as region features in file-name order.
//! It does not know which detector this is nor what the regions are for.
//!
//! A shard is the unit of resume: an attempt that was killed leaves its whole shards in the scratch folder, and the next
//! one goes on after them. What pictures of another extraction had in common with these comes from [`feature_cache`].

mod feature_cache;
mod in_flight;
mod tool;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError, Unit};

use self::feature_cache::FeatureCache;
use self::in_flight::Schedule;
pub(crate) use self::tool::ShowRegions;
use crate::artifacts::region_features::{Layout, PictureRegions, RegionWriter};
use crate::artifacts::weights;
use crate::formats::image_decode::decode;
use crate::host::device_fault::DeviceFault;
use crate::host::{device, disk_space};
use crate::models::faster_rcnn::{Config, FasterRcnn, Region};
use crate::nn::{ParamStore, tune_allocator};

/// The stage.
pub struct Regions;

/// Its params.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionsParams {
    /// Most regions a picture.
    #[serde(default = "default_regions")]
    pub regions: usize,
    /// Pictures in one file of the output.
    #[serde(default = "default_shard")]
    pub shard: usize,
    /// Whether features are kept in 16 bits: half the disk, three decimal digits.
    #[serde(default, skip_serializing_if = "is_off")]
    pub half: bool,
}

fn is_off(flag: &bool) -> bool {
    !flag
}

fn default_regions() -> usize {
    100
}

fn default_shard() -> usize {
    1024
}

/// Pictures between two looks at whether to stop, on the CPU; also how many are in memory at once.
const BATCH: usize = 32;
/// A canvas of this many pixels fills a gigabyte or more on its way through a big network: such pictures go
/// one at a time, the threads sharing one picture's convolutions.
const BIG_CANVAS: usize = 512 * 512;
/// The folder in which shards are kept for later extractions.
const KEPT: &str = "REPRO_REGIONS";
/// An extraction that takes longer, in seconds, is announced where a person sees it.
const LONG: f64 = 600.0;

impl Stage for Regions {
    type Params = RegionsParams;
    const NAME: &'static str = "regions";
    const ABOUT: &'static str =
        "Extracts the features of each picture's most telling regions with the detector.";
    const VERSION: u32 = 6;
    const INPUTS: &'static [Port] = &[Port::one("images"), Port::one("detector")];
    const OUTSIDE: &'static [&'static str] = &[KEPT];

    fn check(&self, params: &RegionsParams) -> Result<(), String> {
        Layout::check(params.regions, params.shard)
    }

    fn run(&self, params: &RegionsParams, job: &Job) -> Result<(), StageError> {
        tune_allocator();
        let images = job.inputs.one("images")?;
        let weights_dir = job.inputs.one("detector")?;
        let device = device::open(&job.host.device)?;
        let config: Config = weights::read_config(weights_dir)?;
        let tensors = device::upload(weights::read_tensors(weights_dir)?, &device)?;
        let detector = ParamStore::new(tensors, |_| false)
            .and_then(|params| FasterRcnn::build(&config, &params))
            .map_err(|error| StageError::input("detector", weights_dir, error))?;
        let names = picture_names(images)?;
        let RegionsParams { regions: max_regions, shard, half } = *params;
        let layout = Layout { width: config.head_width, max_regions, shard, half };
        let disk = disk_space::readable(layout.bytes(names.len()));
        job.progress.note(&format!("{} pictures: {disk} of disk", names.len()));
        check_room(job.scratch, layout, names.len())?;
        let cache = job
            .allowed_env
            .path(KEPT)
            .map(|dir| FeatureCache::open(&dir, weights_dir, layout))
            .transpose()?;
        let schedule = match config.min_size * config.max_size >= BIG_CANVAS {
            _ if detector.takes_turns() => Schedule::on_a_gpu(config.proposals.over_levels),
            true => Schedule::Batches(1),
            false => Schedule::Batches(BATCH),
        };
        let work = Work { job, images, detector, layout, cache, schedule };
        work.extract(&names)
    }
}

/// Refuses where the disk has no room for the features.
fn check_room(scratch: &Path, layout: Layout, pictures: usize) -> Result<(), StageError> {
    disk_space::check(scratch, layout.bytes(pictures)).map_err(|error| {
        let half = Layout { half: true, ..layout };
        match disk_space::check(scratch, half.bytes(pictures)) {
            Ok(()) if !layout.half => StageError::failed(format!(
                "{error}; with `half: true` there is room: features rounded to 11 bits, in half the disk"
            )),
            _ => error,
        }
    })
}

struct Work<'a> {
    job: &'a Job<'a>,
    images: &'a Path,
    detector: FasterRcnn,
    layout: Layout,
    cache: Option<FeatureCache>,
    schedule: Schedule,
}

impl Work<'_> {
    fn extract(mut self, names: &[String]) -> Result<(), StageError> {
        let progress = self.job.progress;
        let mut writer = RegionWriter::durable(self.job.scratch, self.layout);
        let mut shards: Vec<&[String]> = names.chunks(self.layout.shard).collect();
        let whole = shards.iter().take_while(|shard| writer.take_up(shard)).count();
        shards.drain(..whole);
        let mut done = names.len() - shards.iter().map(|shard| shard.len()).sum::<usize>();
        if done > 0 {
            progress.note(&format!("{done} pictures are there from an attempt that was interrupted"));
        }
        let (mut known, mut new, mut begun) = (0, 0, Instant::now());
        let missing = names.len() - done;
        let sample = self.schedule.sample().min(missing);
        for names_of_shard in shards {
            let shard = writer.begin(names_of_shard)?;
            let (mut hashes, mut is_new) = (vec![None; names_of_shard.len()], false);
            let mut open: Vec<usize> = (0..names_of_shard.len()).collect();
            while !open.is_empty() {
                self.job.check_cancelled()?;
                let (mut refused, mut is_done) = (None, vec![false; names_of_shard.len()]);
                let extract = |at: usize| {
                    let Found { regions, hash, is_known } =
                        self.describe(&self.images.join(&names_of_shard[at]))?;
                    shard.put(at, &regions).map_err(StageError::from)?;
                    Ok((hash, is_known))
                };
                let take = |at: usize, found: Result<(Option<feature_cache::Hash>, bool), Failure>| {
                    let (hash, is_known) = match found {
                        Ok(found) => found,
                        Err(Failure::OutOfMemory(error)) => {
                            refused = Some(error);
                            return Ok(ControlFlow::Break(()));
                        }
                        Err(Failure::Other(error)) => return Err(error),
                    };
                    (hashes[at], is_done[at]) = (hash, true);
                    if is_known {
                        known += 1;
                        // Its time says nothing of the others'.
                        if new == 0 {
                            begun = Instant::now();
                        }
                    } else {
                        (new, is_new) = (new + 1, true);
                        if new == sample {
                            self.announce(missing, begun.elapsed().as_secs_f64() / new as f64);
                        }
                    }
                    done += 1;
                    progress.advance(done as u64, names.len() as u64, Unit::Items);
                    self.job.check_cancelled()?;
                    Ok(ControlFlow::Continue(()))
                };
                self.schedule.run(&open, extract, take)?;
                open.retain(|&at| !is_done[at]);
                if let Some(error) = refused {
                    self.schedule = self.schedule.smaller().ok_or(error)?;
                    self.warn_of_memory();
                }
            }
            let path = writer.end(shard)?;
            if let Some(cache) = self.cache.as_mut().filter(|_| is_new) {
                cache.keep(&path, &hashes.into_iter().flatten().collect::<Vec<_>>())?;
            }
        }
        if known > 0 {
            progress.note(&format!("{known} pictures were extracted before and not again"));
        }
        Ok(writer.finish_in(self.job.out)?)
    }

    /// Says what the extraction of `left` pictures takes, when the first have shown how long one takes.
    fn announce(&self, left: usize, seconds: f64) {
        let all = seconds * left as f64;
        let text = format!(
            "{left} pictures to extract: about {} at {seconds:.3} s each, and {} of disk",
            humantime::format_duration(std::time::Duration::from_secs(all.ceil() as u64)),
            disk_space::readable(self.layout.bytes(left))
        );
        if all > LONG { self.job.progress.warn(&text) } else { self.job.progress.note(&text) }
    }

    /// Says that the device's memory holds less than was tried.
    fn warn_of_memory(&self) {
        let Schedule::InFlight { pictures, boxes } = self.schedule else { return };
        self.job.progress.warn(&format!(
            "the device has no memory for more: going on with {pictures} pictures at once and {boxes} boxes of each; the features \
             are the same"
        ));
    }

    fn describe(&self, path: &Path) -> Result<Found, Failure> {
        let unreadable = |problem: String| StageError::input("images", path, problem);
        let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let hash = self.cache.as_ref().map(|_| feature_cache::hash(&bytes));
        let known = self.cache.as_ref().zip(hash).and_then(|(cache, hash)| cache.find(&hash));
        if let Some(regions) = known {
            return Ok(Found { regions, hash, is_known: true });
        }
        let picture = decode(&bytes).map_err(unreadable)?;
        let regions = self
            .detector
            .detect(&picture, self.layout.max_regions, self.schedule.boxes_at_once())
            .map_err(|error| Failure::new(path, &error))?;
        let regions = PictureRegions {
            boxes: regions.iter().map(|region| region.corners).collect(),
            scores: regions.iter().map(|region| region.confidence).collect(),
            objects: regions.iter().map(|region| region.object).collect(),
            features: regions.into_iter().flat_map(|Region { feature, .. }| feature).collect(),
            size: (picture.width as u32, picture.height as u32),
        };
        Ok(Found { regions, hash, is_known: false })
    }
}

/// Why a picture has no regions.
enum Failure {
    /// The device's memory holds less than was tried.
    OutOfMemory(StageError),
    Other(StageError),
}

impl Failure {
    fn new(path: &Path, error: &candle_core::Error) -> Self {
        let failed = device::failed(path.display(), error);
        match DeviceFault::from_error(error) {
            Some(DeviceFault::OutOfMemory) => Self::OutOfMemory(failed),
            _ => Self::Other(failed),
        }
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self::Other(error)
    }
}

/// What is known of a picture.
struct Found {
    regions: PictureRegions,
    /// The hash of its file, where it is needed.
    hash: Option<feature_cache::Hash>,
    /// Whether an earlier extraction knew it.
    is_known: bool,
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
