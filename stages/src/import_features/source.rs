//! The forms that features come in, and how a picture is looked up in each: by its number, else by its name, as MMF does.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::tsv::Tsv;
use crate::artifacts::lmdb::Lmdb;
use crate::artifacts::mmf_features::{MmfFeatures, read_files, read_value};
use crate::artifacts::region_features::PictureRegions;

/// The size of a picture whose size, or boxes, nobody wrote down; its boxes are all zero.
pub(super) const UNKNOWN_SIZE: (u32, u32) = (1, 1);

/// Features that exist already.
pub(super) enum Source {
    /// MMF's LMDB.
    Lmdb(Lmdb),
    /// `<stem>.npy` and `<stem>_info.npy`.
    Npy(PathBuf, HashSet<String>),
    /// Rows of bottom-up attention.
    Tsv(Tsv),
}

impl Source {
    /// Finds out by content and name what lies at `path`.
    ///
    /// # Errors
    /// Another form, a file that cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let ending = |path: &Path| path.extension().map(|ending| ending.to_ascii_lowercase());
        let is = |path: &Path, wanted: &str| ending(path).is_some_and(|ending| ending == wanted);
        if path.join("data.mdb").is_file() || (path.is_file() && !is(path, "tsv")) {
            return Lmdb::open(path).map(Self::Lmdb).map_err(|error| error.problem);
        }
        if path.is_file() {
            return Tsv::open(&[path.to_owned()]).map(Self::Tsv);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| error.to_string())? {
            files.push(entry.map_err(|error| error.to_string())?.path());
        }
        files.sort();
        let tables: Vec<PathBuf> = files.iter().filter(|file| is(file, "tsv")).cloned().collect();
        if !tables.is_empty() {
            return Tsv::open(&tables).map(Self::Tsv);
        }
        let stem = |file: &PathBuf| file.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        let arrays: HashSet<String> = files.iter().filter(|file| is(file, "npy")).filter_map(stem).collect();
        if arrays.is_empty() {
            return Err(
                "holds neither data.mdb (MMF's LMDB) nor .npy nor .tsv files; HDF5 is not read".to_owned()
            );
        }
        Ok(Self::Npy(path.to_owned(), arrays))
    }

    /// Whether there are features of a picture.
    pub(super) fn has(&self, image: &str) -> bool {
        self.key(image).is_some()
    }

    /// What the picture is called here.
    fn key(&self, image: &str) -> Option<String> {
        names(image).into_iter().find(|name| match self {
            // A damaged file is told of when the value is read.
            Self::Lmdb(lmdb) => !matches!(lmdb.get(name.as_bytes()), Ok(None)),
            Self::Npy(_, arrays) => arrays.contains(name),
            Self::Tsv(tsv) => tsv.has(name),
        })
    }

    /// The width of the features of a picture.
    pub(super) fn width(&self, image: &str) -> Result<usize, String> {
        let found = self.regions(image, 0, usize::MAX)?;
        match found.features.len().checked_div(found.boxes.len()) {
            Some(width) if width > 0 => Ok(width),
            _ => {
                Err(format!("`{image}`, the first picture, has no regions, which tell how wide features are"))
            }
        }
    }

    /// The first `most` regions of a picture, `width` wide; of any width where it is 0.
    pub(super) fn regions(&self, image: &str, width: usize, most: usize) -> Result<PictureRegions, String> {
        let key = self.key(image).ok_or_else(|| format!("has no features of `{image}`"))?;
        let fail = |problem: String| format!("`{key}`: {problem}");
        let found = match self {
            Self::Lmdb(lmdb) => {
                let value = lmdb.get(key.as_bytes()).map_err(|error| error.problem)?.unwrap_or_default();
                read_value(value).and_then(|found| regions(found, most))
            }
            Self::Npy(dir, arrays) => {
                let read = |name: &str| {
                    let path = dir.join(format!("{name}.npy"));
                    fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
                };
                let info = format!("{key}_info");
                let info = arrays.contains(&info).then(|| read(&info)).transpose()?;
                let features = read(&key)?;
                read_files(&features, info.as_deref()).and_then(|found| regions(found, most))
            }
            Self::Tsv(tsv) => tsv.regions(&key, most),
        };
        let found = found.map_err(fail)?;
        if width > 0 && found.features.len() != width * found.boxes.len() {
            let wide = found.features.len() / found.boxes.len().max(1);
            return Err(fail(format!("its features are {wide} wide, those of the first picture {width}")));
        }
        if found.features.iter().any(|value| !value.is_finite()) {
            return Err(fail("a feature is not a finite number".to_owned()));
        }
        Ok(found)
    }
}

/// The names a picture may have: its number without leading zeros, which is what follows the last underscore of its stem,
/// and its stem.
fn names(image: &str) -> Vec<String> {
    let file = image.rsplit('/').next().unwrap_or(image);
    let stem = file.split('.').next().unwrap_or(file);
    let last = stem.rsplit('_').next().unwrap_or(stem);
    let number = last.parse::<u64>().ok().map(|number| number.to_string());
    number.into_iter().chain([stem.to_owned()]).collect()
}

fn regions(found: MmfFeatures<'_>, most: usize) -> Result<PictureRegions, String> {
    let (rows, width) = (found.features.shape[0], found.features.shape[1]);
    let count = rows.min(most);
    let mut features = found.features.to_f32();
    features.truncate(count * width);
    let info = found.info;
    let (boxes, size) = match info.boxes.zip(info.size) {
        Some((boxes, size)) => (corners(&boxes.to_f32(), count), size),
        None => (vec![[0.0; 4]; count], UNKNOWN_SIZE),
    };
    let objects = info.objects.map_or(vec![0; count], |objects| {
        objects.to_f32().into_iter().take(count).map(|object| object.max(0.0) as u32).collect()
    });
    let scores = info.probabilities.map_or(vec![0.0; count], |all| {
        let classes = all.shape[1].max(1);
        let best = |row: &[f32]| row.iter().copied().fold(0.0, f32::max);
        let mut best: Vec<f32> = all.to_f32().chunks(classes).take(count).map(best).collect();
        best.resize(count, 0.0);
        best
    });
    Ok(PictureRegions { features, boxes, scores, objects, size })
}

/// The first `count` boxes of a flat list.
pub(super) fn corners(values: &[f32], count: usize) -> Vec<[f32; 4]> {
    values.as_chunks().0.iter().take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_looked_up_as_mmf_does() {
        assert_eq!(names("img/08291.png"), ["8291", "08291"]);
        assert_eq!(names("COCO_val2014_000000000042.jpg"), ["42", "COCO_val2014_000000000042"]);
        assert_eq!(names("1023_a.b.jpg"), ["1023_a"]);
    }
}
