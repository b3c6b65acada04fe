//! ROIAlign, the first ("not aligned") form: the features of a box, sampled bilinearly into a square grid.
//! It does not know where the boxes come from or which level of a pyramid they belong to.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::cpu::{parallel, per_instruction_set};
use super::maps::MapSize;

/// How boxes are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoiAlign {
    /// Bins along each side.
    pub bins: usize,
    /// Samples along each side of a bin.
    pub samples: usize,
}

/// A level of a pyramid, and the boxes that are pooled from it.
#[derive(Debug, Clone)]
pub struct Level<M> {
    /// Its map.
    pub map: M,
    /// The map's size.
    pub size: MapSize,
    /// Size of the map over size of the picture the boxes are given in.
    pub scale: f32,
    /// Of each box the row of the result that it is pooled into, and its corners x1, y1, x2, y2.
    pub boxes: Vec<(usize, [f32; 4])>,
}

/// One bilinear sample: four places in a plane of the map and their weights.
struct Sample {
    places: [u32; 4],
    weights: [f32; 4],
}

/// Boxes whose samples are gathered at once: by a thread, or where the device does it with tensor operations (memory).
const BOXES_AT_ONCE: usize = 64;

impl RoiAlign {
    /// Pools the boxes of all `levels` into the rows of `[count, c · bins · bins]`, channel-major, by tensor operations.
    ///
    /// Boxes are scaled without rounding and without a half-pixel shift, are at least 1 wide and high on the
    /// map, and each bin is the mean of `samples²` bilinear samples.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn gather(&self, levels: &[Level<&Tensor>], count: usize) -> Result<Tensor> {
        let (mut parts, mut order) = (Vec::new(), vec![0u32; count]);
        let mut placed = 0;
        for level in levels {
            for &(row, _) in &level.boxes {
                order[row] = placed;
                placed += 1;
            }
            let MapSize { channels, .. } = level.size;
            // Channels last: a sample then reads four contiguous rows.
            let rows = level.map.reshape((channels, ()))?.t()?.contiguous()?;
            for boxes in level.boxes.chunks(BOXES_AT_ONCE) {
                parts.push(self.gather_boxes(&rows, level, boxes)?);
            }
        }
        if parts.is_empty() {
            let channels = levels.first().map_or(0, |level| level.size.channels);
            let device = levels.first().map_or(&Device::Cpu, |level| level.map.device());
            return Tensor::zeros((0, channels * self.bins * self.bins), DType::F32, device);
        }
        let pooled = Tensor::cat(&parts, 0)?;
        pooled.index_select(&Tensor::from_vec(order, count, pooled.device())?, 0)
    }

    /// Pools some boxes by tensor operations; `rows` is the level's map, channels last.
    fn gather_boxes(
        &self,
        rows: &Tensor,
        level: &Level<&Tensor>,
        boxes: &[(usize, [f32; 4])],
    ) -> Result<Tensor> {
        let samples: Vec<Sample> = boxes
            .iter()
            .flat_map(|&(_, corners)| self.samples_of(corners, level.scale, level.size))
            .collect();
        let places: Vec<u32> = samples.iter().flat_map(|sample| sample.places).collect();
        let weights: Vec<f32> = samples.iter().flat_map(|sample| sample.weights).collect();
        let (count, bins, channels) = (places.len(), self.bins * self.bins, level.size.channels);
        let places = Tensor::from_vec(places, count, rows.device())?;
        let weights = Tensor::from_vec(weights, (count, 1), rows.device())?;
        let values = rows.index_select(&places, 0)?.broadcast_mul(&weights)?;
        let each = count / (boxes.len() * bins);
        let pooled = values.reshape((boxes.len(), bins, each, channels))?.sum(2)?;
        pooled.transpose(1, 2)?.contiguous()?.reshape((boxes.len(), channels * bins))
    }

    /// The same in host memory: each of `boxes` is pooled from `level` into the row that comes with it.
    pub(super) fn pool(&self, level: &Level<&[f32]>, boxes: Vec<(&mut [f32], [f32; 4])>) {
        let channels = level.size.channels;
        let rows = channels_last(level.map, channels);
        let bins = self.bins * self.bins;
        let pool = |sums: &mut Vec<f32>, (pooled, roi): (&mut [f32], [f32; 4])| {
            let samples = self.samples_of(roi, level.scale, level.size);
            let of_bins = samples.chunks(self.samples * self.samples);
            sums.chunks_exact_mut(channels)
                .zip(of_bins)
                .for_each(|(sums, samples)| add(sums, &rows, samples));
            for (number, pooled) in pooled.chunks_mut(CHANNELS_AT_ONCE * bins).enumerate() {
                for (bin, sums) in sums.chunks_exact(channels).enumerate() {
                    let sums = &sums[number * CHANNELS_AT_ONCE..];
                    let into = pooled[bin..].iter_mut().step_by(bins);
                    into.zip(sums).for_each(|(to, from)| *to = *from);
                }
            }
        };
        let boxes = boxes.into_par_iter().with_min_len(BOXES_AT_ONCE);
        boxes.for_each_init(|| vec![0f32; bins * channels], pool);
    }

    /// The samples of a box, bin by bin (row-major), weights already divided by the samples of a bin.
    fn samples_of(
        &self,
        [x1, y1, x2, y2]: [f32; 4],
        scale: f32,
        MapSize { height, width, .. }: MapSize,
    ) -> Vec<Sample> {
        let along = |low: f32, high: f32, size: usize| -> Vec<(usize, usize, f32, f32)> {
            let low = low * scale;
            let bin = (high * scale - low).max(1.0) / self.bins as f32;
            let place = |i: usize| {
                let offset = ((i % self.samples) as f32 + 0.5) / self.samples as f32;
                low + bin * ((i / self.samples) as f32 + offset)
            };
            (0..self.bins * self.samples).map(|i| neighbours(place(i), size)).collect()
        };
        let (columns, rows) = (along(x1, x2, width), along(y1, y2, height));
        let share = 1.0 / (self.samples * self.samples) as f32;
        let mut samples = Vec::with_capacity(rows.len() * columns.len());
        for (row_bin, column_bin) in pairs(self.bins) {
            for (i, j) in pairs(self.samples) {
                let (top, bottom, top_weight, bottom_weight) = rows[row_bin * self.samples + i];
                let (left, right, left_weight, right_weight) = columns[column_bin * self.samples + j];
                let place = |row: usize, column: usize| (row * width + column) as u32;
                samples.push(Sample {
                    places: [place(top, left), place(top, right), place(bottom, left), place(bottom, right)],
                    weights: [
                        share * top_weight * left_weight,
                        share * top_weight * right_weight,
                        share * bottom_weight * left_weight,
                        share * bottom_weight * right_weight,
                    ],
                });
            }
        }
        samples
    }
}

/// Channels that are turned at once: a line of the cache.
const CHANNELS_AT_ONCE: usize = 16;
/// Places whose rows are turned at once: what of each channel is read then fills lines of the cache.
const PLACES_AT_ONCE: usize = 64;

/// A map, channel by channel, as rows of all channels, place by place.
fn channels_last(map: &[f32], channels: usize) -> Vec<f32> {
    let plane = map.len() / channels.max(1);
    parallel::filled(map.len(), channels, |first, rows| {
        for (number, rows) in rows.chunks_mut(PLACES_AT_ONCE * channels).enumerate() {
            for channel in (0..channels).step_by(CHANNELS_AT_ONCE) {
                for (place, row) in (first + number * PLACES_AT_ONCE..).zip(rows.chunks_exact_mut(channels)) {
                    let row = row[channel..].iter_mut().take(CHANNELS_AT_ONCE);
                    row.zip(map[channel * plane + place..].iter().step_by(plane))
                        .for_each(|(to, from)| *to = *from);
                }
            }
        }
    })
}

/// Channels of a sum that stays in registers.
const SUMS: usize = 64;

per_instruction_set! {
    /// Writes the sum of the samples of a bin, of all channels.
    fn add(sums: &mut [f32], rows: &[f32], samples: &[Sample]) {
        let channels = sums.len();
        let neighbours = || samples.iter().flat_map(|sample| sample.places.iter().zip(&sample.weights));
        let (whole, rest) = sums.as_chunks_mut::<SUMS>();
        let first_of_rest = whole.len() * SUMS;
        for (number, sums) in whole.iter_mut().enumerate() {
            let mut part = [0f32; SUMS];
            for (&place, &weight) in neighbours() {
                let row = &rows[place as usize * channels + number * SUMS..][..SUMS];
                part.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
            }
            *sums = part;
        }
        rest.fill(0.0);
        for (&place, &weight) in neighbours() {
            let row = &rows[place as usize * channels + first_of_rest..][..rest.len()];
            rest.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (0..n).map(move |j| (i, j)))
}

/// The two neighbours of a coordinate and their weights: zero outside (−1, size), clamped to the edge else.
fn neighbours(at: f32, size: usize) -> (usize, usize, f32, f32) {
    if !(-1.0..=size as f32).contains(&at) {
        return (0, 0, 0.0, 0.0);
    }
    let at = at.max(0.0);
    let low = at as usize;
    if low + 1 >= size {
        return (size - 1, size - 1, 1.0, 0.0);
    }
    let part = at - low as f32;
    (low, low + 1, 1.0 - part, part)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::cpu_tensor::cpu_vec;
    use crate::nn::{Compute, Precision};

    const ALIGN: RoiAlign = RoiAlign { bins: 3, samples: 2 };
    const SCALE: f32 = 0.25;

    fn map(channels: usize, height: usize, width: usize) -> Tensor {
        let values: Vec<f32> = (0..channels * height * width).map(|i| libm::sinf(i as f32 * 0.7)).collect();
        Tensor::from_vec(values, (1, channels, height, width), &Device::Cpu).unwrap()
    }

    /// The definition, written out for one value.
    fn direct(map: &Tensor, [x1, y1, x2, y2]: [f32; 4], channel: usize, row: usize, column: usize) -> f32 {
        let (_, _, height, width) = map.dims4().unwrap();
        let values = cpu_vec(map).unwrap();
        let at = |y: usize, x: usize| f64::from(values[(channel * height + y) * width + x]);
        let bilinear = |y: f64, x: f64| {
            if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 {
                return 0.0;
            }
            let (y, x) = (y.clamp(0.0, height as f64 - 1.0), x.clamp(0.0, width as f64 - 1.0));
            let (y0, x0) = (y.floor() as usize, x.floor() as usize);
            let (y1, x1) = ((y0 + 1).min(height - 1), (x0 + 1).min(width - 1));
            let (fy, fx) = (y - y0 as f64, x - x0 as f64);
            (1.0 - fy) * ((1.0 - fx) * at(y0, x0) + fx * at(y0, x1))
                + fy * ((1.0 - fx) * at(y1, x0) + fx * at(y1, x1))
        };
        let scale = f64::from(SCALE);
        let (left, top) = (f64::from(x1) * scale, f64::from(y1) * scale);
        let bin_width = (f64::from(x2) * scale - left).max(1.0) / 3.0;
        let bin_height = (f64::from(y2) * scale - top).max(1.0) / 3.0;
        let mut sum = 0.0;
        for (i, j) in [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)] {
            sum += bilinear(top + bin_height * (row as f64 + i), left + bin_width * (column as f64 + j));
        }
        (sum / 4.0) as f32
    }

    fn pool(compute: &Compute, map: &Tensor, boxes: &[[f32; 4]]) -> Tensor {
        let (_, channels, height, width) = map.dims4().unwrap();
        let boxes: Vec<(usize, [f32; 4])> = boxes.iter().copied().enumerate().collect();
        let (count, size) = (boxes.len(), MapSize { channels, height, width });
        compute.pool_boxes(ALIGN, &[Level { map, size, scale: SCALE, boxes }], count).unwrap()
    }

    fn computes() -> [Compute; 2] {
        let cpu = Compute::for_device(&Device::Cpu, Precision::F32).unwrap();
        [cpu, Compute::composed(&Device::Cpu, Precision::F32).unwrap()]
    }

    #[test]
    fn equals_the_direct_formula_on_both_paths() {
        let map = map(5, 9, 13);
        let boxes = [
            [3.0, 2.0, 30.0, 25.0],
            [0.0, 0.0, 0.0, 0.0],
            [-9.0, -7.0, 70.0, 50.0],
            [40.0, 30.0, 51.0, 35.0],
            [60.0, 60.0, 80.0, 90.0],
        ];
        let [pooled, gathered] =
            computes().map(|compute| pool(&compute, &map, &boxes).to_vec2::<f32>().unwrap());
        for (number, &roi) in boxes.iter().enumerate() {
            for (channel, (row, column)) in (0..5).flat_map(|c| pairs(3).map(move |at| (c, at))) {
                let place = (channel * 3 + row) * 3 + column;
                let expected = direct(&map, roi, channel, row, column);
                for value in [pooled[number][place], gathered[number][place]] {
                    assert!((value - expected).abs() < 1e-5, "box {number}, {channel} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn pools_from_a_map_of_one_cell_and_no_boxes() {
        let map = map(2, 1, 1);
        let values = cpu_vec(&map).unwrap();
        for compute in computes() {
            assert_eq!(pool(&compute, &map, &[]).dims(), [0, 18]);
            let pooled = cpu_vec(&pool(&compute, &map, &[[0.0, 0.0, 3.0, 3.0]])).unwrap();
            for (value, expected) in pooled.iter().zip(values.iter().flat_map(|v| [*v; 9])) {
                assert!((value - expected).abs() < 1e-6);
            }
        }
    }
}
