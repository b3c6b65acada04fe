//! The anchors of the first detectors of this family, with their rounding. It does not know what is predicted
//! for them.

use super::boxes::Corners;

/// The anchors around the first cell of a level, one a ratio (height over width).
///
/// As in the original code: a square of `stride` pixels is reshaped to each ratio with its sides rounded (half
/// to even), then scaled by `size / stride` about its centre.
pub fn cell_anchors(stride: usize, size: f64, ratios: &[f64]) -> Vec<Corners> {
    let stride = stride as f64;
    let (centre, scale) = ((stride - 1.0) / 2.0, size / stride);
    ratios
        .iter()
        .map(|ratio| {
            let width = (stride * stride / ratio).sqrt().round_ties_even();
            let height = (width * ratio).round_ties_even().max(1.0);
            let (half_width, half_height) = ((width * scale - 1.0) / 2.0, (height * scale - 1.0) / 2.0);
            [centre - half_width, centre - half_height, centre + half_width, centre + half_height]
                .map(|value| value as f32)
        })
        .collect()
}

/// The anchor of the shape `cell` around the cell at `row` and `column` of a level.
pub fn anchor_at([x1, y1, x2, y2]: Corners, stride: usize, row: usize, column: usize) -> Corners {
    let (x, y) = ((column * stride) as f32, (row * stride) as f32);
    [x1 + x, y1 + y, x2 + x, y2 + y]
}

/// All anchors of a level of `height × width` cells: by row, then column, then ratio.
pub fn grid(cell: &[Corners], stride: usize, height: usize, width: usize) -> Vec<Corners> {
    let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    places
        .flat_map(|(row, column)| cell.iter().map(move |&cell| anchor_at(cell, stride, row, column)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::faster_rcnn::config::Config;

    #[test]
    fn equal_the_published_ones() {
        let expected: [[Corners; 3]; 5] = [
            [[-22.0, -10.0, 25.0, 13.0], [-14.0, -14.0, 17.0, 17.0], [-10.0, -22.0, 13.0, 25.0]],
            [[-40.0, -20.0, 47.0, 27.0], [-28.0, -28.0, 35.0, 35.0], [-20.0, -44.0, 27.0, 51.0]],
            [[-84.0, -40.0, 99.0, 55.0], [-56.0, -56.0, 71.0, 71.0], [-36.0, -80.0, 51.0, 95.0]],
            [[-164.0, -72.0, 195.0, 103.0], [-112.0, -112.0, 143.0, 143.0], [-76.0, -168.0, 107.0, 199.0]],
            [[-332.0, -152.0, 395.0, 215.0], [-224.0, -224.0, 287.0, 287.0], [-148.0, -328.0, 211.0, 391.0]],
        ];
        let config = Config::x152();
        for (level, expected) in expected.iter().enumerate() {
            let size = config.anchor_sizes[level];
            assert_eq!(cell_anchors(config.stride(level), size, &config.anchor_ratios), expected);
        }
    }

    #[test]
    fn lie_by_row_column_and_ratio() {
        let anchors = grid(&[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]], 8, 2, 3);
        assert_eq!(anchors.len(), 12);
        assert_eq!(anchors[3], [8.0, 0.0, 10.0, 2.0]);
        assert_eq!(anchors[6], [0.0, 8.0, 1.0, 9.0]);
    }
}
