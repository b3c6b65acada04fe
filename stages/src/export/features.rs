//! Region features for MMF: its LMDB, or its folder of `.npy` files. It knows files and their names; the form of a value
//! is the artifact's.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use stage_api::{Desk, StageError};

use crate::artifacts::mmf_writer;
use crate::artifacts::region_features::{RegionFeatures, RegionRow};
use crate::formats::lmdb::LmdbWriter;

/// The features that a step wrote.
pub(super) fn open(desk: &Desk, step: &str) -> Result<RegionFeatures, StageError> {
    Ok(RegionFeatures::open(&desk.results.output(step)?)?)
}

/// Writes MMF's LMDB into the folder `out`.
pub(super) fn lmdb(features: &RegionFeatures, out: &Path, desk: &Desk) -> Result<(), StageError> {
    refuse_existing(out)?;
    let fail = |problem: String| StageError::failed(format!("{}: {problem}", out.join("data.mdb").display()));
    let mut writer = LmdbWriter::create(out).map_err(fail)?;
    let mut keys = Vec::new();
    each(features, desk, |stem, at| {
        keys.push(stem.as_bytes().to_vec());
        writer.put(stem.as_bytes(), &mmf_writer::value(stem, &features.picture(at))).map_err(fail)
    })?;
    writer.put(b"keys", &mmf_writer::keys(&keys)).map_err(fail)?;
    writer.finish().map_err(fail)
}

/// Writes `<stem>.npy` and `<stem>_info.npy` into the folder `out`.
pub(super) fn npy(features: &RegionFeatures, out: &Path, desk: &Desk) -> Result<(), StageError> {
    refuse_existing(out)?;
    fs::create_dir_all(out).map_err(|error| StageError::failed(format!("{}: {error}", out.display())))?;
    each(features, desk, |stem, at| {
        let (values, info) = mmf_writer::files(&features.picture(at));
        super::write(&out.join(format!("{stem}.npy")), &values)?;
        super::write(&out.join(format!("{stem}_info.npy")), &info)
    })
}

fn refuse_existing(out: &Path) -> Result<(), StageError> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(StageError::Params(format!("--out {} is not empty; name a new folder", out.display())));
    }
    Ok(())
}

/// Calls `write` with the stem of each picture's name, which MMF looks it up by.
fn each(
    features: &RegionFeatures,
    desk: &Desk,
    mut write: impl FnMut(&str, RegionRow) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let images = features.images();
    let mut stems = HashSet::new();
    for (number, (image, at)) in images.iter().enumerate() {
        if desk.progress.cancelled() {
            return Err(StageError::Cancelled);
        }
        let stem = image.split('.').next().unwrap_or(image);
        if !stems.insert(stem) {
            return Err(StageError::failed(format!(
                "two pictures are called `{stem}` without their endings"
            )));
        }
        write(stem, *at)?;
        desk.progress.advance(number as u64 + 1, images.len() as u64, stage_api::Unit::Items);
    }
    Ok(())
}
