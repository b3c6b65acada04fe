//! Region features for MMF: its LMDB, or its folder of `.npy` files. It knows files and their names; the form of a value
//! is the artifact's.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use stage_api::{StageError, ToolContext};

use crate::artifacts::lmdb::LmdbWriter;
use crate::artifacts::mmf_writer;
use crate::artifacts::region_features::{RegionFeatures, RegionRow};

/// The features that a step wrote.
pub(super) fn of(context: &ToolContext, step: &str) -> Result<RegionFeatures, StageError> {
    Ok(RegionFeatures::open(&context.results.output(step)?)?)
}

/// Writes MMF's LMDB into the folder `out`.
pub(super) fn lmdb(features: &RegionFeatures, out: &Path, context: &ToolContext) -> Result<(), StageError> {
    refuse_existing(out)?;
    let mut writer = LmdbWriter::create(out)?;
    let mut keys = Vec::new();
    each(features, context, |stem, at| {
        keys.push(stem.as_bytes().to_vec());
        Ok(writer.put(stem.as_bytes(), &mmf_writer::value(stem, &features.picture(at)))?)
    })?;
    writer.put(b"keys", &mmf_writer::keys(&keys))?;
    Ok(writer.finish()?)
}

/// Writes `<stem>.npy` and `<stem>_info.npy` into the folder `out`.
pub(super) fn npy(features: &RegionFeatures, out: &Path, context: &ToolContext) -> Result<(), StageError> {
    refuse_existing(out)?;
    fs::create_dir_all(out).map_err(|error| StageError::failed(format!("{}: {error}", out.display())))?;
    each(features, context, |stem, at| {
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
    context: &ToolContext,
    mut write: impl FnMut(&str, RegionRow) -> Result<(), StageError>,
) -> Result<(), StageError> {
    let images = features.images();
    let mut stems = HashSet::new();
    for (number, (image, at)) in images.iter().enumerate() {
        if context.progress.cancelled() {
            return Err(StageError::Cancelled);
        }
        let stem = image.split('.').next().unwrap_or(image);
        if !stems.insert(stem) {
            return Err(StageError::failed(format!(
                "two pictures are called `{stem}` without their endings"
            )));
        }
        write(stem, *at)?;
        context.progress.advance(number as u64 + 1, images.len() as u64, stage_api::Unit::Items);
    }
    Ok(())
}
