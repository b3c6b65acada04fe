//! The passes of a detector over feature maps, which have their channels last.

use candle_core::Result;

use super::driver::{Pairs, Steps, args};
use super::memory::{Buffer, View, view};
use super::{Geometry, Gpu};
use crate::nn::conv::Conv2d;
use crate::nn::maps::{Addend, Affine, Between, CanvasInput, MapBackend, MapSize};
use crate::nn::roi_align::{Level, RoiAlign};
use crate::nn::winograd;

/// Places of a map that a block of the convolution computes.
const BLOCK_ROWS: usize = 128;
/// Outputs of a block, narrowest first, and the kernels for them.
const WIDTHS: [(usize, &str); 5] =
    [(8, "conv_8"), (16, "conv_16"), (32, "conv_32"), (64, "conv_64"), (128, "conv_128")];
/// Fewer blocks than this leave many of a GPU's multiprocessors without work: then blocks are narrower. Reckoned for the 108 to 132 of
/// large GPUs, not measured; which kernel computes an output does not change its value.
const ENOUGH_BLOCKS: usize = 256;
/// Channels of a block of `roi_align`.
const POOLED_CHANNELS: usize = 64;

/// A product of the weights with the unrolled input, for each of some groups.
struct Product<'a> {
    input: MapSize,
    output: MapSize,
    /// Window, stride and padding.
    window: [usize; 3],
    groups: usize,
    /// Values from one group of the input, of the weights and of the output to the next.
    steps: [usize; 3],
    /// Channels of the input and of the output that a group has.
    channels: [usize; 2],
    bias: Option<View<'a>>,
    addend: Option<Addend<View<'a>>>,
    relu: bool,
}

impl Gpu {
    fn conv(&self, out: &mut Buffer, x: View<'_>, weight: View<'_>, product: &Product<'_>) -> Result<()> {
        let Product { input, output, window: [window, stride, padding], groups, steps, .. } = *product;
        let [depth, outputs] = product.channels;
        let rows = output.places();
        let blocks = |width: usize| rows.div_ceil(BLOCK_ROWS) * outputs.div_ceil(width);
        let widest = if blocks(128) * groups < ENOUGH_BLOCKS { 64 } else { 128 };
        let is_wide_enough = |(width, _): &&(usize, &str)| *width >= outputs.min(widest);
        let &(width, kernel) = WIDTHS.iter().find(is_wide_enough).unwrap_or(&WIDTHS[4]);
        let is_half = product.addend.is_some_and(|addend| addend.is_half);
        let args = args![
            out,
            x,
            weight,
            product.bias,
            product.addend.map(|addend| addend.values),
            Pairs([input.height, input.width, input.channels, window, stride, padding]),
            depth,
            Pairs([rows, output.width, output.channels, outputs, is_half.into(), product.relu.into()]),
            Steps(steps),
        ];
        self.launch(kernel, Geometry::new([blocks(width), 1, groups], 256), args)
    }

    /// A 3×3 convolution of stride 1 by Winograd's method: `filters` are transformed, [36, out, channels].
    fn winograd(
        &self,
        filters: View<'_>,
        x: View<'_>,
        (input, output): (MapSize, MapSize),
        (bias, addend): (View<'_>, Option<View<'_>>),
        relu: bool,
    ) -> Result<Buffer> {
        let MapSize { channels, height, width } = input;
        let count = height.div_ceil(winograd::OUT) * width.div_ceil(winograd::OUT);
        let mut tiles = self.driver.alloc(winograd::PLACES * count * channels)?;
        let args = args![&mut tiles, x, height, width, channels, count];
        self.launch("winograd_input", Geometry::flat(count * channels), args)?;
        let outputs = output.channels;
        let mut products = self.driver.alloc(winograd::PLACES * count * outputs)?;
        let line = |channels: usize| MapSize { channels, height: 1, width: count };
        let product = Product {
            input: line(channels),
            output: line(outputs),
            window: [1, 1, 0],
            groups: winograd::PLACES,
            steps: [count * channels, outputs * channels, count * outputs],
            channels: [channels, outputs],
            bias: None,
            addend: None,
            relu: false,
        };
        self.conv(&mut products, tiles.view(), filters, &product)?;
        drop(tiles);
        let mut out = self.driver.alloc(output.values())?;
        let args = args![&mut out, products.view(), bias, addend, height, width, outputs, count, relu];
        self.launch("winograd_output", Geometry::flat(count * outputs), args)?;
        Ok(out)
    }

    /// Copies words to the device.
    fn table<'a>(&self, words: impl IntoIterator<Item = &'a Between>) -> Result<Buffer> {
        let words = words.into_iter();
        let words = words.flat_map(|between| [between.first, between.second, between.weight.to_bits()]);
        self.driver.upload(&words.collect::<Vec<u32>>())
    }
}

impl MapBackend for Gpu {
    fn canvas(&self, input: &CanvasInput<'_>) -> Result<Buffer> {
        let CanvasInput { rgb, picture_width, lines, columns, means_bgr: [blue, green, red], size } = *input;
        let words = rgb.chunks(4).map(|bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            u32::from_le_bytes(word)
        });
        let rgb = self.driver.upload(&words.collect::<Vec<_>>())?;
        let (line_table, column_table) = (self.table(lines)?, self.table(columns)?);
        let mut out = self.driver.alloc(size.values())?;
        let args = args![
            &mut out,
            rgb.view(),
            line_table.view(),
            column_table.view(),
            picture_width,
            lines.len(),
            columns.len(),
            size.width,
            size.places(),
            blue,
            green,
            red,
        ];
        self.launch("canvas", Geometry::flat(size.places()), args)?;
        Ok(out)
    }

    fn convolve(
        &self,
        conv: &Conv2d,
        x: View<'_>,
        size: MapSize,
        addend: Option<Addend<View<'_>>>,
    ) -> Result<Buffer> {
        let output = conv.output_size(size)?;
        let bias = view(&conv.bias)?;
        if let Some(filters) = &conv.filters
            && addend.is_none_or(|addend| !addend.is_half)
        {
            let addend = addend.map(|addend| addend.values);
            return self.winograd(view(&filters.values)?, x, (size, output), (bias, addend), conv.relu);
        }
        let outputs = conv.outputs / conv.window.groups;
        let product = Product {
            input: size,
            output,
            window: [conv.kernel, conv.window.stride, conv.window.padding],
            groups: conv.window.groups,
            steps: [conv.depth, outputs * conv.kernel * conv.kernel * conv.depth, outputs],
            channels: [conv.depth, outputs],
            bias: Some(bias),
            addend,
            relu: conv.relu,
        };
        let mut out = self.driver.alloc(output.values())?;
        self.conv(&mut out, x, view(&conv.weight)?, &product)?;
        Ok(out)
    }

    fn max_pool(&self, x: View<'_>, size: MapSize, window: usize) -> Result<Buffer> {
        let MapSize { channels, height, width } = size;
        let output = size.halved();
        let mut out = self.driver.alloc(output.values())?;
        let args = args![&mut out, x, height, width, channels, window];
        self.launch("max_pool", Geometry::matrix(output.places(), channels), args)?;
        Ok(out)
    }

    fn pool_boxes(&self, align: RoiAlign, levels: &[Level<View<'_>>], count: usize) -> Result<Buffer> {
        let RoiAlign { bins, samples } = align;
        let values = levels.first().map_or(0, |level| level.size.channels) * bins * bins;
        let mut out = self.driver.alloc(count * values)?;
        let words = |&(row, corners): &(usize, [f32; 4])| {
            let [x1, y1, x2, y2] = corners.map(f32::to_bits);
            [x1, y1, x2, y2, row as u32]
        };
        for Level { map, size, scale, boxes } in levels {
            if boxes.is_empty() {
                continue;
            }
            let MapSize { channels, height, width } = *size;
            let table = self.driver.upload(&boxes.iter().flat_map(words).collect::<Vec<u32>>())?;
            let written = out.at().writing(boxes.len() * values);
            let args = args![written, *map, table.view(), height, width, channels, bins, samples, *scale];
            let grid = [boxes.len(), channels.div_ceil(POOLED_CHANNELS), 1];
            self.launch("roi_align", Geometry::new(grid, 256), args)?;
        }
        Ok(out)
    }

    fn affine(&self, Affine { weight, bias, relu }: Affine<'_>, x: View<'_>) -> Result<Buffer> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = x.len() / inputs;
        let line = |channels: usize| MapSize { channels, height: 1, width: rows };
        let product = Product {
            input: line(inputs),
            output: line(outputs),
            window: [1, 1, 0],
            groups: 1,
            steps: [0; 3],
            channels: [inputs, outputs],
            bias: Some(view(bias)?),
            addend: None,
            relu,
        };
        let mut out = self.driver.alloc(rows * outputs)?;
        self.conv(&mut out, x, view(weight)?, &product)?;
        Ok(out)
    }

    fn softmax(&self, mut x: Buffer, columns: usize) -> Result<Buffer> {
        let rows = x.len() / columns;
        // Each value is read and written.
        let at = x.at();
        self.launch("softmax", Geometry::rows(rows), args![at, rows, columns])?;
        Ok(x)
    }
}
