//! Feature maps of one picture, for inference: the passes over them, which a backend runs, and the operations of a detector but
//! for its convolutions. It knows no network.
//!
//! A map is a tensor of one picture. On the CPU it has its values channel by channel, [1, channels, height, width], on a GPU place by
//! place, [1, height, width, channels]: a 1×1 convolution is then a plain product there.

use candle_core::op::BackpropOp;
use candle_core::{D, Device, Error, Result, Tensor};

use super::backend::Backend;
use super::composed::Composed;
use super::compute::{Compute, Engine, Job, Values};
use super::conv::Conv2d;
use super::cpu_tensor::cpu_vec;
use super::op::Locked;
use super::roi_align::{Level, RoiAlign};

/// The size of a feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSize {
    /// Values of a place.
    pub channels: usize,
    /// Lines.
    pub height: usize,
    /// Places of a line.
    pub width: usize,
}

impl MapSize {
    /// Places of the map.
    pub fn places(self) -> usize {
        self.height * self.width
    }

    /// Values of the map.
    pub fn values(self) -> usize {
        self.channels * self.places()
    }

    /// The size with every second line and place.
    pub fn halved(self) -> Self {
        Self { height: self.height.div_ceil(2), width: self.width.div_ceil(2), ..self }
    }
}

/// What is added to the sums of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct Addend<V> {
    /// A map of the output's size, or of half of it.
    pub values: V,
    /// Whether it has half the height and width: each place then counts for four of the output.
    pub is_half: bool,
}

impl<V> Addend<V> {
    /// A map of the output's size.
    pub fn same(values: V) -> Self {
        Self { values, is_half: false }
    }

    /// A map of half the output's height and width.
    pub fn half(values: V) -> Self {
        Self { values, is_half: true }
    }
}

/// Two lines (or columns) of a picture, between which one of the canvas is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Between {
    /// The nearer to 0.
    pub first: u32,
    /// The other one.
    pub second: u32,
    /// The weight of the second, 0 to 1.
    pub weight: f32,
}

/// A picture, and how it is put on a canvas.
#[derive(Debug, Clone, Copy)]
pub struct CanvasInput<'a> {
    /// Red, green and blue of each pixel, line by line.
    pub rgb: &'a [u8],
    /// Pixels of a line of the picture.
    pub picture_width: usize,
    /// Of each line of the scaled picture.
    pub lines: &'a [Between],
    /// Of each column of the scaled picture.
    pub columns: &'a [Between],
    /// Subtracted from blue, green and red.
    pub means_bgr: [f32; 3],
    /// Of the canvas, which is at least as high and wide as the scaled picture: three channels.
    pub size: MapSize,
}

/// A backend with the passes of a detector. Shapes were checked before; every method fails only if the device does.
pub trait MapBackend: Backend {
    /// The scaled picture less the means, blue, green, red; zeros beyond it.
    fn canvas(&self, input: &CanvasInput<'_>) -> Result<Self::Buffer>;
    /// The convolution of `x` with what follows it: bias, addend, ReLU.
    fn convolve(
        &self,
        conv: &Conv2d,
        x: Self::View<'_>,
        size: MapSize,
        addend: Option<Addend<Self::View<'_>>>,
    ) -> Result<Self::Buffer>;
    /// The greatest of each window of `window` × `window` places, 2 apart, from (1 - `window`) / 2 on. Odd windows; values that
    /// are not negative where it is 3.
    fn max_pool(&self, x: Self::View<'_>, size: MapSize, window: usize) -> Result<Self::Buffer>;
    /// Boxes pooled from their levels, [`count`, channels · bins²], channel by channel.
    fn pool_boxes(
        &self,
        align: RoiAlign,
        levels: &[Level<Self::View<'_>>],
        count: usize,
    ) -> Result<Self::Buffer>;
    /// x Wᵀ + b of `x` [rows, inputs], with a ReLU where `layer` has one.
    fn affine(&self, layer: Affine<'_>, x: Self::View<'_>) -> Result<Self::Buffer>;
    /// The softmax of each row of `x`, in place.
    fn softmax(&self, x: Self::Buffer, columns: usize) -> Result<Self::Buffer>;
}

/// An affine map with what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// [outputs, inputs]
    pub weight: &'a Tensor,
    /// `[outputs]`
    pub bias: &'a Tensor,
    /// Whether a ReLU ends it.
    pub relu: bool,
}

impl Compute {
    fn has_channels_last(&self) -> bool {
        matches!(self.0.engine, Engine::Gpu(_))
    }

    /// The size of a map.
    ///
    /// # Errors
    /// A tensor of another rank, or of several pictures.
    pub fn map_size(&self, map: &Tensor) -> Result<MapSize> {
        match (map.dims(), self.has_channels_last()) {
            (&[1, channels, height, width], false) | (&[1, height, width, channels], true) => {
                Ok(MapSize { channels, height, width })
            }
            (shape, _) => Err(Error::msg(format!("a tensor {shape:?} is not the map of one picture"))),
        }
    }

    /// Where a map has the value of a channel at a place.
    pub fn map_index(&self, size: MapSize, channel: usize, place: usize) -> usize {
        match self.has_channels_last() {
            true => place * size.channels + channel,
            false => channel * size.places() + place,
        }
    }

    /// The shape of a map's tensor.
    pub(super) fn map_shape(&self, MapSize { channels, height, width }: MapSize) -> [usize; 4] {
        if self.has_channels_last() { [1, height, width, channels] } else { [1, channels, height, width] }
    }

    /// A convolution's weight [out, in, k, k] with its values as maps have theirs.
    pub(super) fn weight_of(&self, weight: &Tensor) -> Result<Tensor> {
        match self.has_channels_last() {
            true => weight.permute((0, 2, 3, 1))?.contiguous(),
            false => weight.contiguous(),
        }
    }

    /// Whether phases of several pictures take turns: a GPU has one queue and one memory.
    pub fn takes_turns(&self) -> bool {
        matches!(self.0.engine, Engine::Gpu(_))
    }

    /// The values of a contiguous tensor in host memory. Waits for the device.
    ///
    /// # Errors
    /// A tensor that is not f32 on the device, or a device that fails.
    pub fn values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        if self.has_channels_last() { self.run(Values(tensor)) } else { cpu_vec(tensor) }
    }

    /// A picture's canvas.
    ///
    /// # Errors
    /// Only if the device fails.
    pub fn canvas(&self, input: &CanvasInput<'_>) -> Result<Tensor> {
        self.run(CanvasJob { input, shape: self.map_shape(input.size), device: self.device() })
    }

    /// Max-pooling with a stride of 2: a window of 3 with one place of padding, of non-negative values (behind a ReLU zero
    /// padding and no padding are the same), or of 1, which leaves every second line and place.
    ///
    /// # Errors
    /// A tensor that is not a map.
    pub fn max_pool(&self, x: &Tensor, window: usize) -> Result<Tensor> {
        let size = self.map_size(x)?;
        self.run(MaxPoolJob { x: &x.contiguous()?, size, window, shape: self.map_shape(size.halved()) })
    }

    /// Pools boxes from the levels that list them, [`count`, channels · bins²], channel by channel.
    ///
    /// # Errors
    /// A tensor that is not a map.
    pub fn pool_boxes(&self, align: RoiAlign, levels: &[Level<&Tensor>], count: usize) -> Result<Tensor> {
        let maps = levels.iter().map(|level| level.map.contiguous()).collect::<Result<Vec<_>>>()?;
        self.run(PoolJob { align, levels, maps: &maps, count })
    }

    /// `layer` of `x` [n, in]: [n, out].
    ///
    /// # Errors
    /// Shapes that do not fit together.
    pub fn affine(&self, layer: Affine<'_>, x: &Tensor) -> Result<Tensor> {
        let ((rows, depth), (width, weight_depth)) = (x.dims2()?, layer.weight.dims2()?);
        if depth != weight_depth || layer.bias.dims() != [width] {
            let (x, w, b) = (x.shape(), layer.weight.shape(), layer.bias.shape());
            return Err(Error::Msg(format!("an affine map of {x:?} with weight {w:?} and bias {b:?}")));
        }
        self.run(AffineJob { layer, x: &x.contiguous()?, shape: [rows, width] })
    }

    /// The softmax of each row of `x` [n, columns], without gradients.
    ///
    /// # Errors
    /// A tensor of another rank or kind.
    pub fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        match x.dims2()? {
            (0, _) => Ok(x.clone()),
            (rows, columns) => self.run(SoftmaxJob { x: &x.contiguous()?, shape: [rows, columns] }),
        }
    }
}

/// A buffer as a tensor.
pub(super) fn tensor_of<B: Backend>(on: &B, buffer: B::Buffer, shape: &[usize]) -> Tensor {
    Tensor::from_storage(on.storage_of(buffer), shape, BackpropOp::none(), false)
}

struct CanvasJob<'a> {
    input: &'a CanvasInput<'a>,
    shape: [usize; 4],
    device: &'a Device,
}

impl Job for CanvasJob<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        Ok(tensor_of(on, on.canvas(self.input)?, &self.shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        Tensor::from_vec(super::cpu::canvas(self.input), &self.shape, self.device)
    }
}

struct MaxPoolJob<'a> {
    x: &'a Tensor,
    size: MapSize,
    window: usize,
    shape: [usize; 4],
}

impl Job for MaxPoolJob<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        let x = Locked::new(self.x)?;
        Ok(tensor_of(on, on.max_pool(x.view(on)?, self.size, self.window)?, &self.shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        let padding = self.window / 2;
        let padded = self.x.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        match self.window {
            1 => {
                let every_second = |size: usize| {
                    let places: Vec<u32> = (0..size as u32).step_by(2).collect();
                    Tensor::from_vec(places, size.div_ceil(2), self.x.device())
                };
                let MapSize { height, width, .. } = self.size;
                padded.index_select(&every_second(height)?, 2)?.index_select(&every_second(width)?, 3)
            }
            window => padded.max_pool2d_with_stride(window, 2),
        }
    }
}

struct PoolJob<'a> {
    align: RoiAlign,
    levels: &'a [Level<&'a Tensor>],
    /// Of the levels, contiguous.
    maps: &'a [Tensor],
    count: usize,
}

impl Job for PoolJob<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        let maps = self.maps.iter().map(Locked::new).collect::<Result<Vec<_>>>()?;
        let mut levels = Vec::new();
        for (map, Level { size, scale, boxes, .. }) in maps.iter().zip(self.levels) {
            levels.push(Level { map: map.view(on)?, size: *size, scale: *scale, boxes: boxes.clone() });
        }
        let channels = levels.first().map_or(0, |level| level.size.channels);
        let shape = [self.count, channels * self.align.bins * self.align.bins];
        Ok(tensor_of(on, on.pool_boxes(self.align, &levels, self.count)?, &shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        self.align.gather(self.levels, self.count)
    }
}

struct AffineJob<'a> {
    layer: Affine<'a>,
    x: &'a Tensor,
    shape: [usize; 2],
}

impl Job for AffineJob<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        let x = Locked::new(self.x)?;
        Ok(tensor_of(on, on.affine(self.layer, x.view(on)?)?, &self.shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        let y = self.x.matmul(&self.layer.weight.t()?)?.broadcast_add(self.layer.bias)?;
        if self.layer.relu { y.relu() } else { Ok(y) }
    }
}

struct SoftmaxJob<'a> {
    x: &'a Tensor,
    shape: [usize; 2],
}

impl Job for SoftmaxJob<'_> {
    type Output = Tensor;

    fn run<B: MapBackend>(self, on: &B) -> Result<Tensor> {
        let x = on.copy(Locked::new(self.x)?.view(on)?)?;
        Ok(tensor_of(on, on.softmax(x, self.shape[1])?, &self.shape))
    }

    fn composed(self, _: &Composed) -> Result<Tensor> {
        let shifted = self.x.broadcast_sub(&self.x.max_keepdim(D::Minus1)?)?.exp()?;
        shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
    }
}
