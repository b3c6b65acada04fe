//! Sums, activations, dropout and the optimizer against their definitions.

use crate::support::*;

/// One rounding a step of a sum of a few numbers near 1.
pub const FEW_ROUNDINGS: f64 = 4e-7;

/// Of three biases side by side the second is absent.
pub fn add_parts(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (parts, rows, columns) in [(1, 5, 3), (2, 9, 258), (5, 1, 1032), (5, 18, 66)] {
        for (biases, accumulate) in [(1, false), (0, true), (1, true), (3, false), (3, true)] {
            let (input_, bias, before) = (
                random.values(parts * rows * columns),
                [0; 3].map(|_| random.values(columns / usize::max(biases, 1))),
                random.values(rows * columns),
            );
            let width = columns / usize::max(biases, 1);
            let mut expected = add_up(&input_.wide(), rows * columns);
            for (i, value) in expected.iter_mut().enumerate() {
                let (source, column) = (i % columns / width, i % columns % width);
                *value += if biases > source && source != 1 { bias[source].at(column) } else { 0.0 };
                *value += if accumulate { before.at(i) } else { 0.0 };
            }
            let mut out = if accumulate { before } else { Buffer::poisoned(rows * columns) };
            let args = [
                output(&mut out),
                input(&input_),
                size(parts),
                if biases > 0 { input(&bias[0]) } else { NULL },
                NULL,
                if biases > 2 { input(&bias[2]) } else { NULL },
                size(usize::max(biases, 1)),
                size(rows),
                size(columns),
                size(usize::from(accumulate)),
            ];
            launch(kernel, matrix(rows, columns), &args, seed)?;
            close(&format!("{parts} parts, {biases} biases"), &out, &expected, FEW_ROUNDINGS)?;
        }
    }
    Ok(())
}

/// The grid has at most 65,535 blocks down: further rows are a matter of the loop, here of a grid with few blocks.
pub fn add_rows(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (rows, columns, table_rows) in [(7, 5, 3), (21, 300, 7)] {
        let (mut x, table) = (random.values(rows * columns), random.values(table_rows * columns));
        let expected: Vec<f64> =
            x.wide().iter().enumerate().map(|(i, x)| x + table.at(i % (table_rows * columns))).collect();
        let ([across, _, _], block) = matrix(rows, columns);
        let args = [output(&mut x), size(rows), size(columns), input(&table), size(table_rows)];
        launch(kernel, ([across, 2, 1], block), &args, seed)?;
        close("x", &x, &expected, FEW_ROUNDINGS)?;
    }
    Ok(())
}

pub fn column_sums(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (rows, columns, stride) in [(1, 3, 3), (131, 33, 40), (300, 768, 768)] {
        let (x, blocks) = (random.values(rows * stride), rows.div_ceil(128));
        let mut expected = vec![0.0; blocks * columns];
        for row in 0..rows {
            for column in 0..columns {
                expected[row / 128 * columns + column] += x.at(row * stride + column);
            }
        }
        let mut partial = Buffer::poisoned(blocks * columns);
        let args = [output(&mut partial), input(&x), size(rows), size(columns), size(stride)];
        launch(kernel, sums(rows, columns), &args, seed)?;
        close("sums", &partial, &expected, FEW_ROUNDINGS)?;
    }
    Ok(())
}

fn elementwise(
    kernel: &str,
    seed: u64,
    of: impl Fn(f64, f64) -> f64,
    args: impl Fn(Arg, Arg) -> Vec<Arg>,
) -> Checked {
    for n in [1, 255, 4099] {
        let mut random = Random::new(seed + n as u64);
        let (mut x, y) = (random.values(n), random.values(n));
        let expected: Vec<f64> = x.wide().iter().zip(y.wide()).map(|(x, y)| of(*x, y)).collect();
        let mut args = args(output(&mut x), input(&y));
        args.push(size(n));
        // Fewer blocks than chunks: the loop must go on.
        launch(kernel, (flat(n).0.map(|blocks| blocks.div_ceil(2)), 256), &args, seed)?;
        close("x", &x, &expected, FEW_ROUNDINGS)?;
    }
    Ok(())
}

/// In place, and into a buffer of its own.
pub fn multiply(kernel: &str, seed: u64) -> Checked {
    elementwise(kernel, seed, |x, y| x * y, |x, y| vec![x, x, y])?;
    let (a, b, mut out) = (Buffer::new(&[2.0, -3.0]), Buffer::new(&[0.5, 4.0]), Buffer::poisoned(2));
    launch(kernel, flat(2), &[output(&mut out), input(&a), input(&b), size(2)], seed)?;
    equal("product", &out, &[1.0, -12.0])
}

pub fn scale_by(kernel: &str, seed: u64) -> Checked {
    let scalar = Buffer::new(&[-0.75]);
    elementwise(kernel, seed, |x, _| -0.75 * x, |x, _| vec![x, input(&scalar)])
}

pub fn dropout(kernel: &str, seed: u64) -> Checked {
    for mask in [NONE, THIRD] {
        let x = Random::new(seed).values(5003);
        let expected: Vec<f32> =
            x.values().iter().enumerate().map(|(i, x)| x * mask.factor(i) as f32).collect();
        let mut y = Buffer::poisoned(5003);
        launch(kernel, flat(5003), &[output(&mut y), input(&x), mask.arg(), size(5003)], seed)?;
        equal("y", &y, &expected)?;
    }
    Ok(())
}

/// f(x) and f'(x) of GELU, ReLU and tanh.
fn activation(kind: usize, x: f64) -> (f64, f64) {
    match kind {
        0 => {
            let below = 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
            let density = libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
            (x * below, below + x * density)
        }
        1 => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        _ => (libm::tanh(x), 1.0 - libm::tanh(x) * libm::tanh(x)),
    }
}

/// A function of the math library rounds to about 2 units in the last place.
pub const MATH: f64 = 6e-7;

pub fn activate(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for kind in 0..3 {
        for (parts, rows, columns) in [(1, 3, 70), (2, 11, 259), (5, 6, 18)] {
            let (x, bias) = (random.values(parts * rows * columns), random.values(columns));
            let scaled = Buffer::new(&x.values().iter().map(|x| 3.0 * x).collect::<Vec<_>>());
            let mut value = add_up(&scaled.wide(), rows * columns);
            value.iter_mut().enumerate().for_each(|(i, value)| *value += bias.at(i % columns));
            let expected: Vec<f64> = value.iter().map(|value| activation(kind, *value).0).collect();
            let (mut y, mut before) = (Buffer::poisoned(rows * columns), Buffer::poisoned(rows * columns));
            for keep in [false, true] {
                let kept = if keep { output(&mut before) } else { NULL };
                let args = [
                    output(&mut y),
                    kept,
                    input(&scaled),
                    size(parts),
                    input(&bias),
                    size(rows),
                    size(columns),
                    size(kind),
                ];
                launch(kernel, matrix(rows, columns), &args, seed)?;
                close("y", &y, &expected, MATH)?;
            }
            close("before", &before, &value, FEW_ROUNDINGS)?;
        }
    }
    let (x, mut y) = (Buffer::new(&[0.0, f32::NAN, -1.0, 2.0]), Buffer::poisoned(4));
    launch(
        kernel,
        matrix(1, 4),
        &[output(&mut y), NULL, input(&x), size(1), NULL, size(1), size(4), size(1)],
        seed,
    )?;
    if y.values()[1].is_nan() && y.values()[0] == 0.0 && y.values()[2..] == [0.0, 2.0] {
        return Ok(());
    }
    Err(format!("ReLU: {:?}", y.values()))
}

pub fn activate_backward(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for kind in 0..3 {
        for (parts, rows, columns) in [(1, 3, 70), (2, 11, 259), (5, 6, 18)] {
            let len = rows * columns;
            let (grad, mut before) = (random.values(parts * len), random.values(len));
            let x = before.wide();
            let slopes: Vec<f64> =
                x.iter().zip(add_up(&grad.wide(), len)).map(|(x, g)| g * activation(kind, *x).1).collect();
            let values: Vec<f64> = x.iter().map(|x| activation(kind, *x).0).collect();
            let mut out = Buffer::poisoned(len);
            for keep in [false, true] {
                // y takes the place of what was before.
                let y = if keep { output(&mut before) } else { NULL };
                let args = [
                    output(&mut out),
                    y,
                    input(&grad),
                    size(parts),
                    input(&before),
                    size(rows),
                    size(columns),
                    size(kind),
                ];
                launch(kernel, matrix(rows, columns), &args, seed)?;
                close("gradient", &out, &slopes, MATH)?;
            }
            close("y", &before, &values, MATH)?;
        }
    }
    let (mut grad, zero) = (Buffer::new(&[3.0]), Buffer::new(&[0.0]));
    let grad_in = output(&mut grad);
    launch(
        kernel,
        matrix(1, 1),
        &[grad_in, NULL, grad_in, size(1), input(&zero), size(1), size(1), size(1)],
        seed,
    )?;
    equal("the slope of ReLU at 0", &grad, &[0.0])
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    state: [u64; 3],
    grad: u64,
    len: u32,
    step: f32,
    shrink: f32,
}

/// Parameters of one block, of several and of not quite one; two updates.
pub fn adamw(kernel: &str, seed: u64) -> Checked {
    let (beta1, beta2, eps) = (0.9f32, 0.999f32, 1e-3f32);
    let lens = [1usize, 1024, 2500, 7];
    let mut random = Random::new(seed);
    let mut states: Vec<[Buffer; 3]> =
        lens.map(|len| [random.values(len), random.values(len), Buffer::new(&vec![0.25; len])]).into();
    let mut expected: Vec<[Vec<f64>; 3]> =
        states.iter().map(|state| state.each_ref().map(Buffer::wide)).collect();
    let grads = lens.map(|len| random.values(len));
    let blocks: Vec<usize> = lens.iter().map(|len| len.div_ceil(1024)).collect();
    let first: Vec<u32> = (0..4).map(|slot| blocks[..slot].iter().sum::<usize>() as u32).collect();
    for update in 0..2 {
        let mut slots: Vec<Slot> = Vec::new();
        for (i, (state, grad)) in states.iter_mut().zip(&grads).enumerate() {
            let (step, shrink) = (0.1 / (1 + i + update) as f32, [0.0f32, 0.01][i % 2]);
            let [p, m, v] = &mut expected[i];
            for (j, g) in grad.wide().into_iter().enumerate() {
                m[j] = f64::from(beta1) * m[j] + f64::from(1.0 - beta1) * g;
                v[j] = f64::from(beta2) * v[j] + f64::from(1.0 - beta2) * g * g;
                p[j] -= f64::from(step) * m[j] / (v[j].sqrt() + f64::from(eps));
                p[j] -= f64::from(shrink) * p[j];
            }
            let pointers = state.each_mut().map(|buffer| output(buffer).address());
            slots.push(Slot {
                state: pointers,
                grad: input(grad).address(),
                len: lens[i] as u32,
                step,
                shrink,
            });
        }
        let numbers = [beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps].map(real);
        let args = [&[memory(&mut slots), ids(&first), size(4)], &numbers[..]].concat();
        launch(kernel, ([blocks.iter().sum(), 1, 1], 256), &args, seed)?;
    }
    for (found, expected) in states.iter().zip(&expected) {
        for ((what, found), expected) in ["p", "m", "v"].into_iter().zip(found).zip(expected) {
            close(what, found, expected, FEW_ROUNDINGS)?;
        }
    }
    Ok(())
}

/// `struct PartialSum` of sums.cu.
#[repr(C)]
struct PartialSum {
    out: u64,
    parts_at: u64,
    parts: u32,
    stride: u32,
    len: u32,
    accumulate: u32,
}

/// Gradients of several lengths and numbers of parts, of which two share their parts side by side.
pub fn add_gradients(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    // Values, parts, values between two parts, whether to add.
    let cases = [(1usize, 1usize, 1usize, 0u32), (256, 3, 300, 1), (700, 29, 700, 0), (9, 5, 20, 1)];
    let parts: Vec<Buffer> =
        cases.iter().map(|(_, parts, stride, _)| random.values(parts * stride)).collect();
    let mut outs: Vec<Buffer> = cases
        .iter()
        .map(
            |&(len, .., accumulate)| if accumulate == 1 { random.values(len) } else { Buffer::poisoned(len) },
        )
        .collect();
    let (mut slots, mut first, mut blocks, mut expected) = (Vec::new(), Vec::new(), 0, Vec::new());
    for ((&(len, count, stride, accumulate), from), out) in cases.iter().zip(&parts).zip(&mut outs) {
        let (values, before) = (from.wide(), out.wide());
        let sum = |i: usize| {
            let total: f64 = (0..count).map(|part| values[part * stride + i]).sum();
            if accumulate == 1 { total + before[i] } else { total }
        };
        expected.push((0..len).map(sum).collect::<Vec<f64>>());
        first.push(blocks as u32);
        blocks += len.div_ceil(256);
        slots.push(PartialSum {
            out: output(out).address(),
            parts_at: input(from).address(),
            parts: count as u32,
            stride: stride as u32,
            len: len as u32,
            accumulate,
        });
    }
    let args = [memory(&mut slots), ids(&first), size(cases.len())];
    launch(kernel, ([blocks, 1, 1], 256), &args, seed)?;
    // Up to 30 additions of numbers near 1.
    for (found, expected) in outs.iter().zip(&expected) {
        close("gradient", found, expected, 1e-6)?;
    }
    Ok(())
}
