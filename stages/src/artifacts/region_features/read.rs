//! Reads region features: which picture is in which row of which shard.

use std::collections::HashMap;
use std::path::Path;

use super::{MANIFEST, Manifest, PictureRegions, Shard};
use crate::artifacts::{Result, read_json};

/// Where a picture's regions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Opens what a [`super::RegionWriter`] wrote and checks the shapes of every shard.
    ///
    /// # Errors
    /// Missing or damaged files, shapes that disagree with `regions.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest: Manifest = read_json(&dir.join(MANIFEST))?;
        let (width, max_regions) = (manifest.width, manifest.max_regions);
        let (mut shards, mut rows) = (Vec::new(), HashMap::new());
        for entry in manifest.shards {
            shards.push(Shard::open(&dir.join(&entry.file), entry.images.len(), max_regions, width)?);
            for (row, image) in entry.images.into_iter().enumerate() {
                rows.insert(image, RegionRow { shard: shards.len() - 1, row });
            }
        }
        Ok(Self { width, max_regions, shards, rows })
    }

    /// Where the regions of `image` are, if there are any.
    pub fn find(&self, image: &str) -> Option<RegionRow> {
        self.rows.get(image).copied()
    }

    /// The pictures in the order in which they lie.
    pub fn images(&self) -> Vec<(&str, RegionRow)> {
        let mut images: Vec<(&str, RegionRow)> =
            self.rows.iter().map(|(image, at)| (image.as_str(), *at)).collect();
        images.sort_unstable_by_key(|(_, at)| *at);
        images
    }

    /// How many regions the picture has.
    pub fn count(&self, at: RegionRow) -> usize {
        self.shards[at.shard].count(at.row)
    }

    /// Width and height of the picture.
    pub fn size(&self, at: RegionRow) -> (u32, u32) {
        self.shards[at.shard].size(at.row)
    }

    /// The boxes of the picture's regions, as x1, y1, x2, y2 in its pixels.
    pub fn boxes(&self, at: RegionRow) -> impl Iterator<Item = [f32; 4]> {
        self.shards[at.shard].boxes(at.row)
    }

    /// All that is known of a picture.
    pub fn picture(&self, at: RegionRow) -> PictureRegions {
        self.shards[at.shard].picture(at.row)
    }

    /// Copies the features of the first regions into `into` (`into.len() / width` rows at most), fills the rest
    /// with zeros, and returns how many rows were copied.
    pub fn copy_features(&self, at: RegionRow, into: &mut [f32]) -> usize {
        let rows = self.count(at).min(into.len() / self.width.max(1));
        let (filled, rest) = into.split_at_mut(rows * self.width);
        self.shards[at.shard].copy_features(at.row, filled);
        rest.fill(0.0);
        rows
    }
}
