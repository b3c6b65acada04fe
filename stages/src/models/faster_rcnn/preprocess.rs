//! From a picture's bytes to the detector's canvas, as for the published features: blue-green-red, means
//! subtracted, scaled bilinearly, padded. It does not know file formats.

use candle_core::{Result, Tensor};

use super::config::Config;
use crate::formats::image_decode::Picture;
use crate::nn::Compute;
use crate::nn::maps::{Between, CanvasInput, MapSize};

/// A picture as the network takes it.
#[derive(Debug)]
pub struct Canvas {
    /// A map of three channels: blue, green, red.
    pub pixels: Tensor,
    /// Size of the canvas over size of the picture.
    pub scale: f32,
}

/// By how much a picture of this size is scaled: its shorter side to `min_size`, unless the longer one would
/// exceed `max_size`.
pub fn scale_of(width: usize, height: usize, config: &Config) -> f64 {
    let (short, long) = (width.min(height) as f64, width.max(height) as f64);
    let scale = config.min_size as f64 / short;
    if (scale * long).round_ties_even() > config.max_size as f64 {
        config.max_size as f64 / long
    } else {
        scale
    }
}

/// Scales the picture and pads it at the right and the bottom with zeros (the means) to multiples of the
/// config's divisor.
///
/// # Errors
/// What the device reports.
pub fn prepare(picture: &Picture, config: &Config, compute: &Compute) -> Result<Canvas> {
    let scale = scale_of(picture.width, picture.height, config);
    let scaled = |size: usize| ((size as f64 * scale).round_ties_even() as usize).max(1);
    let (width, height) = (scaled(picture.width), scaled(picture.height));
    let padded = |size: usize| size.next_multiple_of(config.size_divisor);
    let size = MapSize { channels: 3, height: padded(height), width: padded(width) };
    let pixels = compute.canvas(&CanvasInput {
        rgb: &picture.rgb,
        picture_width: picture.width,
        lines: &taps(height, picture.height, scale),
        columns: &taps(width, picture.width, scale),
        means_bgr: config.means_bgr,
        size,
    })?;
    Ok(Canvas { pixels, scale: scale as f32 })
}

/// For each output pixel its two inputs and the weight of the second. The step between samples is exactly
/// `1 / scale`, which is not input size over output size when the output's size was rounded. Places are computed in double
/// precision, as OpenCV does: single would shift a far pixel by hundredths of a grey level.
fn taps(outputs: usize, inputs: usize, scale: f64) -> Vec<Between> {
    let between = |first: usize, second: usize, weight: f32| Between {
        first: first as u32,
        second: second as u32,
        weight,
    };
    (0..outputs)
        .map(|output| {
            let at = (output as f64 + 0.5) / scale - 0.5;
            let low = at.floor();
            if low < 0.0 {
                between(0, 0, 0.0)
            } else if low as usize + 1 >= inputs {
                between(inputs - 1, inputs - 1, 0.0)
            } else {
                between(low as usize, low as usize + 1, (at - low) as f32)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::Precision;
    use crate::nn::cpu_tensor::cpu_vec;

    fn cpu() -> Compute {
        Compute::for_device(&Device::Cpu, Precision::F32).unwrap()
    }

    fn grey(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Picture {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Picture { width, height, rgb: pixels.flat_map(|(x, y)| [value(x, y); 3]).collect() }
    }

    #[test]
    fn follows_the_scale_rule() {
        let config = Config::x152();
        assert_eq!(scale_of(640, 480, &config), 800.0 / 480.0);
        assert_eq!(scale_of(1000, 300, &config), 1333.0 / 1000.0);
        // 800 / 600 · 1000 = 1333.33 rounds to 1333, which does not exceed the limit.
        assert_eq!(scale_of(1000, 600, &config), 800.0 / 600.0);
    }

    #[test]
    fn rounds_sizes_to_even_and_pads_to_the_divisor() {
        let config = Config { min_size: 5, max_size: 1000, size_divisor: 16, ..Config::mini(2) };
        // Scale 0.5 of 10 × 33: 16.5 rounds to 16, so 16 columns fit the canvas exactly.
        let canvas = prepare(&grey(33, 10, |_, _| 200), &config, &cpu()).unwrap();
        assert_eq!(canvas.pixels.dims(), [1, 3, 16, 16]);
        let values = cpu_vec(&canvas.pixels).unwrap();
        assert_eq!(values[4 * 16 + 15], 200.0 - config.means_bgr[0]);
        assert_eq!(values[5 * 16], 0.0);
    }

    #[test]
    fn samples_with_the_step_of_the_scale() {
        let config = Config { min_size: 7, max_size: 1000, size_divisor: 4, ..Config::mini(2) };
        // 10 wide, 3 high: scale 7/3, width 23.33 → 23. Column 22 samples at 22.5·3/7 − 0.5 = 9.142…: beyond
        // the last centre, so clamped; column 20 at 20.5·3/7 − 0.5 = 8.2857.
        let picture = grey(10, 3, |x, _| (x * x) as u8);
        let canvas = prepare(&picture, &config, &cpu()).unwrap();
        assert_eq!(canvas.pixels.dims(), [1, 3, 8, 24]);
        let values = cpu_vec(&canvas.pixels).unwrap();
        let mean = config.means_bgr[0];
        assert!((values[22] - (81.0 - mean)).abs() < 1e-4);
        let part = 20.5 * 3.0 / 7.0 - 0.5 - 8.0;
        assert!((values[20] - (64.0 + 17.0 * part - mean)).abs() < 1e-3);
        assert_eq!(values[23], 0.0);
    }

    #[test]
    fn turns_red_green_blue_round() {
        let config = Config { means_bgr: [1.0, 2.0, 3.0], min_size: 1, ..Config::mini(2) };
        let picture = Picture { width: 1, height: 1, rgb: vec![30, 20, 10] };
        let canvas = prepare(&picture, &config, &cpu()).unwrap();
        let plane = config.size_divisor * config.size_divisor;
        let values = cpu_vec(&canvas.pixels).unwrap();
        assert_eq!([values[0], values[plane], values[2 * plane]], [9.0, 18.0, 27.0]);
    }

    #[test]
    fn takes_pictures_of_extreme_shapes() {
        let config = Config::mini(2);
        for (width, height) in [(1, 1), (300, 20), (1, 20_000)] {
            let canvas = prepare(&grey(width, height, |_, _| 9), &config, &cpu()).unwrap();
            let (_, _, h, w) = canvas.pixels.dims4().unwrap();
            assert!(h.max(w) <= config.max_size.next_multiple_of(config.size_divisor), "{h}x{w}");
        }
    }
}
