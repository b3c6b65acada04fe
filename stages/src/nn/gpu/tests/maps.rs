//! The passes of a detector against the CPU's own, whose definition `nn/conv.rs` and `nn/roi_align.rs` test.

use super::*;
use crate::nn::conv::{Conv2d, Window};
use crate::nn::maps::{Addend, MapSize};
use crate::nn::{Compute, Precision};

/// The values channel by channel, as the CPU has them, of a map as `compute` has it.
fn values_of(compute: &Compute, map: &Tensor) -> (MapSize, Vec<f64>) {
    let (size, values) = (compute.map_size(map).unwrap(), compute.values(map).unwrap());
    let places = (0..size.channels).flat_map(|channel| (0..size.places()).map(move |place| (channel, place)));
    let value = |(channel, place)| f64::from(values[compute.map_index(size, channel, place)]);
    (size, places.map(value).collect())
}

/// A map for `compute` of values channel by channel.
fn map_of(compute: &Compute, size: MapSize, values: &[f32]) -> Tensor {
    let mut ordered = vec![0f32; values.len()];
    for (at, value) in values.iter().enumerate() {
        ordered[compute.map_index(size, at / size.places(), at % size.places())] = *value;
    }
    let at = compute.device();
    Tensor::from_vec(ordered, &compute.map_shape(size), at).unwrap()
}

/// Windows, groups and channels that between them take every kernel, Winograd's method too, with each kind of addend.
#[test]
fn convolutions_are_the_cpu_s() {
    let cpu = Compute::for_device(&Device::Cpu, Precision::F32).unwrap();
    let point = Window::POINT;
    let grouped = Window { groups: 4, ..Window::SAME_3 };
    let shapes = [
        (1, point, (8, 130)),
        (1, Window { stride: 2, ..point }, (6, 20)),
        (3, grouped, (32, 32)),
        (3, Window { stride: 2, ..grouped }, (32, 32)),
        (3, Window::SAME_3, (64, 65)),
        (3, Window::SAME_3, (8, 12)),
        (7, Window { stride: 2, padding: 3, groups: 1 }, (3, 9)),
    ];
    for has_tf32 in [true, false] {
        let gpu = Compute::on(Gpu::new(driver(has_tf32), Precision::F32, true).unwrap(), &device()).unwrap();
        let mut draw = Draw(5);
        for (kernel, window, (inputs, outputs)) in shapes {
            let weight = draw.values(outputs * inputs / window.groups * kernel * kernel);
            let bias = draw.values(outputs);
            let size = MapSize { channels: inputs, height: 12, width: 20 };
            let x = draw.values(size.values());
            let out = MapSize {
                channels: outputs,
                height: size.height / window.stride,
                width: size.width / window.stride,
            };
            let half = MapSize { height: out.height / 2, width: out.width / 2, ..out };
            let (same_values, half_values) = (draw.values(out.values()), draw.values(half.values()));
            for kind in 0..3 {
                let [found, expected] = [&gpu, &cpu].map(|compute| {
                    let at = compute.device();
                    let shape = (outputs, inputs / window.groups, kernel, kernel);
                    let weight = Tensor::from_slice(&weight, shape, at).unwrap();
                    let bias = Tensor::from_slice(&bias, outputs, at).unwrap();
                    let conv = Conv2d::new(compute, &weight, bias, window).unwrap();
                    let conv = if kind == 1 { conv } else { conv.with_relu() };
                    let same = map_of(compute, out, &same_values);
                    let half = map_of(compute, half, &half_values);
                    let addend = [None, Some(Addend::same(&same)), Some(Addend::half(&half))][kind];
                    let y = conv.forward(&map_of(compute, size, &x), addend).unwrap();
                    values_of(compute, &y)
                });
                assert_eq!(found.0, expected.0);
                let found: Vec<f32> = found.1.into_iter().map(|value| value as f32).collect();
                // Winograd's transforms lose a digit on both sides.
                assert_close(&format!("{kernel} {window:?}, addend {kind}"), &found, &expected.1, 2e-5);
            }
        }
    }
}
