//! Embeddings, rows, elementwise passes, the losses and the optimizer.

use super::*;
use crate::nn::backend::{AdamWSlot, AttentionShape, Memory, TextTables};

#[test]
fn embeddings_and_their_gradients_follow_their_definition() {
    let (batch, tokens, words, positions, width, pad) = (3, 5, 7, 9, 300, 2u32);
    let gpu = gpu();
    for trained in [[true, true, true], [false, true, false], [true, false, true]] {
        let mut draw = Draw(1);
        let tables = TextTables {
            words: draw.param(&[words, width], trained[0]),
            positions: draw.param(&[positions, width], trained[1]),
            types: draw.param(&[2, width], trained[2]),
            pad,
        };
        let mut sums = [words, positions, 2].map(|rows| vec![0.0; rows * width]);
        for _ in 0..2 {
            let mut ids: Vec<u32> = (0..batch * tokens).map(|_| draw.below(words as u32)).collect();
            ids[3] = pad;
            ids[4] = ids[0];
            let held_ids = indices(&ids, &[batch, tokens]);
            let values = [&tables.words, &tables.positions, &tables.types].map(value);
            let mut expected = Vec::new();
            let grad = draw.values(ids.len() * width);
            for (row, &id) in ids.iter().enumerate() {
                for c in 0..width {
                    let places = [id as usize * width + c, row % tokens * width + c, c];
                    expected.push(values.iter().zip(places).map(|(values, place)| values[place]).sum());
                    for (table, (sums, place)) in sums.iter_mut().zip(places).enumerate() {
                        if table > 0 || id != pad {
                            sums[place] += f64::from(grad[row * width + c]);
                        }
                    }
                }
            }
            let found = gpu.embed(&held_ids, &tables).unwrap();
            assert_close("embeddings", &gpu.values(&found).unwrap(), &expected, 1e-6);
            gpu.embed_gradients(upload(&gpu, &grad).view(), &held_ids, &tables).unwrap();
        }
        let found = [&tables.words, &tables.positions, &tables.types].map(|table| gradient(&gpu, table));
        for (found, (expected, is_trained)) in found.into_iter().zip(sums.iter().zip(trained)) {
            assert_eq!(found.is_some(), is_trained);
            if let Some(found) = found {
                assert_close("a table's gradient", &found, expected, 2e-6);
            }
        }
    }
}

#[test]
fn a_first_row_is_added_and_its_gradient_is_a_sum() {
    let (mut draw, gpu) = (Draw(2), gpu());
    for (rows, width) in [(1, 3), (131, 5), (4, 300)] {
        for is_trained in [true, false] {
            let table = draw.param(&[3, width], is_trained);
            let x = draw.values(rows * width);
            let row = value(&table);
            let expected: Vec<f64> =
                x.iter().enumerate().map(|(at, &x)| f64::from(x) + row[at % width]).collect();
            let mut held = upload(&gpu, &x);
            gpu.add_first_row(&mut held, &table).unwrap();
            assert_close("rows", &gpu.values(&held).unwrap(), &expected, 1e-6);

            let mut sums = vec![0.0; 3 * width];
            for _ in 0..2 {
                gpu.first_row_gradient(upload(&gpu, &x).view(), &table).unwrap();
                for (at, &x) in x.iter().enumerate() {
                    sums[at % width] += f64::from(x);
                }
            }
            match gradient(&gpu, &table) {
                Some(found) => assert_close("gradient", &found, &sums, 2e-6),
                None => assert!(!is_trained),
            }
        }
    }
}

#[test]
fn rows_are_joined_and_parted() {
    let (mut draw, gpu) = (Draw(3), gpu());
    for (batch, n, m, width) in [(3, 2, 5, 7), (1, 1, 1, 1), (2, 4, 3, 260)] {
        let (a, b) = (draw.values(batch * n * width), draw.values(batch * m * width));
        let parts = a.chunks(n * width).zip(b.chunks(m * width));
        let expected: Vec<f32> = parts.flat_map(|(a, b)| [a, b].concat()).collect();
        let (held_a, held_b) = (upload(&gpu, &a), upload(&gpu, &b));
        let sizes = (n * width, m * width);
        let joined = gpu.concat(held_a.view(), held_b.view(), sizes).unwrap();
        assert_eq!(gpu.values(&joined).unwrap(), expected);
        let (found_a, found_b) = gpu.split(joined.view(), sizes).unwrap();
        assert_eq!((gpu.values(&found_a).unwrap(), gpu.values(&found_b).unwrap()), (a, b));
    }
}

#[test]
fn rows_are_selected_and_put_back() {
    let (mut draw, gpu) = (Draw(4), gpu());
    for (batch, rows, width) in [(3, 4, 5), (2, 2, 300)] {
        let x = draw.values(batch * rows * width);
        let mut held = upload(&gpu, &x);
        let length = rows * width;
        let first: Vec<f32> = x.chunks(length).flat_map(|x| &x[..width]).copied().collect();
        let shape = attention::shape(batch, 1, width, 1, rows);
        let found = gpu.first_rows(held.view(), shape, width).unwrap();
        assert_eq!(gpu.values(&found).unwrap(), first);

        let added = draw.values(batch * width);
        gpu.add_to_first_rows(&mut held, upload(&gpu, &added).view(), shape, width).unwrap();
        let mut expected = x.clone();
        for (x, added) in expected.chunks_mut(length).zip(added.chunks(width)) {
            x.iter_mut().zip(added).for_each(|(x, added)| *x += added);
        }
        assert_eq!(gpu.values(&held).unwrap(), expected);

        let places = [batch as u32 * rows as u32 - 1, 0, 3];
        let held_places = indices(&places, &[3]);
        let found = gpu.select_rows(held.view(), &held_places, width).unwrap();
        let selected: Vec<f32> =
            places.iter().flat_map(|&place| &expected[place as usize * width..][..width]).copied().collect();
        assert_eq!(gpu.values(&found).unwrap(), selected);
        let back = gpu.scatter_rows(found.view(), &held_places, width, x.len()).unwrap();
        let mut expected_back = vec![0.0; x.len()];
        for &place in &places {
            let range = place as usize * width..(place as usize + 1) * width;
            expected_back[range.clone()].copy_from_slice(&expected[range]);
        }
        assert_eq!(gpu.values(&back).unwrap(), expected_back);
    }
}

#[test]
fn first_rows_are_found_without_padding() {
    let (mut draw, gpu, packing, width) = (Draw(8), gpu(), attention::packing(9), 7);
    let shape = AttentionShape { packed_keys: Some(&packing), ..attention::shape(3, 1, width, 1, 9) };
    let (mut x, added) = (draw.values(packing.rows() * width), draw.values(3 * width));
    let mut held = upload(&gpu, &x);
    let first = |b: usize| packing.sequence(b).start * width;
    let expected: Vec<f32> = (0..3).flat_map(|b| &x[first(b)..][..width]).copied().collect();
    assert_eq!(gpu.values(&gpu.first_rows(held.view(), shape, width).unwrap()).unwrap(), expected);
    gpu.add_to_first_rows(&mut held, upload(&gpu, &added).view(), shape, width).unwrap();
    for (b, added) in added.chunks(width).enumerate() {
        x[first(b)..].iter_mut().zip(added).for_each(|(x, added)| *x += added);
    }
    assert_eq!(gpu.values(&held).unwrap(), x);
}

#[test]
fn elementwise_passes_follow_their_definition() {
    let (mut draw, gpu) = (Draw(5), gpu());
    for count in [1, 1025, 5000] {
        let (a, b) = (draw.values(count), draw.values(count));
        let (mut held_a, held_b) = (upload(&gpu, &a), upload(&gpu, &b));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
        assert_eq!(gpu.values(&gpu.multiply(held_a.view(), held_b.view()).unwrap()).unwrap(), expected);

        let mask = mask(1234);
        gpu.dropout(&mut held_a, mask).unwrap();
        let dropped: Vec<f32> = a.iter().enumerate().map(|(at, a)| a * mask.factor(at as u32)).collect();
        assert_eq!(gpu.values(&held_a).unwrap(), dropped, "the mask is the host's");

        gpu.scale_by(&mut held_a, upload(&gpu, &[-0.75]).view()).unwrap();
        let scaled: Vec<f32> = dropped.iter().map(|a| a * -0.75).collect();
        assert_eq!(gpu.values(&held_a).unwrap(), scaled);

        let copied = gpu.copy(held_b.view()).unwrap();
        gpu.clear(&mut held_a).unwrap();
        assert_eq!((gpu.values(&copied).unwrap(), gpu.values(&held_a).unwrap()), (b, vec![0.0; count]));
    }
}

#[test]
fn the_loss_and_its_gradient_follow_their_definition() {
    let (mut draw, gpu) = (Draw(6), gpu());
    for (rows, classes, total) in [(1, 2, 1), (5, 2, 16), (3, 1000, 3), (300, 3, 300)] {
        let logits: Vec<f32> = draw.values(rows * classes).iter().map(|x| 30.0 * x).collect();
        let labels: Vec<u32> = (0..rows).map(|_| draw.below(classes as u32)).collect();
        let (mut loss, mut expected) = (0.0, Vec::new());
        for (row, &label) in wide(&logits).chunks(classes).zip(&labels) {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| libm::exp(x - most)).sum();
            loss += (libm::log(sum) + most - row[label as usize]) / total as f64;
            for (class, x) in row.iter().enumerate() {
                let hit = if class == label as usize { 1.0 } else { 0.0 };
                expected.push((libm::exp(x - most) / sum - hit) / total as f64);
            }
        }
        let (held, held_labels) = (upload(&gpu, &logits), indices(&labels, &[rows]));
        for keep in [true, false] {
            let (found, grad) = gpu.cross_entropy(held.view(), &held_labels, classes, total, keep).unwrap();
            assert_close("loss", &gpu.values(&found).unwrap(), &[loss], 2e-6);
            assert_eq!(grad.is_some(), keep);
            if let Some(grad) = grad {
                assert_close("gradient", &gpu.values(&grad).unwrap(), &expected, 2e-6);
            }
        }
    }
}

#[test]
fn the_loss_of_several_labels_and_its_gradient_follow_their_definition() {
    let (mut draw, gpu) = (Draw(9), gpu());
    for (rows, classes, total) in [(1, 1, 1), (5, 3, 16), (7, 6, 7), (3, 1000, 3), (300, 2, 300)] {
        let logits: Vec<f32> = draw.values(rows * classes).iter().map(|x| 30.0 * x).collect();
        let targets: Vec<f32> = logits.iter().map(|_| draw.below(2) as f32).collect();
        let count = (classes * total) as f64;
        let (mut loss, mut expected) = (0.0, Vec::new());
        for (x, y) in wide(&logits).into_iter().zip(wide(&targets)) {
            loss += (libm::log1p(libm::exp(x)) - x * y) / count;
            expected.push((1.0 / (1.0 + libm::exp(-x)) - y) / count);
        }
        let (held, held_targets) = (upload(&gpu, &logits), upload(&gpu, &targets));
        for keep in [true, false] {
            let (held, targets) = (held.view(), held_targets.view());
            let (found, grad) = gpu.binary_cross_entropy(held, targets, classes, total, keep).unwrap();
            assert_close("loss", &gpu.values(&found).unwrap(), &[loss], 2e-6);
            assert_eq!(grad.is_some(), keep);
            if let Some(grad) = grad {
                assert_close("gradient", &gpu.values(&grad).unwrap(), &expected, 2e-6);
            }
        }
    }
    let (held, targets) = (upload(&gpu, &[f32::NAN, 0.0]), upload(&gpu, &[0.0, 1.0]));
    let (found, _) = gpu.binary_cross_entropy(held.view(), targets.view(), 1, 2, true).unwrap();
    assert!(gpu.values(&found).unwrap()[0].is_nan());
}

#[test]
fn the_optimizer_follows_its_definition() {
    const SIZES: [usize; 5] = [1, 1024, 1025, 3000, 7];
    let (beta1, beta2, eps) = (0.9, 0.999, 1e-3);
    let (mut draw, gpu) = (Draw(7), gpu());
    let params = SIZES.map(|size| draw.param(&[size], true));
    let frozen = draw.param(&[4], false);
    let before = value(&frozen);
    let moments = || gpu.zeros(3000).unwrap();
    let mut held: Vec<(Memory, Memory)> =
        SIZES.iter().chain([&4]).map(|_| (gpu.memory_of(moments()), gpu.memory_of(moments()))).collect();
    let mut p: Vec<Vec<f64>> = params.iter().map(value).collect();
    let mut moments: Vec<Vec<(f64, f64)>> = SIZES.map(|size| vec![(0.0, 0.0); size]).into();
    for update in 1..=3 {
        let mut slots = Vec::new();
        for (place, param) in params.iter().enumerate() {
            // The last parameter takes no part in the first update.
            if place == 4 && update == 1 {
                continue;
            }
            let grad = draw.values(SIZES[place]);
            let (step, shrink) = (0.01 * (place + update) as f64, 0.02 * place as f64);
            for ((p, (m, v)), g) in p[place].iter_mut().zip(&mut moments[place]).zip(wide(&grad)) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *p -= step * (*m / (v.sqrt() + eps));
                *p -= shrink * *p;
            }
            let gradient = param.gradient().unwrap();
            gradient.reset();
            let held = upload(&gpu, &grad);
            let copy = |to: &mut Buffer, _| gpu.driver.copy(held.view(), to);
            gradient.accumulate(&gpu, SIZES[place], copy).unwrap();
        }
        let scalars = |place: usize| (0.01 * (place + update) as f64, 0.02 * place as f64);
        for (place, (param, (m, v))) in params.iter().chain([&frozen]).zip(&mut held).enumerate() {
            let (step, shrink) = scalars(place);
            slots.push(AdamWSlot { param, m, v, step, shrink });
        }
        gpu.adamw(&mut slots, (beta1, beta2), eps).unwrap();
        for (param, expected) in params.iter().zip(&p) {
            let found: Vec<f32> = param.value().to_vec1().unwrap();
            assert_close("a parameter", &found, expected, 2e-6);
        }
    }
    assert_eq!(value(&frozen), before);
    let none: &mut [AdamWSlot] = &mut [];
    gpu.adamw(none, (beta1, beta2), eps).unwrap();
}

#[test]
fn a_batch_is_staged_and_arrives() {
    let upload = super::super::Upload::new(&device()).unwrap();
    let ids = Tensor::new(&[3u32, 1, 2], &Device::Cpu).unwrap();
    let values = Tensor::new(&[[0.5f32, -1.0]], &Device::Cpu).unwrap();
    let staged = upload.stage(&[&ids, &values]).unwrap();
    let arrived = staged.tensors().unwrap();
    assert_eq!(arrived[0].to_vec1::<u32>().unwrap(), [3, 1, 2]);
    assert_eq!(arrived[1].to_vec2::<f32>().unwrap(), [[0.5, -1.0]]);
}
