//! One shard of region features, mapped into memory. It knows rows, not which pictures they are of.

use std::path::Path;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, SafeTensors};

use super::PictureRegions;
use crate::artifacts::{ArtifactError, Result};
use crate::formats::mapped_file::MappedFile;

/// A shard whose shapes have been checked.
#[derive(Debug)]
pub struct Shard {
    map: MappedFile,
    rows: usize,
    width: usize,
    max_regions: usize,
    /// Whether the features are of 16 bits.
    half: bool,
    /// Byte offsets of the tensors within the map.
    features: usize,
    boxes: usize,
    scores: usize,
    objects: usize,
    counts: usize,
    sizes: usize,
}

impl Shard {
    /// Opens a shard of `rows` pictures.
    ///
    /// # Errors
    /// A file that is missing or damaged, or whose tensors have other shapes.
    pub fn open(path: &Path, rows: usize, max_regions: usize, width: usize) -> Result<Self> {
        let fail = |problem: String| ArtifactError::new(path, problem);
        let map = MappedFile::open(path).map_err(|error| fail(error.to_string()))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|error| fail(error.to_string()))?;
        let offset = |name: &str, dtypes: &[Dtype], shape: &[usize]| {
            let tensor = tensors.tensor(name).map_err(|error| fail(error.to_string()))?;
            if !dtypes.contains(&tensor.dtype()) || tensor.shape() != shape {
                let (dtype, found) = (tensor.dtype(), tensor.shape());
                return Err(fail(format!("`{name}` is {dtype:?} {found:?}, regions.json says {shape:?}")));
            }
            Ok((tensor.data().as_ptr() as usize - map.as_ptr() as usize, tensor.dtype() == Dtype::F16))
        };
        let (features, half) = offset("features", &[Dtype::F32, Dtype::F16], &[rows, max_regions, width])?;
        let (boxes, _) = offset("boxes", &[Dtype::F32], &[rows, max_regions, 4])?;
        let (scores, _) = offset("scores", &[Dtype::F32], &[rows, max_regions])?;
        let (objects, _) = offset("objects", &[Dtype::U32], &[rows, max_regions])?;
        let (counts, _) = offset("counts", &[Dtype::U32], &[rows])?;
        let (sizes, _) = offset("sizes", &[Dtype::U32], &[rows, 2])?;
        Ok(Self { map, rows, width, max_regions, half, features, boxes, scores, objects, counts, sizes })
    }

    /// How many pictures it has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// How many regions a picture has.
    pub fn count(&self, row: usize) -> usize {
        (self.u32_at(self.counts + 4 * row) as usize).min(self.max_regions)
    }

    /// Width and height of a picture.
    pub fn size(&self, row: usize) -> (u32, u32) {
        (self.u32_at(self.sizes + 8 * row), self.u32_at(self.sizes + 8 * row + 4))
    }

    /// The boxes of a picture's regions, as x1, y1, x2, y2 in its pixels.
    pub fn boxes(&self, row: usize) -> impl Iterator<Item = [f32; 4]> {
        let start = self.boxes + 16 * row * self.max_regions;
        self.map[start..][..16 * self.count(row)].chunks_exact(16).map(|bytes| {
            let mut found = [0f32; 4];
            read_f32s(bytes, &mut found);
            found
        })
    }

    /// Copies the features of a picture's first regions into `into`, which is as long as they are.
    pub fn copy_features(&self, row: usize, into: &mut [f32]) {
        let first = row * self.max_regions * self.width;
        if !self.half {
            return read_f32s(&self.map[self.features + 4 * first..], into);
        }
        let bytes = &self.map[self.features + 2 * first..][..2 * into.len()];
        let halves: Vec<f16> =
            bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]])).collect();
        halves.convert_to_f32_slice(into);
    }

    /// All that is known of a picture.
    pub fn picture(&self, row: usize) -> PictureRegions {
        let count = self.count(row);
        let mut features = vec![0f32; count * self.width];
        self.copy_features(row, &mut features);
        let at = |start: usize, region: usize| start + 4 * (row * self.max_regions + region);
        PictureRegions {
            features,
            boxes: self.boxes(row).collect(),
            scores: (0..count).map(|region| f32::from_bits(self.u32_at(at(self.scores, region)))).collect(),
            objects: (0..count).map(|region| self.u32_at(at(self.objects, region))).collect(),
            size: self.size(row),
        }
    }

    fn u32_at(&self, start: usize) -> u32 {
        u32::from_le_bytes(self.map[start..][..4].try_into().unwrap_or_default())
    }
}

fn read_f32s(bytes: &[u8], into: &mut [f32]) {
    for (value, bytes) in into.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
}
