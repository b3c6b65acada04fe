//! Convolution for inference: grouped, with bias, an optional addend and ReLU, on one picture at a time.
//!
//! On the host a tile of the input is unrolled (im2col) and multiplied group by group, because the library's
//! own grouped convolution takes 7 to 40 times as long; 1×1 convolutions are plain products, large 3×3 ones go by
//! Winograd's way, and of large grouped ones nothing is unrolled. Other devices use the library. It knows no network.

use std::mem::MaybeUninit;

use candle_core::{Error, Result, Tensor};
use rayon::prelude::*;

use super::cpu::parallel;
use super::cpu_tensor::{cpu_vec, new_values, with_cpu_values};
use super::epilogue::Epilogue;
use super::gemm::{Matrix, PICTURE_WORTH_SHARING, product_then};
use super::grouped;
use super::winograd::Filters;

/// Values of an unrolled tile: what fits into a core's second-level cache together with the output.
const TILE: usize = 1 << 16;
/// The same where all threads work on one tile.
const SHARED_TILE: usize = 1 << 22;

/// How a window moves over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Step between outputs, both directions.
    pub stride: usize,
    /// Zeros around the input, each side.
    pub padding: usize,
    /// Number of groups: outputs of a group see its inputs only.
    pub groups: usize,
}

impl Window {
    /// Stride 1, no padding, one group.
    pub const POINT: Self = Self { stride: 1, padding: 0, groups: 1 };
    /// Stride 1, one pixel of padding, one group: a 3×3 window that keeps the size.
    pub const SAME_3: Self = Self { stride: 1, padding: 1, groups: 1 };
}

/// A convolution with square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    host_bias: Vec<f32>,
    /// The weight transformed, where that is the faster way.
    filters: Option<Filters>,
    window: Window,
    relu: bool,
}

impl Conv2d {
    /// A convolution of `weight` `[out, in / groups, k, k]` and `bias` `[out]`.
    ///
    /// # Errors
    /// Shapes that are not those.
    pub fn new(weight: Tensor, bias: Tensor, window: Window) -> Result<Self> {
        let (out, depth, height, width) = weight.dims4()?;
        if height != width || bias.dims() != [out] || !out.is_multiple_of(window.groups) {
            let (weight, bias) = (weight.shape(), bias.shape());
            return Err(Error::Msg(format!("a convolution of weight {weight:?}, bias {bias:?}, {window:?}")));
        }
        let weight = weight.contiguous()?;
        let filters = match height {
            3 if window == Window::SAME_3 && weight.device().is_cpu() => {
                with_cpu_values(&weight, |weight| Filters::new(weight, out, depth))?
            }
            _ => None,
        };
        Ok(Self { weight, host_bias: cpu_vec(&bias)?, bias, filters, window, relu: false })
    }

    /// A convolution of a `weight` that a listing gave and that has no values: it is not to be computed with.
    pub fn listed(weight: Tensor, window: Window) -> Self {
        let bias = weight.clone();
        Self { weight, bias, host_bias: Vec::new(), filters: None, window, relu: false }
    }

    /// The same with a ReLU behind it.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// Convolves `x` `[1, in, height, width]`, adds `addend` (of the output's shape) and applies the ReLU.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, addend: Option<&Tensor>) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let (out, depth, kernel, _) = self.weight.dims4()?;
        let Window { stride, padding, groups } = self.window;
        let fits = batch == 1 && channels == depth * groups;
        let sizes = (output_size(height, kernel, self.window), output_size(width, kernel, self.window));
        let (true, (Some(out_height), Some(out_width))) = (fits, sizes) else {
            let (x, weight) = (x.shape(), self.weight.shape());
            return Err(Error::Msg(format!("a convolution of {x:?} with {weight:?}, {:?}", self.window)));
        };
        let shape = (1, out, out_height, out_width);
        if let Some(addend) = addend
            && addend.dims4()? != shape
        {
            return Err(Error::Msg(format!("adding {:?} to an output of {shape:?}", addend.shape())));
        }
        if !x.device().is_cpu() {
            let y = x.conv2d(&self.weight, padding, stride, 1, groups)?;
            let y = y.broadcast_add(&self.bias.reshape((1, out, 1, 1))?)?;
            let y = if let Some(addend) = addend { (y + addend)? } else { y };
            return if self.relu { y.relu() } else { Ok(y) };
        }
        let geometry = Geometry { depth, height, width, kernel, out_height, out_width, window: self.window };
        let y = with_cpu_values(&x.contiguous()?, |x| {
            with_cpu_values(&self.weight, |weight| match addend {
                None => self.convolve(x, weight, None, &geometry),
                Some(addend) => with_cpu_values(&addend.contiguous()?, |addend| {
                    self.convolve(x, weight, Some(addend), &geometry)
                })?,
            })
        })???;
        Tensor::from_vec(y, shape, x.device())
    }

    /// The convolution of `x` by the fastest way there is for its sizes.
    fn convolve(
        &self,
        x: &[f32],
        weight: &[f32],
        addend: Option<&[f32]>,
        geometry: &Geometry,
    ) -> Result<Vec<f32>> {
        let (out, plane) = (self.host_bias.len(), geometry.plane());
        let then = Epilogue { bias: &self.host_bias, addend, relu: self.relu, plane };
        let fill = |y: &mut [MaybeUninit<f32>]| {
            match self.filters.as_ref().filter(|_| Filters::suit(geometry.height, geometry.width)) {
                Some(filters) => filters.apply(y, x, (geometry.height, geometry.width), then),
                None => convolve(y, x, weight, geometry, then),
            }
            Ok(())
        };
        // SAFETY: both ways write all outputs.
        #[allow(unsafe_code)]
        unsafe {
            new_values(out * plane, fill)
        }
    }
}

/// The output's length along one direction; `None` when the window does not fit once.
fn output_size(size: usize, kernel: usize, window: Window) -> Option<usize> {
    Some((size + 2 * window.padding).checked_sub(kernel)? / window.stride + 1)
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

/// Max-pooling 3×3, stride 2, one pixel of padding, of non-negative values `[1, c, height, width]` (behind a
/// ReLU zero padding and no padding are the same).
///
/// # Errors
/// A tensor of another rank.
pub fn max_pool_3x3(x: &Tensor) -> Result<Tensor> {
    let (_, channels, height, width) = x.dims4()?;
    if !x.device().is_cpu() {
        return x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2);
    }
    let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
    // What is not a number stays so.
    let greater = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let mut y = vec![0f32; channels * out_height * out_width];
    with_cpu_values(&x.contiguous()?, |x| {
        let out_plane = out_height * out_width;
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
    })?;
    Tensor::from_vec(y, (1, channels, out_height, out_width), x.device())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn wave(shape: &[usize], step: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| libm::sinf(i as f32 * step)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (cpu_vec(a).unwrap(), cpu_vec(b).unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn equals_the_library_s_convolution() {
        for (kernel, stride, padding, groups) in
            [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 4), (3, 1, 1, 2), (7, 2, 3, 1)]
        {
            for (height, width) in [(9, 14), (7, 7), (1, 5), (70, 90)] {
                let x = wave(&[1, 8, height, width], 0.37);
                let (weight, bias) = (wave(&[12, 8 / groups, kernel, kernel], 0.61), wave(&[12], 1.1));
                let window = Window { stride, padding, groups };
                let expected = x.conv2d(&weight, padding, stride, 1, groups).unwrap();
                let expected = expected.broadcast_add(&bias.reshape((1, 12, 1, 1)).unwrap()).unwrap();
                let addend = wave(expected.dims(), 0.9);
                let conv = Conv2d::new(weight, bias, window).unwrap();
                let plain = conv.forward(&x, None).unwrap();
                assert!(difference(&plain, &expected) < 2e-5, "{kernel} {window:?} {height}x{width}");
                let full = conv.with_relu().forward(&x, Some(&addend)).unwrap();
                let expected = (expected + addend).unwrap().relu().unwrap();
                assert!(difference(&full, &expected) < 2e-5, "{kernel} {window:?} {height}x{width}");
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let conv = Conv2d::new(wave(&[4, 3, 3, 3], 0.1), wave(&[4], 0.1), Window::POINT).unwrap();
        assert!(conv.forward(&wave(&[1, 3, 2, 9], 0.1), None).is_err());
        assert!(conv.forward(&wave(&[1, 4, 9, 9], 0.1), None).is_err());
        assert!(conv.forward(&wave(&[1, 3, 5, 5], 0.1), Some(&wave(&[1, 4, 5, 5], 0.1))).is_err());
    }

    #[test]
    fn max_pool_equals_the_padded_one() {
        for (height, width) in [(1, 1), (5, 8), (8, 5), (6, 6)] {
            let x = wave(&[1, 3, height, width], 0.7).relu().unwrap();
            let padded = x.pad_with_zeros(2, 1, 1).unwrap().pad_with_zeros(3, 1, 1).unwrap();
            let expected = padded.max_pool2d_with_stride(3, 2).unwrap();
            assert_eq!(difference(&max_pool_3x3(&x).unwrap(), &expected), 0.0);
        }
    }

    #[test]
    fn large_ones_equal_the_library_s_on_any_number_of_threads() {
        let x = wave(&[1, 64, 64, 64], 0.13);
        let bias = Tensor::zeros(256, DType::F32, &Device::Cpu).unwrap();
        for groups in [1, 2] {
            // The first by Winograd's way, the second without unrolling, group by group.
            let weight = wave(&[256, 64 / groups, 3, 3], 0.29);
            let library = cpu_vec(&x.conv2d(&weight, 1, 1, 1, groups).unwrap()).unwrap();
            let conv = Conv2d::new(weight, bias.clone(), Window { groups, ..Window::SAME_3 }).unwrap();
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| cpu_vec(&conv.forward(&x, None).unwrap()).unwrap())
            };
            let one = on(1);
            assert_eq!(one, on(3));
            let largest = library.iter().fold(0f32, |max, value| max.max(value.abs()));
            let off = one.iter().zip(&library).map(|(y, library)| (y - library).abs()).fold(0f32, f32::max);
            assert!(off < 2e-5 * largest, "{groups} groups: {off} of {largest}");
        }
    }
}
