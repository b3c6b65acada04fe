//! Linear layers: their products, forward and backward.

use candle_core::Result;

use super::instruction_set::per_instruction_set;
use super::parallel;
use super::{Cpu, Values};
use crate::nn::gemm::{Matrix, WORTH_SHARING, block_ends, new_affine, new_product, product};
use crate::nn::packing::Packing;
use crate::nn::{Linear, Param};

/// x Wᵀ + b of `layers` that read one `x`, side by side.
pub fn linear(on: &Cpu, x: &[f32], layers: &[&Linear]) -> Result<Vec<f32>> {
    let inputs = layers[0].inputs;
    let locked = |param: fn(&Linear) -> &Param| {
        layers.iter().map(|layer| Values::lock(param(layer).value())).collect::<Result<Vec<_>>>()
    };
    let (weights, biases) = (locked(|layer| &layer.weight)?, locked(|layer| &layer.bias)?);
    let (x, weights) = (on.factor(x), weights.iter().map(|weight| on.factor(weight)).collect::<Vec<_>>());
    let factors = layers
        .iter()
        .zip(&weights)
        .zip(&biases)
        .map(|((layer, weight), bias)| (Matrix::new(weight, layer.outputs, inputs, inputs).t(), &**bias));
    let x = Matrix::new(&x, x.len() / inputs, inputs, inputs);
    Ok(new_affine(WORTH_SHARING, x, &factors.collect::<Vec<_>>()))
}

/// Σ gᵢ Wᵢ, plus `plus`.
pub fn input_gradient(
    on: &Cpu,
    grad: &[f32],
    layers: &[&Linear],
    plus: Option<Vec<f32>>,
) -> Result<Vec<f32>> {
    let grad = on.factor(grad);
    let mut sum = plus;
    for (layer, part) in parts(&grad, layers) {
        let weight = Values::lock(layer.weight.value())?;
        let weight = on.factor(&weight);
        let weight = Matrix::new(&weight, layer.outputs, layer.inputs, layer.inputs);
        match &mut sum {
            Some(sum) => product(sum, layer.inputs, part, weight, 1.0, true),
            None => sum = Some(new_product(WORTH_SHARING, part, weight)),
        }
    }
    Ok(sum.unwrap_or_default())
}

/// Adds the gradients of the weights and biases that are trained.
pub fn linear_gradients(
    on: &Cpu,
    grad: &[f32],
    x: &[f32],
    layers: &[&Linear],
    packing: Option<&Packing>,
) -> Result<()> {
    let ends = packing.map(|packing| packed_ends(packing.padded_rows(), |row| packing.before(row)));
    if layers.iter().any(|layer| layer.weight.is_trained()) {
        let (grad, x) = (on.factor(grad), on.factor(x));
        for (layer, part) in parts(&grad, layers) {
            let x = Matrix::new(&x, part.rows, layer.inputs, layer.inputs);
            if let Some(gradient) = layer.weight.gradient() {
                gradient.accumulate(on, layer.outputs * layer.inputs, |sum, add| {
                    let grad = ends.as_ref().map_or(part.t(), |ends| part.t().in_blocks(ends));
                    product(sum, layer.inputs, grad, x, 1.0, add);
                    Ok(())
                })?;
            }
        }
    }
    for (layer, part) in parts(grad, layers) {
        if let Some(gradient) = layer.bias.gradient() {
            gradient.accumulate(on, layer.outputs, |sum, add| {
                let sums = parallel::sum_rows(
                    part.rows,
                    layer.outputs,
                    layer.outputs,
                    packing,
                    |first, end, sums| {
                        add_rows(part.between(first, end), part.stride(), sums);
                    },
                );
                replace_or_add(sum, &sums, add);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Where the blocks of an inner dimension end that has some of the steps of one of `padded`; `before` says how many come before one
/// of those.
pub fn packed_ends(padded: usize, before: impl Fn(usize) -> usize) -> Vec<usize> {
    block_ends(padded).map(before).collect()
}

/// `sum` ← `values`, or `sum` + `values` if `add`.
pub fn replace_or_add(sum: &mut [f32], values: &[f32], add: bool) {
    if add {
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    } else {
        sum.copy_from_slice(values);
    }
}

fn outputs(layers: &[&Linear]) -> usize {
    layers.iter().map(|layer| layer.outputs).sum()
}

/// Each layer with its columns of a matrix that has all of their results side by side.
fn parts<'a>(values: &'a [f32], layers: &'a [&Linear]) -> impl Iterator<Item = (&'a Linear, Matrix<'a>)> {
    let width = outputs(layers);
    let rows = values.len() / width;
    layers.iter().scan(0, move |first, layer| {
        let part = Matrix::new(&values[*first..], rows, layer.outputs, width);
        *first += layer.outputs;
        Some((*layer, part))
    })
}

per_instruction_set! {
    /// `sums` ← `sums` + the rows of `x`, which begin `stride` apart.
    fn add_rows(x: &[f32], stride: usize, sums: &mut [f32]) {
        for row in x.chunks(stride) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::nn::{Linear, Param};

    #[test]
    fn a_group_of_rows_that_is_all_padding_adds_nothing() {
        // Layers side by side, of so many outputs that 32 rows are a group; a sequence of 100 positions of which three are there, so
        // that the second group has none.
        const OUTPUTS: usize = 1024;
        let mut mask = [0f32; 100];
        [0, 1, 99].into_iter().for_each(|at| mask[at] = 1.0);
        let packing = Packing::new(&mask, mask.len(), &Device::Cpu).unwrap().unwrap();
        let zeros = |shape: &[usize]| {
            Param::trained(&Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()).unwrap()
        };
        let layers = [(); 2].map(|()| Linear {
            weight: zeros(&[OUTPUTS, 2]),
            bias: zeros(&[OUTPUTS]),
            inputs: 2,
            outputs: OUTPUTS,
        });
        let (rows, width) = (packing.rows(), layers.len() * OUTPUTS);
        let value = |row: usize, column: usize| ((row * 7 + column * 3) % 11) as f32 - 5.0;
        let grad: Vec<f32> = (0..rows * width).map(|at| value(at / width, at % width)).collect();
        let x: Vec<f32> = (0..rows * 2).map(|at| at as f32).collect();
        let on = Cpu::default();
        linear_gradients(&on, &grad, &x, &[&layers[0], &layers[1]], Some(&packing)).unwrap();
        for (number, layer) in layers.iter().enumerate() {
            let column = |at: usize| number * OUTPUTS + at;
            let bias: Vec<f32> =
                (0..OUTPUTS).map(|at| (0..rows).map(|row| value(row, column(at))).sum()).collect();
            let weight: Vec<f32> = (0..OUTPUTS * 2)
                .map(|at| (0..rows).map(|row| value(row, column(at / 2)) * x[row * 2 + at % 2]).sum())
                .collect();
            for (param, expected) in [(&layer.bias, bias), (&layer.weight, weight)] {
                let found = param.gradient().unwrap().read(&on, |grad| Ok(grad.clone())).unwrap();
                assert_eq!(found, Some(expected));
            }
        }
    }
}
