//! A shard of region features that is being filled: each picture goes straight to its place in the file, in any order and
//! from any thread, and nothing is kept in memory. It knows rows, not where they come from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::{Layout, PictureRegions};
use crate::artifacts::{ArtifactError, Result};

/// Values that are turned into bytes at once; they stay in a core's cache until they are written.
const AT_ONCE: usize = 1 << 14;

/// A shard that is being filled.
pub struct ShardWriter {
    file: File,
    path: PathBuf,
    layout: Layout,
    images: Vec<String>,
    /// How many pictures were put.
    put: AtomicUsize,
    places: Places,
}

/// Where each tensor begins in the file.
#[derive(Default)]
struct Places {
    features: u64,
    boxes: u64,
    scores: u64,
    objects: u64,
    counts: u64,
    sizes: u64,
}

impl ShardWriter {
    /// Starts a shard of `images` in a new file. What is not written of it reads as zeros.
    pub(super) fn create(path: PathBuf, layout: Layout, images: &[String]) -> Result<Self> {
        let fail = |error: io::Error| ArtifactError::new(&path, error);
        let (header, places, bytes) =
            header(layout, images.len()).map_err(|error| ArtifactError::new(&path, error))?;
        let file = File::create(&path).map_err(fail)?;
        file.set_len(bytes).and_then(|()| file.write_all_at(&header, 0)).map_err(fail)?;
        let (images, put) = (images.to_vec(), AtomicUsize::new(0));
        Ok(Self { file, path, layout, images, put, places })
    }

    /// Writes the regions of the picture of a row; each row once.
    ///
    /// # Errors
    /// Regions whose parts disagree in length or are too many, a feature too large for 16 bits; a disk that is full.
    pub fn put(&self, row: usize, regions: &PictureRegions) -> Result<()> {
        let Layout { width, max_regions, half, .. } = self.layout;
        let (count, image) = (regions.boxes.len(), &self.images[row]);
        let fits = count <= max_regions
            && regions.features.len() == count * width
            && regions.scores.len() == count
            && regions.objects.len() == count;
        if !fits {
            return Err(ArtifactError::new(&self.path, format!("regions of `{image}` do not fit together")));
        }
        let Places { features, boxes, scores, objects, counts, sizes } = self.places;
        if half {
            let mut halves = vec![f16::ZERO; count * width];
            halves.convert_from_f32_slice(&regions.features);
            if halves.iter().any(|value| value.is_infinite()) {
                let problem = format!("a feature of `{image}` is too large for 16 bits; leave `half` out");
                return Err(ArtifactError::new(&self.path, problem));
            }
            self.values(features, row * max_regions * width, &halves, f16::to_le_bytes)?;
        } else {
            self.values(features, row * max_regions * width, &regions.features, f32::to_le_bytes)?;
        }
        self.values(boxes, row * max_regions * 4, regions.boxes.as_flattened(), f32::to_le_bytes)?;
        self.values(scores, row * max_regions, &regions.scores, f32::to_le_bytes)?;
        self.values(objects, row * max_regions, &regions.objects, u32::to_le_bytes)?;
        self.values(counts, row, &[count as u32], u32::to_le_bytes)?;
        self.values(sizes, row * 2, &[regions.size.0, regions.size.1], u32::to_le_bytes)?;
        self.put.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes values of a tensor from its value `first` on.
    fn values<T: Copy, const N: usize>(
        &self,
        tensor: u64,
        first: usize,
        values: &[T],
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<()> {
        let mut bytes = vec![0; N * values.len().min(AT_ONCE)];
        let mut at = tensor + (N * first) as u64;
        for values in values.chunks(AT_ONCE) {
            let bytes = &mut bytes[..N * values.len()];
            for (into, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *into = to_bytes(*value);
            }
            self.file.write_all_at(bytes, at).map_err(|error| ArtifactError::new(&self.path, error))?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Gives the shard its name, `path`, after forcing it to disk where it is to be `durable`, and returns its pictures.
    pub(super) fn end(self, path: &Path, durable: bool) -> Result<Vec<String>> {
        let (put, all) = (self.put.into_inner(), self.images.len());
        if put != all {
            return Err(ArtifactError::new(path, format!("of {all} pictures {put} were written")));
        }
        let synced = if durable { self.file.sync_all() } else { Ok(()) };
        let placed = synced.and_then(|()| fs::rename(&self.path, path));
        placed.map_err(|error| ArtifactError::new(path, error))?;
        Ok(self.images)
    }
}

/// What comes before the tensors of a shard of `n` pictures, where they begin, and the bytes of the whole. The order is
/// the one of safetensors' own writer: by type, then by name.
fn header(layout: Layout, n: usize) -> std::result::Result<(Vec<u8>, Places, u64), String> {
    let Layout { width, max_regions, half, .. } = layout;
    let mut places = Places::default();
    let features = if half { Dtype::F16 } else { Dtype::F32 };
    let mut tensors = [
        (&mut places.features, "features", features, vec![n, max_regions, width]),
        (&mut places.boxes, "boxes", Dtype::F32, vec![n, max_regions, 4]),
        (&mut places.scores, "scores", Dtype::F32, vec![n, max_regions]),
        (&mut places.objects, "objects", Dtype::U32, vec![n, max_regions]),
        (&mut places.counts, "counts", Dtype::U32, vec![n]),
        (&mut places.sizes, "sizes", Dtype::U32, vec![n, 2]),
    ];
    tensors.sort_by(|left, right| right.2.cmp(&left.2).then(left.1.cmp(right.1)));
    let (mut end, mut infos) = (0, Vec::with_capacity(tensors.len()));
    for (place, name, dtype, shape) in &mut tensors {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        **place = end as u64;
        let info =
            TensorInfo { dtype: *dtype, shape: std::mem::take(shape), data_offsets: (end, end + bytes) };
        infos.push(((*name).to_owned(), info));
        end += bytes;
    }
    let metadata = Metadata::new(None, infos).map_err(|error| error.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
    let start = header.len() as u64;
    for (place, ..) in tensors {
        *place += start;
    }
    Ok((header, places, start + end as u64))
}
