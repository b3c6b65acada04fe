//! LayerNorm against its definition.

use crate::support::*;

const EPS: f32 = 1e-5;

/// Sums of up to 1,500 numbers, lane by lane and then over the lanes, and a root: a few roundings of numbers near 1.
const NORMALISED: f64 = 1e-6;

/// So many rows: of one sequence, or of sequences without padding, a long one with a gap and one of one row.
fn sequences(count: usize, is_packed: bool) -> Sequences {
    match count {
        _ if !is_packed => Sequences::padded(1, count),
        1 => Sequences::packed(3, &[&[1]]),
        2 => Sequences::packed(3, &[&[1], &[1]]),
        _ => Sequences::packed(count + 2, &[&[1], &[1, 2, count - 2]]),
    }
}

/// Parts, rows, width; each of the ways that a row is held.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (2, 5, 18), (5, 6, 128), (2, 3, 768), (1, 3, 1024), (2, 2, 1500)];

pub fn norm_forward(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (parts, count, width) in SHAPES {
        for (mask, with_residual, apart, keep, is_packed) in [
            (NONE, false, false, false, true),
            (THIRD, true, false, true, false),
            (THIRD, true, false, true, true),
            (THIRD, true, true, true, true),
            (NONE, true, false, true, false),
        ] {
            let rows_of = sequences(count, is_packed);
            let len = count * width;
            let (in_, residual) = (random.values(parts * len), random.values(len));
            let (bias, weight, shift) = (random.values(width), random.values(width), random.values(width));
            let mut dropped = add_up(&in_.wide(), len);
            for (i, value) in dropped.iter_mut().enumerate() {
                *value = (*value + bias.at(i % width)) * mask.factor(rows_of.element(i, width));
            }
            let sum: Vec<f64> = if with_residual {
                dropped.iter().zip(residual.wide()).map(|(d, residual)| d + residual).collect()
            } else {
                dropped.clone()
            };
            let (mut normal, mut scales, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for row in if apart { &dropped } else { &sum }.chunks(width) {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|u| (u - mean) * (u - mean)).sum::<f64>() / width as f64;
                let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
                scales.push(scale);
                normal.extend(row.iter().map(|u| (u - mean) * scale));
            }
            for (i, normal) in normal.iter().enumerate() {
                expected.push(normal * weight.at(i % width) + shift.at(i % width));
            }
            let [mut y, mut found_normal, mut found_sum] = [(); 3].map(|()| Buffer::poisoned(len));
            let mut found_scale = Buffer::poisoned(count);
            let kept = [output(&mut found_normal), output(&mut found_scale), output(&mut found_sum)];
            let kept = if keep { kept } else { [NULL; 3] };
            let args = [
                &[output(&mut y)],
                &kept[..],
                &[input(&in_), size(parts), input(&bias), mask.arg()],
                &[
                    rows_of.places(),
                    if with_residual { input(&residual) } else { NULL },
                    size(usize::from(apart)),
                ],
                &[input(&weight), input(&shift), size(count), size(width), real(EPS)],
            ];
            launch(kernel, rows(count), &args.concat(), seed)?;
            // A row of one value is its own mean: only its rounding is left, magnified by 1 / sqrt(eps).
            let tolerance = if width == 1 { 1e-4 } else { NORMALISED };
            close("y", &y, &expected, tolerance)?;
            if keep {
                close_of(1.0, "normal", &found_normal, &normal, tolerance)?;
                close("scale", &found_scale, &scales, NORMALISED)?;
                close("sum", &found_sum, &sum, 4e-7)?;
            }
        }
    }
    Ok(())
}

pub fn norm_output(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (_, count, width) in SHAPES {
        let (normal, weight, shift) =
            (random.values(count * width), random.values(width), random.values(width));
        let of = |(i, normal): (usize, f64)| normal * weight.at(i % width) + shift.at(i % width);
        let expected: Vec<f64> = normal.wide().into_iter().enumerate().map(of).collect();
        let mut y = Buffer::poisoned(count * width);
        let args = [output(&mut y), input(&normal), input(&weight), input(&shift), size(count), size(width)];
        launch(kernel, matrix(count, width), &args, seed)?;
        close("y", &y, &expected, 2e-7)?;
    }
    Ok(())
}

pub fn norm_backward(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (parts, count, width) in SHAPES {
        for (mask, with_plus, keep, is_packed) in [
            (NONE, false, [true, false], true),
            (THIRD, true, [true, true], false),
            (THIRD, false, [false, true], false),
            (THIRD, true, [true, true], true),
        ] {
            let rows_of = sequences(count, is_packed);
            let len = count * width;
            let (mut grad, normal, plus) =
                (random.values(parts * len), random.values(len), random.values(len));
            let (scale, weight) = (random.values(count), random.values(width));
            let h: Vec<f64> = add_up(&grad.wide(), len)
                .iter()
                .enumerate()
                .map(|(i, grad)| grad * weight.at(i % width))
                .collect();
            let mut expected = Vec::new();
            for (row, (h, normal)) in h.chunks(width).zip(normal.wide().chunks(width)).enumerate() {
                let mean = h.iter().sum::<f64>() / width as f64;
                let along = h.iter().zip(normal).map(|(h, n)| h * n).sum::<f64>() / width as f64;
                expected.extend(h.iter().zip(normal).enumerate().map(|(c, (h, n))| {
                    let plus = if with_plus { plus.at(row * width + c) } else { 0.0 };
                    scale.at(row) * (h - mean - n * along) + plus
                }));
            }
            let factor = |i: usize| mask.factor(rows_of.element(i, width));
            let under_mask: Vec<f64> = expected.iter().enumerate().map(|(i, g)| g * factor(i)).collect();
            let [mut sum, mut dropped] = [(); 2].map(|()| Buffer::poisoned(len));
            // Where there is one part the sum may take the gradient's place.
            let in_place = parts == 1 && keep[0];
            let grad_in = output(&mut grad);
            let sum_out = if in_place { grad_in } else { output(&mut sum) };
            let args = [
                &[if keep[0] { sum_out } else { NULL }, if keep[1] { output(&mut dropped) } else { NULL }],
                &[grad_in, size(parts), input(&normal), input(&scale), input(&weight)][..],
                &[if with_plus { input(&plus) } else { NULL }, mask.arg(), rows_of.places()],
                &[size(count), size(width)],
            ];
            launch(kernel, rows(count), &args.concat(), seed)?;
            if keep[0] {
                close("sum", if in_place { &grad } else { &sum }, &expected, NORMALISED)?;
            }
            if keep[1] {
                close("dropped", &dropped, &under_mask, NORMALISED)?;
            }
        }
    }
    Ok(())
}

pub fn norm_parameter_sums(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (parts, count, width) in [(1, 1, 1), (2, 130, 35), (5, 20, 64), (1, 260, 768)] {
        let (grad, normal, blocks) =
            (random.values(parts * count * width), random.values(count * width), count.div_ceil(128));
        let mut expected = vec![0.0; blocks * 2 * width];
        for (i, grad) in add_up(&grad.wide(), count * width).into_iter().enumerate() {
            let at = i / width / 128 * 2 * width + i % width;
            expected[at] += grad * f64::from(normal.values()[i]);
            expected[at + width] += grad;
        }
        let mut partial = Buffer::poisoned(expected.len());
        let args =
            [output(&mut partial), input(&grad), size(parts), input(&normal), size(count), size(width)];
        launch(kernel, sums(count, width), &args, seed)?;
        // Sums of up to 16 numbers near 1, then of 8 of those.
        close("sums", &partial, &expected, 4e-7)?;
    }
    Ok(())
}
