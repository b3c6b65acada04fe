//! Convolutions and max-pooling of maps with their channels last, against their definitions.

use crate::support::*;

/// Products of 22 bits of each factor, up to some hundred of them added in float32.
const PRODUCTS: f64 = 1e-6;

/// A convolution: its shape, and what follows its sums.
#[derive(Clone, Copy)]
struct Shape {
    height: usize,
    width: usize,
    groups: usize,
    /// Channels of a group.
    depth: usize,
    /// Outputs of a group.
    outputs: usize,
    window: usize,
    stride: usize,
    padding: usize,
    has_bias: bool,
    addend: Addend,
    relu: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Addend {
    None,
    Same,
    Half,
}

/// Between them every width of the kernel, more than a block of rows, windows beyond the map, channels that are no multiple of four.
const SHAPES: [Shape; 8] = {
    const POINT: Shape = Shape {
        height: 3,
        width: 5,
        groups: 1,
        depth: 20,
        outputs: 5,
        window: 1,
        stride: 1,
        padding: 0,
        has_bias: true,
        addend: Addend::None,
        relu: true,
    };
    const SAME_3: Shape = Shape { window: 3, padding: 1, ..POINT };
    [
        POINT,
        Shape { height: 12, width: 14, depth: 41, outputs: 130, addend: Addend::Half, ..POINT },
        Shape {
            height: 13,
            width: 11,
            depth: 36,
            outputs: 70,
            addend: Addend::Same,
            has_bias: false,
            ..POINT
        },
        Shape { stride: 2, outputs: 9, depth: 8, relu: false, ..POINT },
        Shape { groups: 3, depth: 8, outputs: 8, height: 17, width: 9, ..SAME_3 },
        Shape { groups: 2, depth: 16, outputs: 32, stride: 2, ..SAME_3 },
        Shape { depth: 3, outputs: 20, window: 7, stride: 2, padding: 3, ..POINT },
        Shape { height: 1, width: 131, depth: 4, outputs: 64, relu: false, ..SAME_3 },
    ]
};

impl Shape {
    fn out_size(&self) -> (usize, usize) {
        let size = |size: usize| (size + 2 * self.padding - self.window) / self.stride + 1;
        (size(self.height), size(self.width))
    }

    /// The kernel for these outputs: `conv@sm70` is `conv_64@sm70`, for one.
    fn name(&self, kernel: &str) -> (String, usize) {
        let width = [8, 16, 32, 64, 128].into_iter().find(|width| *width >= self.outputs).unwrap_or(128);
        let (name, suffix) = kernel.split_at(kernel.find('@').unwrap_or(kernel.len()));
        (format!("{name}_{width}{suffix}"), width)
    }

    fn expected(&self, x: &Buffer, weight: &Buffer, bias: &Buffer, addend: &Buffer) -> Vec<f64> {
        let Self { height, width, groups, depth, outputs, window, stride, padding, .. } = *self;
        let (out_height, out_width) = self.out_size();
        let (channels, all) = (groups * depth, groups * outputs);
        let mut expected = Vec::new();
        for (y, x_out) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
            for output in 0..all {
                let mut sum = if self.has_bias { bias.at(output) } else { 0.0 };
                sum += match self.addend {
                    Addend::None => 0.0,
                    Addend::Same => addend.at((y * out_width + x_out) * all + output),
                    Addend::Half => addend.at((y / 2 * (out_width / 2) + x_out / 2) * all + output),
                };
                for tap in 0..window * window {
                    let (row, column) = (y * stride + tap / window, x_out * stride + tap % window);
                    let inside = (padding..height + padding).contains(&row)
                        && (padding..width + padding).contains(&column);
                    for c in (0..depth).filter(|_| inside) {
                        let place = (row - padding) * width + column - padding;
                        let value = x.at(place * channels + output / outputs * depth + c);
                        sum += value * weight.at((output * window * window + tap) * depth + c);
                    }
                }
                expected.push(if self.relu { sum.max(0.0) } else { sum });
            }
        }
        expected
    }
}

/// `struct Input` and its like, which are three words of 64 bits.
fn words(values: [usize; 6]) -> Arg {
    packed([0, 1, 2].map(|i| values[2 * i] as u64 | (values[2 * i + 1] as u64) << 32))
}

pub fn conv(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for shape in SHAPES {
        let Shape { height, width, groups, depth, outputs, window, stride, padding, .. } = shape;
        let ((out_height, out_width), all) = (shape.out_size(), groups * outputs);
        let (x, weight) =
            (random.values(height * width * groups * depth), random.values(all * window * window * depth));
        let (bias, rows) = (random.values(all), out_height * out_width);
        let addend = random.values(rows * all);
        let expected = shape.expected(&x, &weight, &bias, &addend);
        let mut out = Buffer::poisoned(rows * all);
        let (name, columns) = shape.name(kernel);
        let args = [
            output(&mut out),
            input(&x),
            input(&weight),
            if shape.has_bias { input(&bias) } else { NULL },
            if shape.addend == Addend::None { NULL } else { input(&addend) },
            words([height, width, groups * depth, window, stride, padding]),
            size(depth),
            words([
                rows,
                out_width,
                all,
                outputs,
                usize::from(shape.addend == Addend::Half),
                usize::from(shape.relu),
            ]),
            packed([depth, outputs * window * window * depth, outputs].map(|step| step as u64)),
        ];
        let grid = [rows.div_ceil(128) * outputs.div_ceil(columns), 1, groups];
        launch(&name, (grid, 256), &args, seed)?;
        close(&format!("{name} of {height}x{width}"), &out, &expected, PRODUCTS)?;
    }
    Ok(())
}

/// The points that Winograd's transforms interpolate at.
const POINTS: [f64; 5] = [0.0, 0.75, -0.75, 1.5, -1.5];

/// The matrices of the transforms, derived from the points: of the input [6][6], of products back [4][6]. Column i of the second
/// is the powers of point i, the last one that of infinity. Row i of the first has the coefficients of the product of all
/// (x - point) but point i's; the last one those of the product of all.
fn transforms() -> ([[f64; 6]; 6], [[f64; 6]; 4]) {
    let product = |points: &mut dyn Iterator<Item = f64>| {
        let mut coefficients = [0.0; 6];
        coefficients[0] = 1.0;
        for point in points {
            for i in (0..6).rev() {
                let below = if i > 0 { coefficients[i - 1] } else { 0.0 };
                coefficients[i] = below - point * coefficients[i];
            }
        }
        coefficients
    };
    let without = |i: usize| {
        let others = POINTS.iter().enumerate().filter(|(other, _)| *other != i).map(|(_, point)| *point);
        product(&mut others.collect::<Vec<_>>().into_iter())
    };
    let of_input =
        [without(0), without(1), without(2), without(3), without(4), product(&mut POINTS.into_iter())];
    let power = |point: f64, exponent: usize| (0..exponent).map(|_| point).product::<f64>();
    let line = |exponent: usize| {
        std::array::from_fn(|i| match POINTS.get(i) {
            Some(&point) => power(point, exponent),
            None => f64::from(u8::from(exponent == 3)),
        })
    };
    (of_input, [line(0), line(1), line(2), line(3)])
}

/// Height, width and channels of maps; tiles fill them or do not.
const MAPS: [(usize, usize, usize); 3] = [(8, 4, 3), (5, 7, 300), (1, 13, 2)];

pub fn winograd_input(kernel: &str, seed: u64) -> Checked {
    let (mut random, (transform, _)) = (Random::new(seed), transforms());
    for (height, width, channels) in MAPS {
        let x = random.values(height * width * channels);
        let (across, tiles) = (width.div_ceil(4), height.div_ceil(4) * width.div_ceil(4));
        let mut expected = vec![0.0; 36 * tiles * channels];
        for (tile, channel) in (0..tiles).flat_map(|tile| (0..channels).map(move |c| (tile, c))) {
            let value = |i: usize, j: usize| {
                let (row, column) = (tile / across * 4 + i, tile % across * 4 + j);
                let inside = (1..=height).contains(&row) && (1..=width).contains(&column);
                if inside { x.at(((row - 1) * width + column - 1) * channels + channel) } else { 0.0 }
            };
            for place in 0..36 {
                let sum = (0..36).map(|at| {
                    transform[place / 6][at / 6] * transform[place % 6][at % 6] * value(at / 6, at % 6)
                });
                expected[(place * tiles + tile) * channels + channel] = sum.sum();
            }
        }
        let mut out = Buffer::poisoned(expected.len());
        let sizes = [height, width, channels, tiles].map(size);
        let args = [&[output(&mut out), input(&x)], &sizes[..]].concat();
        launch(kernel, flat(tiles * channels), &args, seed)?;
        close(&format!("tiles of {height}x{width}"), &out, &expected, PRODUCTS)?;
    }
    Ok(())
}

pub fn winograd_output(kernel: &str, seed: u64) -> Checked {
    let (mut random, (_, transform)) = (Random::new(seed), transforms());
    for ((height, width, channels), (has_bias, has_addend, relu)) in
        MAPS.into_iter().zip([(true, false, true), (false, true, false), (true, true, true)])
    {
        let (across, tiles) = (width.div_ceil(4), height.div_ceil(4) * width.div_ceil(4));
        let products = random.values(36 * tiles * channels);
        let (bias, addend) = (random.values(channels), random.values(height * width * channels));
        let mut expected = Vec::new();
        for at in 0..height * width * channels {
            let (row, column, channel) = (at / channels / width, at / channels % width, at % channels);
            let tile = row / 4 * across + column / 4;
            let sum = (0..36).map(|place| {
                let factor = transform[row % 4][place / 6] * transform[column % 4][place % 6];
                factor * products.at((place * tiles + tile) * channels + channel)
            });
            let more = if has_bias { bias.at(channel) } else { 0.0 };
            let sum = sum.sum::<f64>() + more + if has_addend { addend.at(at) } else { 0.0 };
            expected.push(if relu { sum.max(0.0) } else { sum });
        }
        let mut out = Buffer::poisoned(expected.len());
        let args = [
            output(&mut out),
            input(&products),
            if has_bias { input(&bias) } else { NULL },
            if has_addend { input(&addend) } else { NULL },
        ];
        let sizes = [height, width, channels, tiles, usize::from(relu)].map(size);
        launch(kernel, flat(tiles * channels), &[&args[..], &sizes[..]].concat(), seed)?;
        close(&format!("outputs of {height}x{width}"), &out, &expected, PRODUCTS)?;
    }
    Ok(())
}

/// Windows of 3 with a place around the map, and of 1.
pub fn max_pool(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for ((height, width, channels), window) in MAPS.into_iter().flat_map(|map| [(map, 3), (map, 1)]) {
        let mut x = random.values(height * width * channels).values().to_vec();
        // What is not a number stays so.
        x[channels - 1] = f32::NAN;
        let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
        let mut expected = vec![f32::NEG_INFINITY; out_height * out_width * channels];
        for (at, greatest) in expected.iter_mut().enumerate() {
            let (place, channel) = (at / channels, at % channels);
            for row in 0..height {
                for column in 0..width {
                    let near = |at: usize, from: usize| (2 * at).abs_diff(from) <= window / 2;
                    let value = x[(row * width + column) * channels + channel];
                    let is_seen = near(place / out_width, row) && near(place % out_width, column);
                    if is_seen && (value > *greatest || value.is_nan()) {
                        *greatest = value;
                    }
                }
            }
        }
        let mut out = Buffer::poisoned(expected.len());
        let x = Buffer::new(&x);
        let sizes = [height, width, channels, window].map(size);
        let args = [&[output(&mut out), input(&x)], &sizes[..]].concat();
        launch(kernel, matrix(out_height * out_width, channels), &args, seed)?;
        equal(&format!("window {window} on {height}x{width}"), &out, &expected)?;
    }
    Ok(())
}
