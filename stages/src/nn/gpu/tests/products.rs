//! Linear layers.

use super::*;
use crate::nn::Activation;
use crate::nn::gpu::testing::Counting;

/// x Wᵀ + b of layers side by side, of rounded factors.
fn linear(x: &[f32], layers: &[&Linear], round: fn(f32) -> f64) -> Vec<f64> {
    let inputs = layers[0].inputs;
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for layer in layers {
            let (weight, bias) = (value(&layer.weight), value(&layer.bias));
            for (row, bias) in weight.chunks(inputs).zip(bias) {
                let terms = x.iter().zip(row).map(|(&x, &w)| round(x) * round(w as f32));
                y.push(terms.sum::<f64>() + bias);
            }
        }
    }
    y
}

/// Σ gᵢ Wᵢ + plus.
fn input_gradient(grad: &[f32], layers: &[&Linear], plus: Option<&[f32]>, round: fn(f32) -> f64) -> Vec<f64> {
    let (inputs, outputs) = (layers[0].inputs, layers[0].outputs);
    let mut sums = Vec::new();
    for (row, grad) in grad.chunks(outputs * layers.len()).enumerate() {
        for i in 0..inputs {
            let mut sum = plus.map_or(0.0, |plus| f64::from(plus[row * inputs + i]));
            for (grad, layer) in grad.chunks(outputs).zip(layers) {
                let weight = value(&layer.weight);
                for (o, &grad) in grad.iter().enumerate() {
                    sum += round(grad) * round(weight[o * inputs + i] as f32);
                }
            }
            sums.push(sum);
        }
    }
    sums
}

/// gᵀ x of layer `place`, and the sums of its rows of g.
fn gradients(
    grad: &[f32],
    x: &[f32],
    (inputs, outputs): (usize, usize),
    (place, layers): (usize, usize),
    round: fn(f32) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut weight, mut bias) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
    for (grad, x) in grad.chunks(layers * outputs).zip(x.chunks(inputs)) {
        for o in 0..outputs {
            let grad = grad[place * outputs + o];
            bias[o] += f64::from(grad);
            for i in 0..inputs {
                weight[o * inputs + i] += round(grad) * round(x[i]);
            }
        }
    }
    (weight, bias)
}

/// Rows, inputs, outputs: inner dimensions of one part and of several, with a shorter last one.
const SIZES: [(usize, usize, usize); 5] = [(1, 8, 2), (4, 70, 1), (5, 37, 6), (9, 401, 3), (3, 1160, 5)];

#[test]
fn layers_side_by_side_follow_their_definition() {
    let mut draw = Draw(1);
    for Case { name, gpu, round } in cases() {
        for (rows, inputs, outputs) in SIZES {
            let x = draw.values(rows * inputs);
            let held = upload(&gpu, &x);
            let layers = [0; 3].map(|_| draw.linear(inputs, outputs, [false; 2]));
            for count in 1..=3 {
                let layers: Vec<&Linear> = layers[..count].iter().collect();
                let y = gpu.finish(gpu.linear(held.view(), &layers).unwrap()).unwrap();
                let what = format!("{name}: {count} layers of {inputs} to {outputs}");
                assert_close(&what, &gpu.values(&y).unwrap(), &linear(&x, &layers, round), 3e-6);
            }
        }
    }
}

#[test]
fn the_passes_after_a_product_add_its_parts_and_biases() {
    let mut draw = Draw(2);
    for Case { name, gpu, round } in cases() {
        let (rows, inputs, outputs) = (4, 801, 12);
        let x = draw.values(rows * inputs);
        let held = upload(&gpu, &x);
        let layers = [0; 2].map(|_| draw.linear(inputs, outputs, [false; 2]));
        for layers in [vec![&layers[0]], layers.iter().collect()] {
            let expected = linear(&x, &layers, round);
            let product = || gpu.linear(held.view(), &layers).unwrap();
            let (y, before) = gpu.activate(product(), Activation::Relu, true).unwrap();
            let rectified: Vec<f64> = expected.iter().map(|x| x.max(0.0)).collect();
            assert_close(name, &gpu.values(&before.unwrap()).unwrap(), &expected, 3e-6);
            assert_close(name, &gpu.values(&y).unwrap(), &rectified, 3e-6);
            let (y, before) = gpu.activate(product(), Activation::Relu, false).unwrap();
            assert!(before.is_none());
            assert_close(name, &gpu.values(&y).unwrap(), &rectified, 3e-6);
        }
    }
}

#[test]
fn the_gradient_of_what_layers_read_follows_its_definition() {
    let mut draw = Draw(3);
    for Case { name, gpu, round } in cases() {
        for (rows, inputs, outputs) in
            [(2, 3, 1), (4, 70, 3), (1, 9, 6), (5, 6, 37), (3, 10, 260), (2, 5, 500)]
        {
            let layers = [0; 3].map(|_| draw.linear(inputs, outputs, [false; 2]));
            for count in 1..=3 {
                let layers: Vec<&Linear> = layers[..count].iter().collect();
                let (grad, plus) = (draw.values(rows * outputs * count), draw.values(rows * inputs));
                let held = upload(&gpu, &grad);
                for plus in [None, Some(&plus[..])] {
                    let added = plus.map(|plus| upload(&gpu, plus));
                    let found = gpu.input_gradient(held.view(), &layers, added).unwrap();
                    let found = gpu.values(&gpu.finish(found).unwrap()).unwrap();
                    let what =
                        format!("{name}: {count} layers of {inputs} to {outputs}, plus {}", plus.is_some());
                    assert_close(&what, &found, &input_gradient(&grad, &layers, plus, round), 3e-6);
                }
            }
        }
    }
}

#[test]
fn gradients_of_trained_parameters_add_up_and_frozen_ones_have_none() {
    const TRAINED: [[[bool; 2]; 3]; 5] = [
        [[true, true], [true, true], [true, true]],
        [[true, false], [false, true], [true, false]],
        [[false, false], [true, false], [false, true]],
        [[false, true], [false, false], [false, false]],
        [[true, true], [false, false], [false, false]],
    ];
    let mut draw = Draw(4);
    for Case { name, gpu, round } in cases() {
        for (rows, inputs, outputs) in
            [(3, 7, 5), (1, 8, 1), (7, 70, 1), (401, 6, 3), (5, 37, 6), (131, 9, 4)]
        {
            for (trained, count) in TRAINED.into_iter().zip([3, 3, 3, 1, 1]) {
                let layers = trained.map(|trained| draw.linear(inputs, outputs, trained));
                let layers: Vec<&Linear> = layers[..count].iter().collect();
                let mut sums = vec![(vec![0.0; outputs * inputs], vec![0.0; outputs]); count];
                for _ in 0..2 {
                    let (grad, x) = (draw.values(rows * outputs * count), draw.values(rows * inputs));
                    let (held, held_x) = (upload(&gpu, &grad), upload(&gpu, &x));
                    gpu.linear_gradients(held.view(), held_x.view(), &layers, None).unwrap();
                    for (place, sums) in sums.iter_mut().enumerate() {
                        let of = gradients(&grad, &x, (inputs, outputs), (place, count), round);
                        sums.0.iter_mut().zip(of.0).for_each(|(sum, of)| *sum += of);
                        sums.1.iter_mut().zip(of.1).for_each(|(sum, of)| *sum += of);
                    }
                }
                for (place, layer) in layers.iter().enumerate() {
                    let what = format!("{name}: {rows} rows, layer {place} of {count}, trained {trained:?}");
                    let found = [&layer.weight, &layer.bias].map(|param| gradient(&gpu, param));
                    for ((found, expected), is_trained) in
                        found.into_iter().zip([&sums[place].0, &sums[place].1]).zip(trained[place])
                    {
                        assert_eq!(found.is_some(), is_trained, "{what}");
                        if let Some(found) = found {
                            assert_close(&what, &found, expected, 3e-6);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_gradient_after_a_reset_replaces_the_last_one() {
    let (mut draw, gpu) = (Draw(5), gpu());
    let layer = draw.linear(6, 3, [true; 2]);
    let (grad, x) = (draw.values(400 * 3), draw.values(400 * 6));
    let (held, held_x) = (upload(&gpu, &grad), upload(&gpu, &x));
    for _ in 0..2 {
        gpu.linear_gradients(held.view(), held_x.view(), &[&layer], None).unwrap();
        let (weight, bias) = gradients(&grad, &x, (6, 3), (0, 1), f64::from);
        assert_close("weight", &gradient(&gpu, &layer.weight).unwrap(), &weight, 3e-6);
        assert_close("bias", &gradient(&gpu, &layer.bias).unwrap(), &bias, 3e-6);
        layer.weight.gradient().unwrap().reset();
        layer.bias.gradient().unwrap().reset();
        assert!(gradient(&gpu, &layer.weight).is_none());
    }
}

#[test]
fn nothing_is_computed_for_frozen_parameters() {
    let counting = Arc::new(Counting::default());
    let gpu = Gpu::new(counting.clone(), Precision::F32, true).unwrap();
    let layer = Draw(6).linear(64, 32, [false; 2]);
    let (grad, x) = (gpu.zeros(400 * 32).unwrap(), gpu.zeros(400 * 64).unwrap());
    counting.take();
    gpu.linear_gradients(grad.view(), x.view(), &[&layer], None).unwrap();
    let counts = counting.take();
    assert_eq!((counts.launches(), counts.allocations), (0, 0));
}

#[test]
fn the_counting_device_counts_a_product() {
    let counting = Arc::new(Counting::default());
    let gpu = Gpu::new(counting.clone(), Precision::F32, true).unwrap().splitting_from(1);
    let layer = Draw(7).linear(768, 96, [false; 2]);
    let x = gpu.zeros(128 * 768).unwrap();
    counting.take();
    let y = gpu.finish(gpu.linear(x.view(), &[&layer]).unwrap()).unwrap();
    let counts = counting.take();
    // Three products of the inner dimension; two splits, one product of two parts, one sum.
    assert_eq!(counts.flops, 3 * 2 * 128 * 768 * 96);
    let launches = |kernel| counts.kernels.get(kernel).map(|(launches, _)| *launches);
    assert_eq!((launches("split_factor"), launches("add_parts"), counts.products), (Some(2), Some(1), 1));
    assert_eq!(counts.launches(), 4);
    let split = 4 * 4 * (128 + 96) * 768;
    assert_eq!(counts.kernels["split_factor"].1, split);
    assert_eq!(counts.kernels["add_parts"].1, 4 * (3 * 128 * 96 + 96));
    assert_eq!(counts.product_bytes, 4 * (3 * (128 + 96) * 768 + 2 * 128 * 96));
    assert_eq!(counts.waits, 0);
    gpu.values(&y).unwrap();
    assert_eq!(counting.take().waits, 1);
}

#[test]
fn a_narrow_product_is_not_split() {
    let counting = Arc::new(Counting::default());
    let gpu = Gpu::new(counting.clone(), Precision::F32, true).unwrap();
    let layer = Draw(8).linear(768, 96, [false; 2]);
    let x = gpu.zeros(16 * 768).unwrap();
    counting.take();
    gpu.finish(gpu.linear(x.view(), &[&layer]).unwrap()).unwrap();
    let counts = counting.take();
    assert_eq!((counts.flops, counts.launches()), (2 * 16 * 768 * 96, 2));
}
