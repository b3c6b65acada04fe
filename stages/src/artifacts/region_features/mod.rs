//! Region features: what the detector makes of each picture, in sharded safetensors.
//!
//! ```text
//! <tree>/regions.json             feature width, most regions a picture, the shards and the pictures in each
//! <tree>/shard-00000.safetensors  features f32 or f16 [n, R, D] (fc6 after ReLU; rows past `counts` are zero)
//!                                 boxes    f32 [n, R, 4] (x1, y1, x2, y2 in pixels of the original picture)
//!                                 scores   f32 [n, R]    (best class score that chose the box)
//!                                 objects  u32 [n, R]    (class with the best score, 0-based, background left out)
//!                                 counts   u32 [n]       (feature rows that are there)
//!                                 sizes    u32 [n, 2]    (width, height of the original picture)
//! ```
//!
//! The reader maps the shards into memory, the writer writes pictures to their places: random access, bounded memory at
//! any size. A shard that has its name is whole, which is what an extraction that was killed goes on from.

mod read;
mod shard;
mod shard_writer;
mod write;

use serde::{Deserialize, Serialize};

pub use read::{RegionFeatures, RegionRow};
pub use shard::Shard;
pub use shard_writer::ShardWriter;
pub use write::{Layout, RegionWriter};

/// The file that says what is where.
const MANIFEST: &str = "regions.json";

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

impl PictureRegions {
    /// The size of a picture whose size, or whose boxes, are not known; its boxes are all zero.
    pub const UNKNOWN_SIZE: (u32, u32) = (1, 1);
}

#[cfg(test)]
mod tests;
