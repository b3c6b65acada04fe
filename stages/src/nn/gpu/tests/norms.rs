//! LayerNorm and activations.

use super::*;
use crate::nn::Activation;
use crate::nn::backend::{NormInput, Normal, RowMask};
use crate::nn::gpu::product::Product;
use crate::nn::packing::Packing;

fn under(mask: Option<Mask>) -> RowMask<'static> {
    RowMask { mask, packing: None }
}

/// `rows` rows without padding: of a sequence of one position, and of one with gaps.
fn packing(rows: usize) -> Packing {
    let length = 2 * rows;
    let mask = (0..2 * length).map(|place| if place < length { place == 0 } else { place % 2 == 0 });
    let mut left = rows;
    let mask = mask.map(|is_there| {
        let is_there = is_there && left > 0;
        left -= usize::from(is_there);
        f32::from(u8::from(is_there))
    });
    Packing::new(&mask.collect::<Vec<_>>(), length, &device()).unwrap().unwrap()
}

/// The factors of rows of `width` values.
fn factors_of(rows: RowMask<'_>, count: usize, width: usize) -> Vec<f64> {
    let place = |row: usize| rows.packing.map_or(row, |packing| packing.place(row));
    let all = factors(rows.mask, rows.packing.map_or(count, Packing::padded_rows) * width);
    (0..count).flat_map(|row| all[place(row) * width..][..width].to_vec()).collect()
}

/// A product of the same values, as the passes may get it: in parts with a bias, or whole, of its own memory or another's.
#[derive(Debug, Clone, Copy)]
enum Given {
    Parts,
    Own,
    Lent,
}

const GIVEN: [Given; 3] = [Given::Parts, Given::Own, Given::Lent];

/// Memory that a product is made of, and its values.
struct Made {
    x: Buffer,
    layer: Linear,
    values: Vec<f32>,
    whole: Buffer,
}

impl Made {
    /// [rows, width], by a layer of 800 inputs.
    fn new(draw: &mut Draw, gpu: &Gpu, rows: usize, width: usize) -> Self {
        let x = upload(gpu, &draw.values(rows * 800));
        let layer = draw.linear(800, width, [false; 2]);
        let whole = gpu.finish(gpu.linear(x.view(), &[&layer]).unwrap()).unwrap();
        Self { values: gpu.values(&whole).unwrap(), x, layer, whole }
    }

    fn product(&self, gpu: &Gpu, given: Given) -> Product<'_> {
        match given {
            Given::Parts => gpu.linear(self.x.view(), &[&self.layer]).unwrap(),
            Given::Own => gpu.product_of(gpu.copy(self.whole.view()).unwrap()),
            Given::Lent => gpu.as_product(self.whole.view()).unwrap(),
        }
    }
}

fn is_kept(gpu: &Gpu, of: Option<&Normal<Buffer>>, keep: bool, rows: &[f64], scale: &[f64]) {
    assert_eq!(of.is_some(), keep);
    if let Some(of) = of {
        assert_close("normal", &gpu.values(&of.rows).unwrap(), rows, 3e-6);
        assert_close("scale", &gpu.values(&of.scale).unwrap(), scale, 3e-6);
    }
}

/// The normalised rows of `x`, 1 / deviation of each, and normal · weight + bias.
fn norm(x: &[f64], of: &LayerNorm) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (weight, bias) = (value(&of.weight), value(&of.bias));
    let (mut normal, mut scales, mut y) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks(of.size) {
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (variance + of.eps).sqrt();
        scales.push(scale);
        for (c, x) in row.iter().enumerate() {
            normal.push((x - mean) * scale);
            y.push((x - mean) * scale * weight[c] + bias[c]);
        }
    }
    (normal, scales, y)
}

/// Rows and width: one lane's values in registers of each size, and a row that is too long for them.
const SIZES: [(usize, usize); 5] = [(1, 8), (5, 36), (3, 300), (2, 800), (2, 1100)];

#[test]
fn norms_follow_their_definition() {
    let (mut draw, gpu) = (Draw(1), gpu());
    for (rows, width) in SIZES {
        let made = Made::new(&mut draw, &gpu, rows, width);
        let residual = draw.values(rows * width);
        let held = upload(&gpu, &residual);
        let of = draw.norm(width, [false; 2]);
        let packing = (rows > 1).then(|| packing(rows));
        let packed = |mask| RowMask { mask, packing: packing.as_ref() };
        for given in GIVEN {
            for (row_mask, with_residual, keep) in [
                (packed(None), false, true),
                (under(Some(mask(3))), true, false),
                (under(Some(mask(0))), false, true),
                (packed(Some(mask(5))), true, true),
                (under(None), true, true),
            ] {
                let mask = row_mask.mask;
                let input = NormInput { rows: row_mask, residual: with_residual.then(|| held.view()) };
                let factors = factors_of(row_mask, rows, width);
                let x = made.values.iter().zip(&factors).zip(&residual);
                let added = |residual: f32| if with_residual { f64::from(residual) } else { 0.0 };
                let x: Vec<f64> = x.map(|((&x, factor), &r)| f64::from(x) * factor + added(r)).collect();
                let (normal, scale, expected) = norm(&x, &of);
                let (y, kept) = gpu.norm(made.product(&gpu, given), input, &of, keep).unwrap();
                let what = format!("{rows} x {width}, {given:?}, mask {}", mask.is_some());
                assert_close(&what, &gpu.values(&y).unwrap(), &expected, 3e-6);
                is_kept(&gpu, kept.as_ref(), keep, &normal, &scale);
                if let Some(kept) = kept {
                    assert_close(
                        &what,
                        &gpu.values(&gpu.norm_again(&kept, &of).unwrap()).unwrap(),
                        &expected,
                        3e-6,
                    );
                }
            }
        }
    }
}

#[test]
fn a_norm_apart_returns_the_sum_as_well() {
    let (mut draw, gpu) = (Draw(2), gpu());
    for (rows, width) in SIZES {
        let made = Made::new(&mut draw, &gpu, rows, width);
        let residual = draw.values(rows * width);
        let held = upload(&gpu, &residual);
        let of = draw.norm(width, [false; 2]);
        let packing = (rows > 1).then(|| packing(rows));
        let packed = RowMask { mask: Some(mask(1)), packing: packing.as_ref() };
        for (given, (row_mask, keep)) in
            GIVEN.into_iter().zip([(packed, true), (under(None), true), (under(Some(mask(0))), false)])
        {
            let x = made.values.iter().zip(factors_of(row_mask, rows, width));
            let x: Vec<f64> = x.map(|(&x, factor)| f64::from(x) * factor).collect();
            let sum: Vec<f64> = x.iter().zip(&residual).map(|(x, &r)| x + f64::from(r)).collect();
            let (normal, scale, expected) = norm(&x, &of);
            let (y, found, kept) =
                gpu.norm_apart(made.product(&gpu, given), row_mask, held.view(), &of, keep).unwrap();
            assert_close("y", &gpu.values(&y).unwrap(), &expected, 3e-6);
            assert_close("sum", &gpu.values(&found).unwrap(), &sum, 3e-6);
            is_kept(&gpu, kept.as_ref(), keep, &normal, &scale);
        }
    }
}

#[test]
fn gradients_of_norms_follow_their_definition_and_add_up() {
    let (mut draw, gpu) = (Draw(3), gpu());
    for ((rows, width), trained) in [
        ((131, 12), [true, true]),
        ((5, 300), [true, false]),
        ((2, 800), [false, true]),
        ((3, 1100), [false, false]),
    ] {
        let of = draw.norm(width, trained);
        let weight = value(&of.weight);
        let (mut weight_sum, mut bias_sum) = (vec![0.0; width], vec![0.0; width]);
        let packing = packing(rows);
        let packed = |mask| RowMask { mask, packing: Some(&packing) };
        let variants = [
            (under(None), false, false),
            (packed(None), true, true),
            (under(Some(mask(7))), true, true),
            (under(Some(mask(0))), false, false),
            (packed(Some(mask(5))), true, true),
        ];
        for (given, (row_mask, with_plus, keep_sum)) in GIVEN.into_iter().cycle().zip(variants) {
            let mask = row_mask.mask;
            let x = draw.values(rows * width);
            let held = upload(&gpu, &x);
            let input = NormInput { rows: RowMask::default(), residual: None };
            let (_, kept) = gpu.norm(gpu.as_product(held.view()).unwrap(), input, &of, true).unwrap();
            let (normal, scale, _) = norm(&wide(&x), &of);
            let made = Made::new(&mut draw, &gpu, rows, width);
            let plus = draw.values(rows * width);
            let held_plus = upload(&gpu, &plus);
            let mut sum = Vec::new();
            for (row, scale) in scale.iter().enumerate() {
                let at = |c: usize| row * width + c;
                let grad = |c: usize| f64::from(made.values[at(c)]);
                let h = |c: usize| grad(c) * weight[c];
                let mean = (0..width).map(h).sum::<f64>() / width as f64;
                let along = (0..width).map(|c| h(c) * normal[at(c)]).sum::<f64>() / width as f64;
                for c in 0..width {
                    let plus = if with_plus { f64::from(plus[at(c)]) } else { 0.0 };
                    sum.push(scale * (h(c) - mean - normal[at(c)] * along) + plus);
                    weight_sum[c] += grad(c) * normal[at(c)];
                    bias_sum[c] += grad(c);
                }
            }
            let product: Vec<f64> =
                sum.iter().zip(factors_of(row_mask, rows, width)).map(|(g, factor)| g * factor).collect();
            let plus = with_plus.then(|| held_plus.view());
            // A gradient has no bias.
            let grad = match given {
                Given::Parts => split_in_two(&gpu, &made.values),
                _ => made.product(&gpu, given),
            };
            let found = gpu.norm_backward(grad, &kept.unwrap(), &of, plus, row_mask, keep_sum).unwrap();
            let what = format!("{rows} x {width}, {given:?}, mask {}, plus {with_plus}", mask.is_some());
            assert_close(&what, &gpu.values(&found.product).unwrap(), &product, 5e-6);
            assert_eq!(found.sum.is_some(), mask.is_some() && keep_sum, "{what}");
            if mask.is_none() || keep_sum {
                assert_close(&what, &gpu.values(&found.into_sum()).unwrap(), &sum, 5e-6);
            }
        }
        for ((param, expected), is_trained) in
            [(&of.weight, weight_sum), (&of.bias, bias_sum)].into_iter().zip(trained)
        {
            let found = gradient(&gpu, param);
            assert_eq!(found.is_some(), is_trained);
            if let Some(found) = found {
                assert_close("a norm's parameter", &found, &expected, 5e-6);
            }
        }
    }
}

#[test]
fn without_padding_rows_are_dropped_by_their_padded_places() {
    let (mut draw, gpu, packing) = (Draw(5), gpu(), packing(9));
    let (rows, width) = (packing.rows(), 36);
    let of = draw.norm(width, [false; 2]);
    let row_mask = RowMask { mask: Some(mask(3)), packing: Some(&packing) };
    let [x, grad] = [(); 2].map(|()| upload(&gpu, &draw.values(rows * width)));
    let input = NormInput { rows: RowMask::default(), residual: None };
    let (_, kept) = gpu.norm(gpu.product_of(x), input, &of, true).unwrap();
    let found =
        gpu.norm_backward(gpu.product_of(grad), &kept.unwrap(), &of, None, row_mask, false).unwrap().product;
    let found: Vec<bool> = gpu.values(&found).unwrap().iter().map(|value| *value != 0.0).collect();
    let expected: Vec<bool> = factors_of(row_mask, rows, width).iter().map(|factor| *factor != 0.0).collect();
    assert!(found == expected);
}

/// The values as two parts.
fn split_in_two(gpu: &Gpu, values: &[f32]) -> Product<'static> {
    let half: Vec<f32> = values.iter().map(|x| x * 0.5).collect();
    Product::of_parts(upload(gpu, &[&half[..], &half[..]].concat()), 2)
}

#[test]
fn activations_and_their_gradients_follow_their_definition() {
    fn phi(x: f64) -> f64 {
        0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
    }
    fn density(x: f64) -> f64 {
        libm::exp(-0.5 * x * x) / libm::sqrt(std::f64::consts::TAU)
    }
    type Function = fn(f64) -> f64;
    let functions: [(Activation, Function, Function); 3] = [
        (Activation::Gelu, |x| x * phi(x), |x| phi(x) + x * density(x)),
        (Activation::Relu, |x| x.max(0.0), |x| if x > 0.0 { 1.0 } else { 0.0 }),
        (Activation::Tanh, libm::tanh, |x| 1.0 - libm::tanh(x) * libm::tanh(x)),
    ];
    let (mut draw, gpu) = (Draw(4), gpu());
    for (activation, f, slope) in functions {
        for (rows, width) in [(1, 1), (5, 301)] {
            let mut x: Vec<f32> = draw.values(rows * width).iter().map(|x| 3.0 * x).collect();
            x[0] = 0.0;
            let grad = draw.values(rows * width);
            let y: Vec<f64> = wide(&x).into_iter().map(f).collect();
            let expected: Vec<f64> =
                wide(&x).into_iter().map(slope).zip(wide(&grad)).map(|(f, g)| f * g).collect();
            for (given, again) in GIVEN.into_iter().zip([true, false, true]) {
                let (held, held_grad) = (upload(&gpu, &x), upload(&gpu, &grad));
                let product = |values: &[f32], held: &Buffer| match given {
                    Given::Parts => split_in_two(&gpu, values),
                    Given::Own | Given::Lent => gpu.product_of(gpu.copy(held.view()).unwrap()),
                };
                let (found, before) = gpu.activate(product(&x, &held), activation, again).unwrap();
                assert_close("f", &gpu.values(&found).unwrap(), &y, 2e-6);
                assert_eq!(before.is_some(), again);
                let found =
                    gpu.activate_backward(product(&grad, &held_grad), held, activation, again).unwrap();
                assert_close("its gradient", &gpu.values(&found.0).unwrap(), &expected, 2e-6);
                assert_eq!(found.1.is_some(), again);
                if let Some(found) = found.1 {
                    assert_close("f again", &gpu.values(&found).unwrap(), &y, 2e-6);
                }
            }
        }
    }
    let nan = upload(&gpu, &[f32::NAN]);
    let (y, _) = gpu.activate(gpu.product_of(nan), Activation::Relu, false).unwrap();
    assert!(gpu.values(&y).unwrap()[0].is_nan(), "a value that is no number stays visible");
}
