//! The forms that features come in, and how the features of an entry are read in each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::entries::Entries;
use super::tsv::{Tsv, corners};
use crate::artifacts::region_features::PictureRegions;
use crate::formats::file_kind;
use crate::formats::lmdb::Lmdb;
use crate::formats::mmf_features::{MmfFeatures, read_files, read_value};

/// The entry of MMF's LMDB that lists the others.
const KEYS: &str = "keys";

/// Features that exist already.
pub(super) enum Source {
    /// MMF's LMDB.
    Lmdb(Lmdb),
    /// `<stem>.npy` and `<stem>_info.npy`, in a folder and those below it: the files by their path without the ending.
    Npy(BTreeMap<String, PathBuf>),
    /// Rows of bottom-up attention.
    Tsv(Tsv),
}

impl Source {
    /// Finds out by content and name what is at `path`, a file or a folder; an LMDB also in a folder below it, as archives have it.
    ///
    /// # Errors
    /// Another form, a file that cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let is = |path: &Path, expected: &str| {
            path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(expected))
        };
        if path.join("data.mdb").is_file() || (path.is_file() && !is(path, "tsv")) {
            return Lmdb::open(path).map(Self::Lmdb);
        }
        if path.is_file() {
            return Tsv::open(&[path.to_owned()]).map(Self::Tsv);
        }
        let files = files_below(path)?;
        let databases: Vec<&String> = files.keys().filter(|name| name.ends_with("/data.mdb")).collect();
        match databases[..] {
            [] => {}
            [one] => return Lmdb::open(&files[one]).map(Self::Lmdb),
            [first, second, ..] => {
                return Err(format!("holds two of MMF's LMDB, `{first}` and `{second}`; name one"));
            }
        }
        let tables: Vec<PathBuf> = files.values().filter(|file| is(file, "tsv")).cloned().collect();
        if !tables.is_empty() {
            return Tsv::open(&tables).map(Self::Tsv);
        }
        let mut arrays = BTreeMap::new();
        for (name, file) in &files {
            let Some((stem, _)) = name.rsplit_once('.').filter(|_| is(file, "npy")) else { continue };
            if arrays.insert(stem.to_owned(), file.clone()).is_some() {
                return Err(format!("holds `{stem}.npy` twice, with endings in different case"));
            }
        }
        if arrays.is_empty() {
            let found: Vec<String> =
                files.keys().take(3).map(|name| format!("`{}`", file_kind::shown(name))).collect();
            let found =
                if found.is_empty() { "is empty".to_owned() } else { format!("holds {}", found.join(", ")) };
            return Err(format!(
                "{found}, and neither data.mdb (MMF's LMDB) nor .npy nor .tsv files; HDF5 and .npz are not read"
            ));
        }
        Ok(Self::Npy(arrays))
    }

    /// The names under which it has features.
    ///
    /// # Errors
    /// A list of them that cannot be read.
    pub(super) fn entries(&self) -> Result<Entries, String> {
        match self {
            Self::Lmdb(lmdb) => {
                let keys = lmdb.keys()?;
                let keys = keys.into_iter().map(|key| String::from_utf8_lossy(key).into_owned());
                Ok(Entries::new(keys.filter(|key| key != KEYS), true))
            }
            Self::Npy(arrays) => {
                let is_info =
                    |name: &str| name.strip_suffix("_info").is_some_and(|stem| arrays.contains_key(stem));
                Ok(Entries::new(arrays.keys().filter(|name| !is_info(name)).cloned(), false))
            }
            // Bottom-up attention numbers its pictures as COCO does.
            Self::Tsv(tsv) => Ok(Entries::new(tsv.ids().map(str::to_owned), true)),
        }
    }

    /// The width of the features of an entry.
    pub(super) fn width(&self, key: &str) -> Result<usize, String> {
        let found = self.regions(key, 0, usize::MAX)?;
        match found.features.len().checked_div(found.boxes.len()) {
            Some(width) if width > 0 => Ok(width),
            _ => {
                Err(format!("`{key}`, the first picture's, has no regions, which tell how wide features are"))
            }
        }
    }

    /// The first `max_regions` regions of an entry, `width` wide; of any width where it is 0.
    pub(super) fn regions(
        &self,
        key: &str,
        width: usize,
        max_regions: usize,
    ) -> Result<PictureRegions, String> {
        let fail = |problem: String| format!("`{key}`: {problem}");
        let found = match self {
            Self::Lmdb(lmdb) => {
                let value = lmdb.get(key.as_bytes())?.unwrap_or_default();
                read_value(value).and_then(|found| regions(found, max_regions))
            }
            Self::Npy(arrays) => {
                let read = |name: &str| {
                    let file = arrays.get(name).map(|path| fs::read(path).map_err(|error| error.to_string()));
                    file.transpose().map_err(|problem| format!("`{name}.npy`: {problem}"))
                };
                let (features, info) = (read(key)?.unwrap_or_default(), read(&format!("{key}_info"))?);
                let named = |problem| format!("`{key}.npy`: {problem}");
                if let Some(problem) = file_kind::placeholder(&features) {
                    return Err(named(problem));
                }
                read_files(&features, info.as_deref()).and_then(|found| regions(found, max_regions))
            }
            Self::Tsv(tsv) => tsv.regions(key, max_regions),
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

/// The files below a folder, by their path within it. Links to folders are not followed.
fn files_below(folder: &Path) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            // A name that is not UTF-8 is none that a picture has.
            let Some(name) = name.to_str() else { continue };
            if entry.file_type().map_err(fail)?.is_dir() {
                folders.push((format!("{prefix}{name}/"), entry.path()));
            } else {
                files.insert(format!("{prefix}{name}"), entry.path());
            }
        }
    }
    Ok(files)
}

fn regions(found: MmfFeatures<'_>, max_regions: usize) -> Result<PictureRegions, String> {
    let (rows, width) = (found.features.shape[0], found.features.shape[1]);
    let count = rows.min(max_regions);
    let mut features = found.features.to_f32();
    features.truncate(count * width);
    let info = found.info;
    let (boxes, size) = match info.boxes.zip(info.size) {
        Some((boxes, size)) => (corners(&boxes.to_f32(), count), size),
        None => (vec![[0.0; 4]; count], PictureRegions::UNKNOWN_SIZE),
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
