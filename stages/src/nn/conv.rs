//! Convolution for inference: grouped, with bias, an optional addend and ReLU, on one picture at a time. It knows no network.

use candle_core::{Error, Result, Tensor};

use super::composed::Composed;
use super::compute::{Compute, Job};
use super::cpu_tensor::cpu_vec;
use super::maps::{Addend, MapBackend, MapSize, tensor_of};
use super::op::Locked;
use super::winograd::Filters;

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
    compute: Compute,
    /// Its values are in the order that maps have theirs in: [out, in / groups, k, k], or [out, k, k, in / groups] on a GPU.
    pub(super) weight: Tensor,
    /// `[out]`
    pub(super) bias: Tensor,
    /// The weight transformed, where that is the faster way.
    pub(super) filters: Option<Filters>,
    pub(super) window: Window,
    pub(super) relu: bool,
    pub(super) outputs: usize,
    /// Inputs of a group.
    pub(super) depth: usize,
    pub(super) kernel: usize,
}

impl Conv2d {
    /// A convolution of `weight` `[out, in / groups, k, k]` and `bias` `[out]`, computed by `compute`.
    ///
    /// # Errors
    /// Shapes that are not those.
    pub fn new(compute: &Compute, weight: &Tensor, bias: Tensor, window: Window) -> Result<Self> {
        let (outputs, depth, kernel, width) = weight.dims4()?;
        if kernel != width || bias.dims() != [outputs] || !outputs.is_multiple_of(window.groups) {
            let (weight, bias) = (weight.shape(), bias.shape());
            return Err(Error::Msg(format!("a convolution of weight {weight:?}, bias {bias:?}, {window:?}")));
        }
        let filters = match kernel {
            3 if window == Window::SAME_3 && !compute.is_composed() => {
                Filters::new(&cpu_vec(weight)?, outputs, depth, weight.device())?
            }
            _ => None,
        };
        let (compute, weight) = (compute.clone(), compute.weight_of(weight)?);
        Ok(Self { compute, weight, bias, filters, window, relu: false, outputs, depth, kernel })
    }

    /// A convolution of a `weight` that a listing gave and that has no values: it is not to be computed with.
    pub fn listed(compute: &Compute, weight: &Tensor, window: Window) -> Self {
        let (weight, bias, compute) = (weight.clone(), weight.clone(), compute.clone());
        Self { compute, weight, bias, filters: None, window, relu: false, outputs: 0, depth: 0, kernel: 0 }
    }

    /// The same with a ReLU behind it.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// The size of the output for a map of this size.
    ///
    /// # Errors
    /// The map has other channels, or the window does not fit into it once.
    pub(super) fn output_size(&self, size: MapSize) -> Result<MapSize> {
        let Window { stride, padding, groups } = self.window;
        let along = |size: usize| Some((size + 2 * padding).checked_sub(self.kernel)? / stride + 1);
        match (along(size.height), along(size.width)) {
            (Some(height), Some(width)) if size.channels == self.depth * groups => {
                Ok(MapSize { channels: self.outputs, height, width })
            }
            _ => {
                let (weight, window) = (self.weight.shape(), self.window);
                Err(Error::Msg(format!("a convolution of {size:?} with {weight:?}, {window:?}")))
            }
        }
    }

    /// Convolves the map `x`, adds `addend` and applies the ReLU.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, addend: Option<Addend<&Tensor>>) -> Result<Tensor> {
        let size = self.compute.map_size(x)?;
        let out = self.output_size(size)?;
        let x = x.contiguous()?;
        let contiguous = addend.map(|addend| addend.values.contiguous()).transpose()?;
        let addend = addend.zip(contiguous.as_ref()).map(|(addend, values)| Addend { values, ..addend });
        if let Some(Addend { values, is_half }) = addend {
            let found = self.compute.map_size(values)?;
            let twice = MapSize { height: 2 * found.height, width: 2 * found.width, ..found };
            if out != (if is_half { twice } else { found }) {
                return Err(Error::Msg(format!("adding {found:?} to an output of {out:?}")));
            }
        }
        let shape = self.compute.map_shape(out);
        self.compute.run(Convolve { conv: self, x: &x, size, addend, shape })
    }
}

struct Convolve<'a> {
    conv: &'a Conv2d,
    x: &'a Tensor,
    size: MapSize,
    addend: Option<Addend<&'a Tensor>>,
    shape: [usize; 4],
}

impl Job for Convolve<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        let x = Locked::new(self.x)?;
        let locked = self.addend.map(|addend| Locked::new(addend.values)).transpose()?;
        let addend = match (&locked, self.addend) {
            (Some(locked), Some(Addend { is_half, .. })) => {
                Some(Addend { values: locked.view(on)?, is_half })
            }
            _ => None,
        };
        Ok(tensor_of(on, on.convolve(self.conv, x.view(on)?, self.size, addend)?, &self.shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        let Conv2d { weight, bias, window: Window { stride, padding, groups }, relu, .. } = self.conv;
        let y = self.x.conv2d(weight, *padding, *stride, 1, *groups)?;
        let y = y.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
        let y = match self.addend {
            None => y,
            Some(Addend { values, is_half: false }) => (y + values)?,
            Some(Addend { values, is_half: true }) => {
                let [_, _, height, width] = self.shape;
                (y + values.upsample_nearest2d(height, width)?)?
            }
        };
        if *relu { y.relu() } else { Ok(y) }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::Precision;

    fn cpu() -> Compute {
        Compute::for_device(&Device::Cpu, Precision::F32).unwrap()
    }

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
                let conv = Conv2d::new(&cpu(), &weight, bias, window).unwrap();
                let plain = conv.forward(&x, None).unwrap();
                assert!(difference(&plain, &expected) < 2e-5, "{kernel} {window:?} {height}x{width}");
                let full = conv.with_relu().forward(&x, Some(Addend::same(&addend))).unwrap();
                let expected = (expected + addend).unwrap().relu().unwrap();
                assert!(difference(&full, &expected) < 2e-5, "{kernel} {window:?} {height}x{width}");
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let conv = Conv2d::new(&cpu(), &wave(&[4, 3, 3, 3], 0.1), wave(&[4], 0.1), Window::POINT).unwrap();
        assert!(conv.forward(&wave(&[1, 3, 2, 9], 0.1), None).is_err());
        assert!(conv.forward(&wave(&[1, 4, 9, 9], 0.1), None).is_err());
        let addend = wave(&[1, 4, 5, 5], 0.1);
        assert!(conv.forward(&wave(&[1, 3, 5, 5], 0.1), Some(Addend::same(&addend))).is_err());
        assert!(conv.forward(&wave(&[1, 3, 5, 5], 0.1), Some(Addend::half(&addend))).is_err());
    }

    #[test]
    fn max_pool_equals_the_padded_one() {
        for (height, width) in [(1, 1), (5, 8), (8, 5), (6, 6)] {
            let x = wave(&[1, 3, height, width], 0.7).relu().unwrap();
            let padded = x.pad_with_zeros(2, 1, 1).unwrap().pad_with_zeros(3, 1, 1).unwrap();
            let expected = padded.max_pool2d_with_stride(3, 2).unwrap();
            assert_eq!(difference(&cpu().max_pool(&x, 3).unwrap(), &expected), 0.0);
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
            let conv =
                Conv2d::new(&cpu(), &weight, bias.clone(), Window { groups, ..Window::SAME_3 }).unwrap();
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
