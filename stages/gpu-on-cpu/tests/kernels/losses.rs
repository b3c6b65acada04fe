//! The losses with their gradients against their definitions.

use crate::elements::{FEW_ROUNDINGS, MATH};
use crate::support::*;

pub fn cross_entropy(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (rows, classes) in [(1, 2), (5, 3), (4, 1001)] {
        let logits =
            Buffer::new(&random.values(rows * classes).values().iter().map(|x| 20.0 * x).collect::<Vec<_>>());
        let labels = random.ids(rows, classes as u32);
        let (mut losses, mut grads) = (Vec::new(), Vec::new());
        for (x, &label) in logits.wide().chunks(classes).zip(&labels) {
            let total: f64 = x.iter().map(|x| libm::exp(*x)).sum();
            losses.push(libm::log(total) - x[label as usize]);
            grads.extend(
                x.iter().enumerate().map(|(c, x)| {
                    (libm::exp(*x) / total - if c == label as usize { 1.0 } else { 0.0 }) * 0.125
                }),
            );
        }
        let (mut found, mut grad) = (Buffer::poisoned(rows), Buffer::poisoned(rows * classes));
        for keep in [false, true] {
            let kept = if keep { output(&mut grad) } else { NULL };
            let args = [
                output(&mut found),
                kept,
                input(&logits),
                ids(&labels),
                size(rows),
                size(classes),
                real(0.125),
            ];
            launch(kernel, ([rows, 1, 1], 256), &args, seed)?;
            // The exponent of a difference of up to 40 carries its rounding, 2e-6.
            close_of(1.0, "losses", &found, &losses, 2e-6)?;
        }
        close_of(0.125, "gradient", &grad, &grads, 4e-6)?;
    }
    Ok(())
}

pub fn binary_cross_entropy(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (rows, classes) in [(1, 1), (5, 3), (2, 6), (3, 256), (4, 1001)] {
        let values = random.values(rows * classes).values().to_vec();
        let mut logits: Vec<f32> = values.iter().map(|x| 20.0 * x).collect();
        let mut targets: Vec<f32> = random.ids(rows * classes, 2).iter().map(|&y| y as f32).collect();
        if classes == 6 {
            // Where exp overflows or is 0, where the target is right and where it is not, and between the two halves.
            logits[..6].copy_from_slice(&[200.0, -200.0, 200.0, -200.0, 0.0, -0.0]);
            targets[..6].copy_from_slice(&[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        }
        let (logits, targets) = (Buffer::new(&logits), Buffer::new(&targets));
        let (mut losses, mut grads) = (Vec::new(), Vec::new());
        for (x, y) in logits.wide().chunks(classes).zip(targets.wide().chunks(classes)) {
            let terms = x.iter().zip(y).map(|(x, y)| libm::log1p(libm::exp(*x)) - x * y);
            losses.push(terms.sum());
            grads.extend(x.iter().zip(y).map(|(x, y)| (1.0 / (1.0 + libm::exp(-x)) - y) * 0.125));
        }
        let (mut found, mut grad) = (Buffer::poisoned(rows), Buffer::poisoned(rows * classes));
        for keep in [false, true] {
            let kept = if keep { output(&mut grad) } else { NULL };
            let args = [
                output(&mut found),
                kept,
                input(&logits),
                input(&targets),
                size(rows),
                size(classes),
                real(0.125),
            ];
            launch(kernel, ([rows, 1, 1], 256), &args, seed)?;
            close_of(1.0, "losses", &found, &losses, MATH)?;
        }
        close_of(0.125, "gradient", &grad, &grads, MATH)?;
    }
    let (logits, targets) = (Buffer::new(&[f32::NAN, 0.0, 0.0, 0.0]), Buffer::new(&[0.0, 1.0, 1.0, 0.0]));
    let (mut found, mut grad) = (Buffer::poisoned(2), Buffer::new(&[7.0; 4]));
    let args =
        [output(&mut found), output(&mut grad), input(&logits), input(&targets), size(2), size(2), real(1.0)];
    launch(kernel, ([2, 1, 1], 256), &args, seed)?;
    let (found, grad) = (found.values(), grad.values());
    let shows = found[0].is_nan() && grad[0].is_nan() && grad[1..] == [-0.5, -0.5, 0.5];
    if shows && found[1] > 1.38 { Ok(()) } else { Err(format!("a NaN: {found:?}, {grad:?}")) }
}

pub fn mean_loss(kernel: &str, seed: u64) -> Checked {
    for rows in [1, 16, 700] {
        // Losses are not negative: their sum does not cancel.
        let losses =
            Buffer::new(&Random::new(seed).values(rows).values().iter().map(|x| x.abs()).collect::<Vec<_>>());
        let mut loss = Buffer::poisoned(1);
        let args = [output(&mut loss), input(&losses), size(rows), real(0.5)];
        launch(kernel, ([1, 1, 1], 256), &args, seed)?;
        close("loss", &loss, &[0.5 * losses.wide().iter().sum::<f64>()], FEW_ROUNDINGS)?;
    }
    Ok(())
}
