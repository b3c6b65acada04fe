//! Shards of earlier extractions, in a folder that a person names: adding pictures to a data set then extracts
//! only the new ones. A picture is known by the hash of its file; shards of another detector, another number of regions
//! or another precision are not looked at. It does not know where pictures come from.
//!
//! ```text
//! <folder>/<settings>-<pictures>.safetensors   a shard: a hard link where the disk is the same, else a copy
//! <folder>/<settings>-<pictures>.json          the hash of each of its pictures, and its checksum
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage_api::StageError;

use super::Regions;
use crate::artifacts::region_features::{Layout, PictureRegions, Shard};
use crate::artifacts::{read_json, weights, write_json};

/// The hash of a picture's file.
pub(super) type Hash = [u8; 32];

/// The hash of a picture's file.
pub(super) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The shards of one detector and layout.
pub(super) struct FeatureCache {
    dir: PathBuf,
    layout: Layout,
    /// The hash of all that decides what a picture's regions are, in addition to the picture.
    settings: String,
    shards: Vec<Kept>,
    rows: HashMap<String, (usize, usize)>,
}

#[derive(Serialize, Deserialize)]
struct Index {
    checksum: u32,
    pictures: Vec<String>,
}

struct Kept {
    path: PathBuf,
    rows: usize,
    checksum: u32,
    /// The shard once it is asked for; nothing when it is damaged.
    shard: OnceLock<Option<Shard>>,
}

impl FeatureCache {
    /// Opens the cache in `dir`, which is created where it is missing.
    ///
    /// # Errors
    /// A folder that cannot be created or read, a detector that cannot be read.
    pub(super) fn open(dir: &Path, detector: &Path, layout: Layout) -> Result<Self, StageError> {
        let fail = |error: io::Error| StageError::failed(format!("{}: {error}", dir.display()));
        fs::create_dir_all(dir).map_err(fail)?;
        let settings =
            settings(detector, layout).map_err(|error| StageError::input("detector", detector, error))?;
        let mut cache =
            Self { dir: dir.to_owned(), layout, settings, shards: Vec::new(), rows: HashMap::new() };
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(dir).map_err(fail)? {
            names.push(entry.map_err(fail)?.path());
        }
        names.sort();
        for path in names {
            let is_ours =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&cache.settings));
            // An index that cannot be read is no knowledge.
            if is_ours
                && path.extension().is_some_and(|ending| ending == "json")
                && let Ok(index) = read_json::<Index>(&path)
            {
                cache.learn(path.with_extension("safetensors"), index);
            }
        }
        Ok(cache)
    }

    fn learn(&mut self, path: PathBuf, index: Index) {
        let rows = index.pictures.len();
        for (row, picture) in index.pictures.into_iter().enumerate() {
            self.rows.insert(picture, (self.shards.len(), row));
        }
        self.shards.push(Kept { path, rows, checksum: index.checksum, shard: OnceLock::new() });
    }

    /// The regions of a picture that an earlier extraction saw.
    pub(super) fn find(&self, picture: &Hash) -> Option<PictureRegions> {
        let &(kept, row) = self.rows.get(&hex(picture))?;
        let kept = &self.shards[kept];
        let shard = kept.shard.get_or_init(|| {
            let Layout { max_regions, width, .. } = self.layout;
            let shard = Shard::open(&kept.path, kept.rows, max_regions, width).ok()?;
            (crc32c::crc32c(shard.bytes()) == kept.checksum).then_some(shard)
        });
        shard.as_ref().map(|shard| shard.picture(row))
    }

    /// Keeps a shard, of pictures of these hashes.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(super) fn keep(&mut self, shard: &Path, pictures: &[Hash]) -> Result<(), StageError> {
        let name = format!("{}-{}", self.settings, &hex(&hash(pictures.as_flattened()))[..16]);
        let (path, index_path) = (self.dir.join(&name), self.dir.join(format!("{name}.json")));
        let path = path.with_extension("safetensors");
        let place = || -> io::Result<u32> {
            let new = path.with_extension("new");
            // What an interrupted run left may be a link to a result: it is removed, never written to.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if fs::hard_link(shard, &new).is_err() {
                fs::copy(shard, &new)?;
            }
            fs::rename(&new, &path)?;
            checksum(&path)
        };
        let checksum = place().map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
        let index = Index { checksum, pictures: pictures.iter().map(|hash| hex(hash)).collect() };
        let new = index_path.with_extension("index");
        write_json(&new, &index)?;
        fs::rename(&new, &index_path)?;
        self.learn(path, index);
        Ok(())
    }
}

/// What decides a picture's regions: the detector's files, how many regions, in how many bits, by which code.
fn settings(detector: &Path, layout: Layout) -> io::Result<String> {
    let mut hasher = Sha256::new();
    for path in [weights::config_path(detector), weights::tensors_path(detector)] {
        each_piece(&path, |bytes| hasher.update(bytes))?;
    }
    let Layout { max_regions, half, .. } = layout;
    hasher.update(format!(
        "regions {max_regions}, half {half}, version {}",
        <Regions as stage_api::Stage>::VERSION
    ));
    Ok(hex(&hasher.finalize())[..16].to_owned())
}

fn checksum(path: &Path) -> io::Result<u32> {
    let mut sum = 0;
    each_piece(path, |bytes| sum = crc32c::crc32c_append(sum, bytes))?;
    Ok(sum)
}

fn each_piece(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => take(&buffer[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
