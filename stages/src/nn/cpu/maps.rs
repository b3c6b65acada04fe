//! Convolutions and the other passes over feature maps on the CPU, on one picture at a time.
//!
//! A tile of the input is unrolled (im2col) and multiplied group by group; 1×1 convolutions are plain products, large 3×3 ones go by
//! Winograd's way, and of large grouped ones nothing is unrolled.

use std::mem::MaybeUninit;

use candle_core::Result;
use rayon::prelude::*;

use super::parallel;
use super::{Cpu, Values};
use crate::nn::conv::{Conv2d, Window};
use crate::nn::cpu_tensor::{new_values, rectified};
use crate::nn::epilogue::Epilogue;
use crate::nn::gemm::{Matrix, PICTURE_WORTH_SHARING, new_affine, product_then};
use crate::nn::grouped;
use crate::nn::maps::{Addend, Affine, CanvasInput, MapBackend, MapSize};
use crate::nn::roi_align::{Level, RoiAlign};
use crate::nn::winograd::Filters;

/// Values of an unrolled tile: what fits into a core's second-level cache together with the output.
const TILE: usize = 1 << 16;
/// The same where all threads work on one tile.
const SHARED_TILE: usize = 1 << 22;
/// Pixels that a thread scales at once.
const PIXELS_WORTH_SHARING: usize = 1 << 17;

impl MapBackend for Cpu {
    fn canvas(&self, input: &CanvasInput<'_>) -> Result<Vec<f32>> {
        Ok(canvas(input))
    }

    fn convolve(
        &self,
        conv: &Conv2d,
        x: &[f32],
        size: MapSize,
        addend: Option<Addend<&[f32]>>,
    ) -> Result<Vec<f32>> {
        let out = conv.output_size(size)?;
        let widened = addend.filter(|addend| addend.is_half).map(|addend| {
            let half = MapSize { height: out.height / 2, width: out.width / 2, ..out };
            twice_as_large(addend.values, half)
        });
        let addend = widened.as_deref().or(addend.map(|addend| addend.values));
        let (weight, bias) = (Values::lock(&conv.weight)?, Values::lock(&conv.bias)?);
        let then = Epilogue { bias: &bias, addend, relu: conv.relu, plane: out.places() };
        let geometry = Geometry {
            depth: conv.depth,
            height: size.height,
            width: size.width,
            kernel: conv.kernel,
            out_height: out.height,
            out_width: out.width,
            window: conv.window,
        };
        let fill = |y: &mut [MaybeUninit<f32>]| match &conv.filters {
            Some(filters) if Filters::suit(size.height, size.width) => {
                filters.apply(y, x, (size.height, size.width), then)
            }
            _ => {
                convolve(y, x, &weight, &geometry, then);
                Ok(())
            }
        };
        // SAFETY: both ways write all outputs.
        #[allow(unsafe_code)]
        unsafe {
            new_values(out.values(), fill)
        }
    }

    fn max_pool(&self, x: &[f32], size: MapSize, window: usize) -> Result<Vec<f32>> {
        Ok(if window == 1 { subsample(x, size) } else { max_pool_3x3(x, size) })
    }

    fn pool_boxes(&self, align: RoiAlign, levels: &[Level<&[f32]>], count: usize) -> Result<Vec<f32>> {
        let values = levels.first().map_or(0, |level| level.size.channels) * align.bins * align.bins;
        let mut pooled = parallel::filled(count * values, 1, |_, _| ());
        let mut rows: Vec<Option<&mut [f32]>> = pooled.chunks_exact_mut(values.max(1)).map(Some).collect();
        for level in levels.iter().filter(|level| !level.boxes.is_empty()) {
            let members = level.boxes.iter().filter_map(|&(row, corners)| Some((rows[row].take()?, corners)));
            align.pool(level, members.collect());
        }
        Ok(pooled)
    }

    fn affine(&self, Affine { weight, bias, relu }: Affine<'_>, x: &[f32]) -> Result<Vec<f32>> {
        let (width, depth) = weight.dims2()?;
        let (weight, bias) = (Values::lock(weight)?, Values::lock(bias)?);
        let (x, weight) =
            (Matrix::new(x, x.len() / depth, depth, depth), Matrix::new(&weight, width, depth, depth));
        let mut y = new_affine(PICTURE_WORTH_SHARING, x, &[(weight.t(), &bias)]);
        if relu {
            parallel::rows(&mut y, width, |_, y| y.iter_mut().for_each(|y| *y = rectified(*y)));
        }
        Ok(y)
    }

    fn softmax(&self, mut x: Vec<f32>, columns: usize) -> Result<Vec<f32>> {
        let rows = x.len() / columns;
        super::softmax_rows(&mut x, &mut vec![0f32; rows], columns);
        Ok(x)
    }
}

/// The canvas of a picture, channel by channel.
pub fn canvas(input: &CanvasInput<'_>) -> Vec<f32> {
    let CanvasInput { rgb, picture_width, lines, columns, means_bgr, size } = *input;
    let mut pixels = vec![0f32; size.values()];
    for (channel, plane) in pixels.chunks_mut(size.places()).enumerate() {
        let mean = means_bgr[channel];
        // Blue first: channel 0 is the picture's third value.
        let at = |x: u32, y: u32| {
            f32::from(rgb[3 * (y as usize * picture_width + x as usize) + 2 - channel]) - mean
        };
        let rows = plane.par_chunks_mut(size.width).zip(lines);
        rows.with_min_len(PIXELS_WORTH_SHARING / size.width).for_each(|(row, line)| {
            for (value, column) in row.iter_mut().zip(columns) {
                let (across, down) = (column.weight, line.weight);
                let upper =
                    at(column.first, line.first) * (1.0 - across) + at(column.second, line.first) * across;
                let lower =
                    at(column.first, line.second) * (1.0 - across) + at(column.second, line.second) * across;
                *value = upper * (1.0 - down) + lower * down;
            }
        });
    }
    pixels
}

/// Every row and column twice.
fn twice_as_large(map: &[f32], MapSize { width, .. }: MapSize) -> Vec<f32> {
    parallel::filled(4 * map.len(), 4 * width, |first, y| {
        for (y, x) in y.chunks_exact_mut(4 * width).zip(map[first * width..].chunks_exact(width)) {
            for y in y.chunks_exact_mut(2 * width) {
                y.as_chunks_mut::<2>().0.iter_mut().zip(x).for_each(|(y, &x)| *y = [x; 2]);
            }
        }
    })
}

/// Every second row and column.
fn subsample(x: &[f32], MapSize { height, width, .. }: MapSize) -> Vec<f32> {
    let planes = x.chunks_exact(height * width);
    planes
        .flat_map(|plane| plane.chunks_exact(width).step_by(2))
        .flat_map(|row| row.iter().step_by(2).copied())
        .collect()
}

/// The greatest of windows of 3 × 3, 2 apart, with one place of zeros around.
fn max_pool_3x3(x: &[f32], size: MapSize) -> Vec<f32> {
    let MapSize { height, width, .. } = size;
    let out = size.halved();
    let (out_width, out_plane) = (out.width, out.places());
    // What is not a number stays so.
    let greater = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let mut y = vec![0f32; out.values()];
    parallel::rows(&mut y, out_plane, |first, y| {
        let mut greatest = vec![0f32; width];
        for (x, y) in x[first * height * width..].chunks(height * width).zip(y.chunks_mut(out_plane)) {
            for (row, y) in y.chunks_mut(out_width).enumerate() {
                greatest.fill(0.0);
                for line in (2 * row).saturating_sub(1)..(2 * row + 2).min(height) {
                    let x = &x[line * width..][..width];
                    greatest.iter_mut().zip(x).for_each(|(to, &x)| *to = greater(*to, x));
                }
                for (column, y) in y.iter_mut().enumerate() {
                    let x = &greatest[(2 * column).saturating_sub(1)..(2 * column + 2).min(width)];
                    *y = x.iter().fold(0.0, |y, &x| greater(y, x));
                }
            }
        }
    });
    y
}

/// One group's sizes; `depth` is its number of input channels.
struct Geometry {
    depth: usize,
    height: usize,
    width: usize,
    kernel: usize,
    out_height: usize,
    out_width: usize,
    window: Window,
}

impl Geometry {
    /// Outputs of a channel.
    fn plane(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Whether the window is 3×3 and keeps the size.
    fn is_same_3(&self) -> bool {
        self.kernel == 3 && Window { groups: 1, ..self.window } == Window::SAME_3
    }

    /// Whether each output sees one place of the input, its own.
    fn is_point(&self) -> bool {
        self.kernel == 1 && self.window.stride == 1 && self.window.padding == 0
    }
}

/// Outputs, inputs and weights of a group.
type Group<'a> = ((&'a mut [MaybeUninit<f32>], &'a [f32]), &'a [f32]);

/// Writes the convolution of `x` to `y`, all groups.
fn convolve(y: &mut [MaybeUninit<f32>], x: &[f32], weight: &[f32], geometry: &Geometry, then: Epilogue) {
    let groups = geometry.window.groups;
    let work = y.len() * geometry.depth * geometry.kernel * geometry.kernel;
    let (y_group, x_group, w_group) = (y.len() / groups, x.len() / groups, weight.len() / groups);
    let channels = y_group / geometry.plane();
    let is_shared = groups > 1 && work >= PICTURE_WORTH_SHARING;
    let is_direct = is_shared && geometry.is_same_3() && grouped::suits(channels);
    let group = |(number, ((y, x), weight)): (usize, Group)| {
        let then = then.from(number * channels, 0);
        if is_direct {
            grouped::convolve(y, x, weight, (geometry.height, geometry.width), then);
        } else {
            convolve_group(y, x, weight, geometry, then);
        }
    };
    if is_shared {
        let parts = y.par_chunks_mut(y_group).zip(x.par_chunks(x_group)).zip(weight.par_chunks(w_group));
        parts.enumerate().for_each(group);
    } else {
        let parts = y.chunks_mut(y_group).zip(x.chunks(x_group)).zip(weight.chunks(w_group));
        parts.enumerate().for_each(group);
    }
}

fn convolve_group(
    y: &mut [MaybeUninit<f32>],
    x: &[f32],
    weight: &[f32],
    geometry: &Geometry,
    then: Epilogue,
) {
    let plane = geometry.plane();
    let rows = y.len() / plane;
    let depth = geometry.depth * geometry.kernel * geometry.kernel;
    let weight = Matrix::new(weight, rows, depth, depth);
    if geometry.is_point() {
        let x = Matrix::new(x, depth, plane, plane);
        product_then(PICTURE_WORTH_SHARING, y, weight, x, then);
        return;
    }
    // One group of a large convolution has the threads to itself: they share the unrolling, too.
    let is_shared = geometry.window.groups == 1 && y.len() * depth >= PICTURE_WORTH_SHARING;
    let values = if is_shared { SHARED_TILE } else { TILE };
    let tile_rows = (values / (depth * geometry.out_width)).clamp(1, geometry.out_height);
    let mut tile = vec![0f32; depth * tile_rows * geometry.out_width];
    for top in (0..geometry.out_height).step_by(tile_rows) {
        let bottom = (top + tile_rows).min(geometry.out_height);
        let columns = (bottom - top) * geometry.out_width;
        let lines = &mut tile[..depth * columns];
        let line = |(number, line): (usize, &mut [f32])| unroll(line, x, geometry, number, top);
        if is_shared {
            lines.par_chunks_mut(columns).enumerate().for_each(line);
        } else {
            lines.chunks_mut(columns).enumerate().for_each(line);
        }
        let start = top * geometry.out_width;
        let tile = Matrix::new(&tile, depth, columns, columns);
        product_then(PICTURE_WORTH_SHARING, &mut y[start..], weight, tile, then.from(0, start));
    }
}

/// Writes line `number` of a tile: the input under one place of the kernel in one channel, for the windows of the output
/// rows from `top` on, one value for each output.
fn unroll(line: &mut [f32], x: &[f32], geometry: &Geometry, number: usize, top: usize) {
    let &Geometry { height, width, kernel, out_width, window, .. } = geometry;
    let (channel, ky, kx) = (number / (kernel * kernel), number / kernel % kernel, number % kernel);
    let x = &x[channel * height * width..][..height * width];
    // Columns whose input is inside: left of `first` and from `end` on the window sees padding.
    let first = window.padding.saturating_sub(kx).div_ceil(window.stride).min(out_width);
    let end = (width + window.padding).saturating_sub(kx).div_ceil(window.stride).clamp(first, out_width);
    for (row, line) in line.chunks_mut(out_width).enumerate() {
        let y = ((top + row) * window.stride + ky).checked_sub(window.padding).filter(|&y| y < height);
        let Some(y) = y.filter(|_| first < end) else {
            line.fill(0.0);
            continue;
        };
        line[..first].fill(0.0);
        line[end..].fill(0.0);
        let x = &x[y * width..][..width][first * window.stride + kx - window.padding..];
        if window.stride == 1 {
            line[first..end].copy_from_slice(&x[..end - first]);
        } else {
            let inputs = x.iter().step_by(window.stride);
            line[first..end].iter_mut().zip(inputs).for_each(|(to, from)| *to = *from);
        }
    }
}
