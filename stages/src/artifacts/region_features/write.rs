//! Writes region features shard by shard. A shard gets its name when it is whole and on disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, TensorView};

use super::{MANIFEST, Manifest, PictureRegions, Shard, ShardEntry};
use crate::artifacts::{ArtifactError, Result, write_json};

/// More than any detector proposes. Room for so many regions is taken for each picture.
const MOST_REGIONS: usize = 10_000;

/// How features lie in their shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Width of one feature.
    pub width: usize,
    /// No picture has more regions than this.
    pub max_regions: usize,
    /// Pictures in a shard.
    pub shard: usize,
    /// Whether features are written in 16 bits: half the disk, three decimal digits.
    pub half: bool,
}

impl Layout {
    /// Whether a layout may have so many regions a picture and pictures a shard.
    ///
    /// # Errors
    /// What is wrong with the params `regions` and `shard` of whoever writes features.
    pub fn check(regions: usize, shard: usize) -> std::result::Result<(), String> {
        if !(1..=MOST_REGIONS).contains(&regions) {
            return Err(format!("`regions` is {regions}; it may be 1 to {MOST_REGIONS}"));
        }
        if shard == 0 { Err("`shard` must be at least 1".to_owned()) } else { Ok(()) }
    }

    /// Bytes that `pictures` take.
    pub fn bytes(&self, pictures: usize) -> u64 {
        let feature = self.width * if self.half { 2 } else { 4 };
        // Boxes, scores and objects beside each feature; count and size of each picture.
        (pictures * (self.max_regions * (feature + 24) + 12)) as u64
    }
}

/// Writes region features in the order in which pictures are pushed.
pub struct RegionWriter {
    dir: PathBuf,
    layout: Layout,
    manifest: Manifest,
    images: Vec<String>,
    pending: Pending,
}

/// The tensors of the shard that is being filled, as they will lie in it.
#[derive(Default)]
struct Pending {
    features: Vec<u8>,
    boxes: Vec<u8>,
    scores: Vec<u8>,
    objects: Vec<u8>,
    counts: Vec<u8>,
    sizes: Vec<u8>,
}

impl RegionWriter {
    /// Starts writing 32-bit features into `dir`, of `width`, at most `max_regions` a picture, `shard` pictures a shard.
    pub fn new(dir: &Path, width: usize, max_regions: usize, shard: usize) -> Self {
        Self::with(dir, Layout { width, max_regions, shard: shard.max(1), half: false })
    }

    /// Starts writing into `dir`.
    pub fn with(dir: &Path, layout: Layout) -> Self {
        Self {
            dir: dir.to_owned(),
            layout,
            manifest: Manifest { width: layout.width, max_regions: layout.max_regions, shards: Vec::new() },
            images: Vec::new(),
            pending: Pending::default(),
        }
    }

    /// Takes the next shard, of `images`, as an earlier attempt left it in the folder; false when it left none that is
    /// whole. To be asked between shards.
    pub fn take_up(&mut self, images: &[String]) -> bool {
        let file = self.next_file();
        let Layout { width, max_regions, .. } = self.layout;
        let is_whole = Shard::open(&self.dir.join(&file), images.len(), max_regions, width).is_ok();
        if is_whole {
            self.manifest.shards.push(ShardEntry { file, images: images.to_vec() });
        }
        is_whole
    }

    /// Appends a picture, and writes the shard that it fills.
    ///
    /// # Errors
    /// Regions whose parts disagree in length or exceed `max_regions`, a feature too large for 16 bits; a shard that
    /// cannot be written.
    pub fn push(&mut self, image: &str, regions: PictureRegions) -> Result<()> {
        let Layout { width, max_regions, shard, half } = self.layout;
        let count = regions.boxes.len();
        let fits = count <= max_regions
            && regions.features.len() == count * width
            && regions.scores.len() == count
            && regions.objects.len() == count;
        if !fits {
            return Err(ArtifactError::new(&self.dir, format!("regions of `{image}` do not fit together")));
        }
        let pending = &mut self.pending;
        if half {
            let mut halves = vec![f16::ZERO; count * width];
            halves.convert_from_f32_slice(&regions.features);
            if halves.iter().any(|value| value.is_infinite()) {
                let problem = format!("a feature of `{image}` is too large for 16 bits; leave `half` out");
                return Err(ArtifactError::new(&self.dir, problem));
            }
            append(&mut pending.features, &halves, |value| value.to_le_bytes(), max_regions * width);
        } else {
            append(
                &mut pending.features,
                &regions.features,
                |value| value.to_le_bytes(),
                max_regions * width,
            );
        }
        append(
            &mut pending.boxes,
            regions.boxes.as_flattened(),
            |value| value.to_le_bytes(),
            4 * max_regions,
        );
        append(&mut pending.scores, &regions.scores, |value| value.to_le_bytes(), max_regions);
        append(&mut pending.objects, &regions.objects, |value| value.to_le_bytes(), max_regions);
        append(&mut pending.counts, &[count as u32], |value| value.to_le_bytes(), 1);
        append(&mut pending.sizes, &[regions.size.0, regions.size.1], |value| value.to_le_bytes(), 2);
        self.images.push(image.to_owned());
        if self.images.len() == shard { self.flush() } else { Ok(()) }
    }

    /// Writes what has been pushed since the last whole shard.
    ///
    /// # Errors
    /// A shard that cannot be written.
    pub fn close(&mut self) -> Result<()> {
        if self.images.is_empty() { Ok(()) } else { self.flush() }
    }

    /// The file of the last shard that was written or taken up; of none, the folder.
    pub fn last_shard(&self) -> PathBuf {
        self.manifest.shards.last().map_or(self.dir.clone(), |shard| self.dir.join(&shard.file))
    }

    /// Writes the last shard and the manifest.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.close()?;
        write_json(&self.dir.join(MANIFEST), &self.manifest)
    }

    /// As [`RegionWriter::finish`], with everything moved into `into`, on the same disk or another.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish_in(mut self, into: &Path) -> Result<()> {
        self.close()?;
        for ShardEntry { file, .. } in &self.manifest.shards {
            let (from, to) = (self.dir.join(file), into.join(file));
            if fs::rename(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(|error| ArtifactError::new(&to, error))?;
            }
        }
        write_json(&into.join(MANIFEST), &self.manifest)
    }

    fn next_file(&self) -> String {
        format!("shard-{:05}.safetensors", self.manifest.shards.len())
    }

    fn flush(&mut self) -> Result<()> {
        let (n, Layout { width, max_regions: most, half, .. }) = (self.images.len(), self.layout);
        let file = self.next_file();
        let path = self.dir.join(&file);
        let pending = &mut self.pending;
        let parts = [
            (
                "features",
                if half { Dtype::F16 } else { Dtype::F32 },
                vec![n, most, width],
                &mut pending.features,
            ),
            ("boxes", Dtype::F32, vec![n, most, 4], &mut pending.boxes),
            ("scores", Dtype::F32, vec![n, most], &mut pending.scores),
            ("objects", Dtype::U32, vec![n, most], &mut pending.objects),
            ("counts", Dtype::U32, vec![n], &mut pending.counts),
            ("sizes", Dtype::U32, vec![n, 2], &mut pending.sizes),
        ];
        let fail = |error: safetensors::SafeTensorError| ArtifactError::new(&path, error);
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, shape, bytes) in &parts {
            views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(fail)?));
        }
        let new = path.with_extension("new");
        safetensors::serialize_to_file(views, None, &new).map_err(fail)?;
        let placed = File::open(&new).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&new, &path));
        placed.map_err(|error| ArtifactError::new(&path, error))?;
        parts.into_iter().for_each(|(_, _, _, bytes)| bytes.clear());
        self.manifest.shards.push(ShardEntry { file, images: std::mem::take(&mut self.images) });
        Ok(())
    }
}

/// Appends values as bytes, and zeros up to `padded` values.
fn append<T: Copy, const N: usize>(
    bytes: &mut Vec<u8>,
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
    padded: usize,
) {
    let start = bytes.len();
    bytes.resize(start + N * padded, 0);
    for (into, value) in bytes[start..].chunks_exact_mut(N).zip(values) {
        into.copy_from_slice(&to_bytes(*value));
    }
}
