//! A curve in letters: values by step, drawn with braille dots, between axes that say where it begins and ends. It does
//! not know what the values are.

use stage_api::Scalars;

/// Rows of letters of a plot, without the line below it.
const ROWS: usize = 7;
/// Columns for the numbers next to a plot.
const MARGIN: usize = 10;

/// The plot of values by step, at most `columns` letters wide; values that are no numbers leave gaps.
pub fn plot(Scalars { name, points }: &Scalars, columns: usize) -> String {
    let points: Vec<_> = points.iter().filter_map(|(at, value)| Some((*at, (*value)?))).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return format!("{name}: no number yet\n");
    };
    let width = columns.saturating_sub(MARGIN + 2).clamp(8, 100);
    let ends = |(low, high): (f64, f64), (_, value): &(u64, f64)| (low.min(*value), high.max(*value));
    let (low, high) = points.iter().fold((f64::INFINITY, f64::NEG_INFINITY), ends);
    let span = |from: f64, to: f64| if to > from { to - from } else { 1.0 };
    let (steps, heights) = (span(first.0 as f64, last.0 as f64), span(low, high));
    let place = |(step, value): &(u64, f64)| {
        let x = (*step as f64 - first.0 as f64) / steps * (width * 2 - 1) as f64;
        let y = (high - value) / heights * (ROWS * 4 - 1) as f64;
        (x.round() as usize, y.round() as usize)
    };
    let mut dots = vec![[0_u8; ROWS]; width];
    let mut dot = |x: usize, y: usize| {
        // The bits of a braille letter, by column and row.
        const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
        if let Some(cell) = dots.get_mut(x / 2).and_then(|column| column.get_mut(y / 4)) {
            *cell |= BITS[x % 2][y % 4];
        }
    };
    let (x, y) = place(first);
    dot(x, y);
    for pair in points.windows(2) {
        let ((x0, y0), (x1, y1)) = (place(&pair[0]), place(&pair[1]));
        let number = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
        for at in 0..=number {
            let between = |from: usize, to: usize| (from * (number - at) + to * at + number / 2) / number;
            dot(between(x0, x1), between(y0, y1));
        }
    }
    let mut text = format!("{name}: {} at {}\n", number(last.1), last.0);
    for row in 0..ROWS {
        let label = match row {
            0 => number(high),
            _ if row == ROWS - 1 => number(low),
            _ => String::new(),
        };
        let letters =
            dots.iter().map(|column| char::from_u32(0x2800 + u32::from(column[row])).unwrap_or(' '));
        let line = format!("{label:>MARGIN$} │{}", letters.collect::<String>());
        text.push_str(line.trim_end_matches('\u{2800}'));
        text.push('\n');
    }
    let (from, to) = (first.0.to_string(), last.0.to_string());
    let gap = width.saturating_sub(from.len() + to.len());
    text + &format!("{:MARGIN$} └{from}{:gap$}{to}\n", "", "")
}

/// Four digits that count, without an exponent where it can be read without one.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match () {
        () if size == 0.0 => "0".to_owned(),
        () if !(0.001..1e6).contains(&size) => format!("{value:.2e}"),
        () if size < 10.0 => format!("{value:.4}"),
        () => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_line_goes_from_corner_to_corner() {
        let text = plot(&Scalars::new("auc", [(0, 0.5), (50, f64::NAN), (100, 1.0)].into_iter()), 32);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "auc: 1.0000 at 100");
        assert_eq!(lines.len(), ROWS + 2);
        assert!(lines[1].starts_with("    1.0000 │") && lines[1].ends_with('⠊'), "{text}");
        assert!(lines[ROWS].starts_with("    0.5000 │⡠"), "{text}");
        assert_eq!(lines[ROWS + 1], format!("{:10} └0{:16}100", "", ""));
        assert!(lines.iter().all(|line| line.chars().count() <= 32), "{text}");
    }

    #[test]
    fn one_value_and_none_are_drawn_too() {
        let loss = |value: f64| Scalars::new("loss", [(7, value)].into_iter());
        assert!(plot(&loss(2.0), 10).contains("loss: 2.0000 at 7"));
        assert_eq!(plot(&loss(f64::NAN), 80), "loss: no number yet\n");
    }
}
