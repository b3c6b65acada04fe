//! Region features: what the detector makes of each picture, in sharded safetensors.
//!
//! ```text
//! <tree>/regions.json             feature width, most regions a picture, the shards and the pictures in each
//! <tree>/shard-00000.safetensors  features f32 [n, R, D] (fc6 after ReLU; rows past `counts` are zero)
//!                                 boxes    f32 [n, R, 4] (x1, y1, x2, y2 in pixels of the original picture)
//!                                 scores   f32 [n, R]    (best class score that chose the box)
//!                                 objects  u32 [n, R]    (class with the best score, 0-based, background left out)
//!                                 counts   u32 [n]       (feature rows that are there)
//!                                 sizes    u32 [n, 2]    (width, height of the original picture)
//! ```
//!
//! The reader maps the shards into memory: random access by picture, bounded memory at any size.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{ArtifactError, Result, read_json, write_json};

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    width: usize,
    max_regions: usize,
    shards: Vec<ShardEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ShardEntry {
    file: String,
    images: Vec<String>,
}

/// The regions of one picture; all vectors have one entry (or row) a region, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PictureRegions {
    /// Features, `count × width`, row-major.
    pub features: Vec<f32>,
    /// Boxes as x1, y1, x2, y2 in pixels of the original picture.
    pub boxes: Vec<[f32; 4]>,
    /// The score each box was chosen by.
    pub scores: Vec<f32>,
    /// Best class of each box, 0-based, background left out.
    pub objects: Vec<u32>,
    /// Width and height of the original picture.
    pub size: (u32, u32),
}

/// Writes region features shard by shard, in the order in which pictures are pushed.
pub struct RegionWriter {
    dir: PathBuf,
    manifest: Manifest,
    shard_size: usize,
    images: Vec<String>,
    pending: Vec<PictureRegions>,
}

impl RegionWriter {
    /// Starts writing into `dir`: features of `width`, at most `max_regions` a picture, `shard_size` pictures a
    /// shard.
    pub fn new(dir: &Path, width: usize, max_regions: usize, shard_size: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            manifest: Manifest { width, max_regions, shards: Vec::new() },
            shard_size: shard_size.max(1),
            images: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Appends a picture.
    ///
    /// # Errors
    /// Regions whose parts disagree in length or exceed `max_regions`; a shard that cannot be written.
    pub fn push(&mut self, image: &str, regions: PictureRegions) -> Result<()> {
        let count = regions.boxes.len();
        let fits = count <= self.manifest.max_regions
            && regions.features.len() == count * self.manifest.width
            && regions.scores.len() == count
            && regions.objects.len() == count;
        if !fits {
            return Err(ArtifactError::new(&self.dir, format!("regions of `{image}` do not fit together")));
        }
        self.images.push(image.to_owned());
        self.pending.push(regions);
        if self.pending.len() == self.shard_size { self.flush() } else { Ok(()) }
    }

    /// Writes the last shard and the manifest.
    pub fn finish(mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        write_json(&self.dir.join("regions.json"), &self.manifest)
    }

    fn flush(&mut self) -> Result<()> {
        let (n, most, width) = (self.pending.len(), self.manifest.max_regions, self.manifest.width);
        let mut features = vec![0f32; n * most * width];
        let mut boxes = vec![0f32; n * most * 4];
        let mut scores = vec![0f32; n * most];
        let mut objects = vec![0u32; n * most];
        let (mut counts, mut sizes) = (Vec::with_capacity(n), Vec::with_capacity(2 * n));
        for (row, regions) in self.pending.iter().enumerate() {
            let count = regions.boxes.len();
            features[row * most * width..][..count * width].copy_from_slice(&regions.features);
            boxes[row * most * 4..][..count * 4].copy_from_slice(regions.boxes.as_flattened());
            scores[row * most..][..count].copy_from_slice(&regions.scores);
            objects[row * most..][..count].copy_from_slice(&regions.objects);
            counts.push(count as u32);
            sizes.extend([regions.size.0, regions.size.1]);
        }
        let f32s = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let u32s = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let parts = [
            ("features", Dtype::F32, vec![n, most, width], f32s(&features)),
            ("boxes", Dtype::F32, vec![n, most, 4], f32s(&boxes)),
            ("scores", Dtype::F32, vec![n, most], f32s(&scores)),
            ("objects", Dtype::U32, vec![n, most], u32s(&objects)),
            ("counts", Dtype::U32, vec![n], u32s(&counts)),
            ("sizes", Dtype::U32, vec![n, 2], u32s(&sizes)),
        ];
        let file = format!("shard-{:05}.safetensors", self.manifest.shards.len());
        let path = self.dir.join(&file);
        let fail = |error: safetensors::SafeTensorError| ArtifactError::new(&path, error);
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, shape, bytes) in &parts {
            views.push((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(fail)?));
        }
        safetensors::serialize_to_file(views, None, &path).map_err(fail)?;
        self.manifest.shards.push(ShardEntry { file, images: std::mem::take(&mut self.images) });
        self.pending.clear();
        Ok(())
    }
}

struct Shard {
    map: Mmap,
    /// Byte offsets of the tensors within the map.
    features: usize,
    boxes: usize,
    counts: usize,
    sizes: usize,
}

/// Where a picture's regions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionRow {
    shard: usize,
    row: usize,
}

/// Region features of many pictures, read by memory map.
pub struct RegionFeatures {
    /// Width of one feature.
    pub width: usize,
    /// No picture has more regions than this.
    pub max_regions: usize,
    shards: Vec<Shard>,
    rows: HashMap<String, RegionRow>,
}

impl RegionFeatures {
    /// Opens what a [`RegionWriter`] wrote and checks the shapes of what is read of every shard.
    ///
    /// # Errors
    /// Missing or damaged files, shapes that disagree with `regions.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest: Manifest = read_json(&dir.join("regions.json"))?;
        let (width, max_regions) = (manifest.width, manifest.max_regions);
        let (mut shards, mut rows) = (Vec::new(), HashMap::new());
        for entry in manifest.shards {
            let path = dir.join(&entry.file);
            let fail = |problem: String| ArtifactError::new(&path, problem);
            let file = File::open(&path).map_err(|error| fail(error.to_string()))?;
            // SAFETY: trees are immutable: nobody changes or cuts a committed shard while it is mapped.
            #[allow(unsafe_code)]
            let map = unsafe { Mmap::map(&file) }.map_err(|error| fail(error.to_string()))?;
            let tensors = SafeTensors::deserialize(&map).map_err(|error| fail(error.to_string()))?;
            let n = entry.images.len();
            let offset = |name: &str, dtype: Dtype, shape: &[usize]| {
                let tensor = tensors.tensor(name).map_err(|error| fail(error.to_string()))?;
                if tensor.dtype() != dtype || tensor.shape() != shape {
                    let found = tensor.shape();
                    return Err(fail(format!("`{name}` is {found:?}, regions.json says {shape:?}")));
                }
                Ok(tensor.data().as_ptr() as usize - map.as_ptr() as usize)
            };
            let features = offset("features", Dtype::F32, &[n, max_regions, width])?;
            let boxes = offset("boxes", Dtype::F32, &[n, max_regions, 4])?;
            let counts = offset("counts", Dtype::U32, &[n])?;
            let sizes = offset("sizes", Dtype::U32, &[n, 2])?;
            for (row, image) in entry.images.into_iter().enumerate() {
                rows.insert(image, RegionRow { shard: shards.len(), row });
            }
            shards.push(Shard { map, features, boxes, counts, sizes });
        }
        Ok(Self { width, max_regions, shards, rows })
    }

    /// Where the regions of `image` are, if there are any.
    pub fn find(&self, image: &str) -> Option<RegionRow> {
        self.rows.get(image).copied()
    }

    /// How many regions the picture has.
    pub fn count(&self, at: RegionRow) -> usize {
        let shard = &self.shards[at.shard];
        (shard.u32_at(shard.counts + 4 * at.row) as usize).min(self.max_regions)
    }

    /// Width and height of the picture.
    pub fn size(&self, at: RegionRow) -> (u32, u32) {
        let shard = &self.shards[at.shard];
        let start = shard.sizes + 8 * at.row;
        (shard.u32_at(start), shard.u32_at(start + 4))
    }

    /// The boxes of the picture's regions, as x1, y1, x2, y2 in its pixels.
    pub fn boxes(&self, at: RegionRow) -> impl Iterator<Item = [f32; 4]> {
        let shard = &self.shards[at.shard];
        let start = shard.boxes + 16 * at.row * self.max_regions;
        shard.map[start..][..16 * self.count(at)].chunks_exact(16).map(|bytes| {
            let mut found = [0f32; 4];
            read_f32s(bytes, &mut found);
            found
        })
    }

    /// Copies the features of the first regions into `into` (`into.len() / width` rows at most), fills the rest
    /// with zeros, and returns how many rows were copied.
    pub fn copy_features(&self, at: RegionRow, into: &mut [f32]) -> usize {
        let rows = self.count(at).min(into.len() / self.width.max(1));
        let shard = &self.shards[at.shard];
        let start = shard.features + 4 * at.row * self.max_regions * self.width;
        let (filled, rest) = into.split_at_mut(rows * self.width);
        read_f32s(&shard.map[start..], filled);
        rest.fill(0.0);
        rows
    }
}

impl Shard {
    fn u32_at(&self, start: usize) -> u32 {
        u32::from_le_bytes(self.map[start..][..4].try_into().unwrap_or_default())
    }
}

fn read_f32s(bytes: &[u8], into: &mut [f32]) {
    for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(count: usize, base: f32) -> PictureRegions {
        PictureRegions {
            features: (0..count * 3).map(|i| base + i as f32).collect(),
            boxes: (0..count).map(|i| [i as f32, 0.0, base, 9.0]).collect(),
            scores: vec![0.5; count],
            objects: vec![7; count],
            size: (640, 480),
        }
    }

    #[test]
    fn reads_back_what_was_written_across_shards() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RegionWriter::new(dir.path(), 3, 4, 2);
        for (name, count) in [("a.png", 4), ("b.png", 0), ("c.png", 2)] {
            writer.push(name, picture(count, 10.0 * count as f32)).unwrap();
        }
        writer.finish().unwrap();
        let features = RegionFeatures::open(dir.path()).unwrap();
        let c = features.find("c.png").unwrap();
        assert_eq!(features.count(c), 2);
        let mut buffer = vec![f32::NAN; 9];
        assert_eq!(features.copy_features(c, &mut buffer), 2);
        assert_eq!(buffer, [20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 0.0, 0.0, 0.0]);
        assert_eq!(features.boxes(c).collect::<Vec<_>>(), [[0.0, 0.0, 20.0, 9.0], [1.0, 0.0, 20.0, 9.0]]);
        assert_eq!(features.size(c), (640, 480));
        let b = features.find("b.png").unwrap();
        assert_eq!((features.count(b), features.boxes(b).count()), (0, 0));
        assert!(features.find("d.png").is_none());
    }

    #[test]
    fn refuses_more_regions_than_declared() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RegionWriter::new(dir.path(), 3, 1, 2);
        assert!(writer.push("a.png", picture(2, 0.0)).is_err());
    }
}
