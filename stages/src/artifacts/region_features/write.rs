//! Writes region features shard by shard. A shard gets its name when it is whole. It does not know where features come
//! from, nor how a shard is laid out.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::shard_writer::ShardWriter;
use super::{MANIFEST, Manifest, PictureRegions, Shard, ShardEntry};
use crate::artifacts::{ArtifactError, Result, write_json};

/// More than any detector proposes. Room for so many regions is taken for each picture.
const MAX_REGIONS: usize = 10_000;

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
    /// What is wrong with the params `regions` and `shard` of a stage that writes features.
    pub fn check(regions: usize, shard: usize) -> std::result::Result<(), String> {
        if !(1..=MAX_REGIONS).contains(&regions) {
            return Err(format!("`regions` is {regions}; it may be 1 to {MAX_REGIONS}"));
        }
        if shard == 0 { Err("`shard` must be at least 1".to_owned()) } else { Ok(()) }
    }

    /// Bytes that `pictures` take.
    pub fn bytes(&self, pictures: usize) -> u64 {
        let feature = self.width * if self.half { 2 } else { 4 };
        // Boxes, scores and objects for each feature; count and size of each picture.
        (pictures * (self.max_regions * (feature + 24) + 12)) as u64
    }
}

/// Writes a folder of region features.
pub struct RegionWriter {
    dir: PathBuf,
    layout: Layout,
    /// Whether a shard is on disk before it has its name.
    durable: bool,
    manifest: Manifest,
}

impl RegionWriter {
    /// Starts writing into `dir`, which is there.
    pub fn new(dir: &Path, layout: Layout) -> Self {
        let Layout { width, max_regions, .. } = layout;
        let manifest = Manifest { width, max_regions, shards: Vec::new() };
        Self { dir: dir.to_owned(), layout, durable: false, manifest }
    }

    /// As [`RegionWriter::new`], in a folder that a later attempt takes shards up from, also after a power cut: each is
    /// forced to disk.
    pub fn durable(dir: &Path, layout: Layout) -> Self {
        Self { durable: true, ..Self::new(dir, layout) }
    }

    /// Takes the next shard, of `images`, as an earlier attempt left it in the folder; false when it left none that is
    /// whole.
    pub fn take_up(&mut self, images: &[String]) -> bool {
        let file = self.next_file();
        let Layout { width, max_regions, .. } = self.layout;
        let is_whole = Shard::open(&self.dir.join(&file), images.len(), max_regions, width).is_ok();
        if is_whole {
            self.manifest.shards.push(ShardEntry { file, images: images.to_vec() });
        }
        is_whole
    }

    /// Starts the next shard, of `images`, of which there are as many as the layout says, or fewer in the last one.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn begin(&self, images: &[String]) -> Result<ShardWriter> {
        let new = self.dir.join(self.next_file()).with_extension("new");
        ShardWriter::create(new, self.layout, images)
    }

    /// Ends a shard, all of whose pictures were put, and gives it its name, which is returned.
    ///
    /// # Errors
    /// A picture that was not put; what cannot be written.
    pub fn end(&mut self, shard: ShardWriter) -> Result<PathBuf> {
        let file = self.next_file();
        let path = self.dir.join(&file);
        let images = shard.end(&path, self.durable)?;
        self.manifest.shards.push(ShardEntry { file, images });
        Ok(path)
    }

    /// Writes the next shard, of these pictures, whole.
    ///
    /// # Errors
    /// As [`ShardWriter::put`] and [`RegionWriter::end`].
    pub fn write(&mut self, pictures: &[(String, PictureRegions)]) -> Result<PathBuf> {
        let images: Vec<String> = pictures.iter().map(|(image, _)| image.clone()).collect();
        let shard = self.begin(&images)?;
        pictures.par_iter().enumerate().try_for_each(|(row, (_, regions))| shard.put(row, regions))?;
        self.end(shard)
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(self) -> Result<()> {
        write_json(&self.dir.join(MANIFEST), &self.manifest)
    }

    /// As [`RegionWriter::finish`], with everything moved into `into`, on the same disk or another.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish_in(self, into: &Path) -> Result<()> {
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
}
