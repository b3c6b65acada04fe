//! The canvas, boxes pooled from a map, and probabilities against their definitions.

use crate::support::*;

/// A few additions of weighted numbers.
const ADDITIONS: f64 = 1e-6;

/// A picture of 5 x 3 pixels on a canvas of 8 x 4, of which it fills 6 x 3.
pub fn canvas(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    let (picture_width, picture_height, width, height) = (5, 3, 8, 4);
    let mut rgb: Vec<u8> =
        random.ids(3 * picture_width * picture_height, 256).into_iter().map(|value| value as u8).collect();
    // Lines and columns of the canvas: between which two of the picture, and the weight of the second.
    let lines = [(0, 0, 0.0f32), (0, 1, 0.25), (2, 2, 0.0)];
    let columns = [(0, 0, 0.0f32), (0, 1, 0.75), (1, 2, 0.5), (2, 3, 0.125), (3, 4, 0.9), (4, 4, 0.0)];
    let means = [10.5f32, 20.25, 30.125];
    let mut expected = Vec::new();
    for (y, x, channel) in
        (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
    {
        let (Some(&(top, bottom, down)), Some(&(left, right, across))) = (lines.get(y), columns.get(x))
        else {
            expected.push(0.0);
            continue;
        };
        let at = |row: usize, column: usize| {
            f64::from(rgb[3 * (row * picture_width + column) + 2 - channel]) - f64::from(means[channel])
        };
        let (down, across) = (f64::from(down), f64::from(across));
        let upper = at(top, left) * (1.0 - across) + at(top, right) * across;
        let lower = at(bottom, left) * (1.0 - across) + at(bottom, right) * across;
        expected.push(upper * (1.0 - down) + lower * down);
    }
    let table = |between: &[(usize, usize, f32)]| {
        between
            .iter()
            .flat_map(|&(first, second, weight)| [first as u32, second as u32, weight.to_bits()])
            .collect::<Vec<u32>>()
    };
    let (line_table, column_table) = (table(&lines), table(&columns));
    let mut out = Buffer::poisoned(expected.len());
    let args = [output(&mut out), memory(&mut rgb), ids(&line_table), ids(&column_table)];
    let sizes = [picture_width, lines.len(), columns.len(), width, width * height].map(size);
    let args = [&args[..], &sizes, &means.map(real)].concat();
    launch(kernel, flat(width * height), &args, seed)?;
    close("canvas", &out, &expected, ADDITIONS)
}

/// Boxes inside the map, beyond its edges, of a point and outside; more channels than a block takes, more bins than are written at
/// once. One row belongs to no box that is listed.
pub fn roi_align(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    let boxes = [
        [3.0f32, 2.0, 30.0, 25.0],
        [0.0; 4],
        [-9.0, -7.0, 70.0, 50.0],
        [40.5, 30.25, 51.0, 35.0],
        [60.0, 60.0, 80.0, 90.0],
    ];
    let rows = [4usize, 0, 2, 1, 5];
    let scale = 0.25f32;
    for (height, width, channels, bins, samples) in [(9, 13, 70, 7, 2), (4, 3, 5, 2, 3), (1, 1, 64, 3, 1)] {
        let map = random.values(height * width * channels);
        let all = bins * bins;
        let bilinear = |y: f64, x: f64, channel: usize| {
            if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 {
                return 0.0;
            }
            let (y, x) = (y.clamp(0.0, height as f64 - 1.0), x.clamp(0.0, width as f64 - 1.0));
            let (y0, x0) = (y.floor() as usize, x.floor() as usize);
            let (y1, x1) = ((y0 + 1).min(height - 1), (x0 + 1).min(width - 1));
            let (fy, fx) = (y - y0 as f64, x - x0 as f64);
            let at = |y: usize, x: usize| map.at((y * width + x) * channels + channel);
            (1.0 - fy) * ((1.0 - fx) * at(y0, x0) + fx * at(y0, x1))
                + fy * ((1.0 - fx) * at(y1, x0) + fx * at(y1, x1))
        };
        let mut expected = vec![f64::NAN; 6 * channels * all];
        for (corners, row) in boxes.iter().zip(rows) {
            let [left, top, right, bottom] = corners.map(|value| f64::from(value) * f64::from(scale));
            let (bin_x, bin_y) =
                ((right - left).max(1.0) / bins as f64, (bottom - top).max(1.0) / bins as f64);
            for (channel, bin) in (0..channels).flat_map(|c| (0..all).map(move |bin| (c, bin))) {
                let mut sum = 0.0;
                for (i, j) in (0..samples).flat_map(|i| (0..samples).map(move |j| (i, j))) {
                    let part = |i: usize| (i as f64 + 0.5) / samples as f64;
                    let y = top + bin_y * ((bin / bins) as f64 + part(i));
                    let x = left + bin_x * ((bin % bins) as f64 + part(j));
                    sum += bilinear(y, x, channel);
                }
                expected[(row * channels + channel) * all + bin] = sum / (samples * samples) as f64;
            }
        }
        let list: Vec<u32> = boxes
            .iter()
            .zip(rows)
            .flat_map(|(corners, row)| [&corners.map(f32::to_bits)[..], &[row as u32]].concat())
            .collect();
        let mut out = Buffer::poisoned(expected.len());
        let sizes = [height, width, channels, bins, samples].map(size);
        let args = [&[output(&mut out), input(&map), ids(&list)], &sizes[..], &[real(scale)]].concat();
        launch(kernel, ([boxes.len(), channels.div_ceil(64), 1], 256), &args, seed)?;
        let of_row = 3 * channels * all..4 * channels * all;
        if out.values()[of_row.clone()].iter().any(|value| !value.is_nan()) {
            return Err("a row that no box has was written".to_owned());
        }
        let without = |values: &[f64]| [&values[..of_row.start], &values[of_row.end..]].concat();
        let found: Vec<f32> = without(&out.wide()).into_iter().map(|value| value as f32).collect();
        out.guard_is_whole()?;
        close(&format!("{height}x{width}"), &Buffer::new(&found), &without(&expected), ADDITIONS)?;
    }
    Ok(())
}

pub fn softmax(kernel: &str, seed: u64) -> Checked {
    let mut random = Random::new(seed);
    for (rows_count, columns) in [(1, 1), (5, 33), (9, 260)] {
        let logits = random.values(rows_count * columns);
        let mut x = Buffer::new(&logits.values().iter().map(|value| 90.0 * value).collect::<Vec<_>>());
        let mut expected = Vec::new();
        for row in x.wide().chunks(columns) {
            let greatest = row.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = row.iter().map(|value| libm::exp(value - greatest)).sum();
            expected.extend(row.iter().map(|value| libm::exp(value - greatest) / total));
        }
        launch(kernel, rows(rows_count), &[output(&mut x), size(rows_count), size(columns)], seed)?;
        close("probabilities", &x, &expected, 1e-6)?;
    }
    Ok(())
}
