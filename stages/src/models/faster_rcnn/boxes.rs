//! Boxes as corners x1, y1, x2, y2 in pixels, both corners inside (the legacy convention: a box of one pixel
//! has equal corners and width 1). It does not know where they come from.

/// A box: x1, y1, x2, y2.
pub type Corners = [f32; 4];

/// The largest growth a predicted box may have: ln(1000 / 16).
const MAX_LOG_GROWTH: f32 = 4.135_166_6;

/// Area, corners inside.
pub fn area([x1, y1, x2, y2]: Corners) -> f32 {
    (x2 - x1 + 1.0) * (y2 - y1 + 1.0)
}

/// Intersection over union.
pub fn iou(a: Corners, b: Corners) -> f32 {
    let across = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
    let down = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
    let shared = across * down;
    shared / (area(a) + area(b) - shared)
}

/// The box that `deltas` (shift of the centre in sizes of the anchor, logarithms of the growth) make of an
/// anchor. Only the far corner has the −1 of the convention, as in the code the weights come from.
pub fn decode([x1, y1, x2, y2]: Corners, [dx, dy, dw, dh]: [f32; 4]) -> Corners {
    let (width, height) = (x2 - x1 + 1.0, y2 - y1 + 1.0);
    let (x, y) = (dx * width + (x1 + 0.5 * width), dy * height + (y1 + 0.5 * height));
    let width = libm::expf(dw.min(MAX_LOG_GROWTH)) * width;
    let height = libm::expf(dh.min(MAX_LOG_GROWTH)) * height;
    [x - 0.5 * width, y - 0.5 * height, x + 0.5 * width - 1.0, y + 0.5 * height - 1.0]
}

/// The deltas that make `target` of `anchor`: the inverse of [`decode`].
pub fn encode([x1, y1, x2, y2]: Corners, target: Corners) -> [f32; 4] {
    let (width, height) = (x2 - x1 + 1.0, y2 - y1 + 1.0);
    let (to_width, to_height) = (target[2] - target[0] + 1.0, target[3] - target[1] + 1.0);
    let shift_x = target[0] + 0.5 * to_width - (x1 + 0.5 * width);
    let shift_y = target[1] + 0.5 * to_height - (y1 + 0.5 * height);
    [shift_x / width, shift_y / height, libm::logf(to_width / width), libm::logf(to_height / height)]
}

/// The part of the box inside a canvas.
pub fn clip(corners: Corners, width: usize, height: usize) -> Corners {
    let (right, bottom) = (width as f32 - 1.0, height as f32 - 1.0);
    let [x1, y1, x2, y2] = corners;
    [x1.clamp(0.0, right), y1.clamp(0.0, bottom), x2.clamp(0.0, right), y2.clamp(0.0, bottom)]
}

/// Indices of the `most` best of `scores`, best first. Of equal scores the lower index comes first: this is the one place that
/// orders scores, of proposals and of regions, whatever device computed them, so the order is the same everywhere.
pub fn best_first(scores: &[f32], most: usize) -> Vec<usize> {
    // One integer each that orders as the score does, from the greatest on, and then as the index: `f32::total_cmp`.
    let key = |(index, score): (usize, &f32)| {
        let bits = score.to_bits();
        let descending = if score.is_sign_negative() { bits } else { !bits & (u32::MAX >> 1) };
        u64::from(descending) << 32 | index as u64
    };
    let mut order: Vec<u64> = scores.iter().enumerate().map(key).collect();
    if most < order.len() {
        order.select_nth_unstable(most);
        order.truncate(most);
    }
    order.sort_unstable();
    order.into_iter().map(|key| key as u32 as usize).collect()
}

/// Kept boxes that are compared with one at the same time.
const LANES: usize = 16;

/// Kept boxes, corner by corner, and their areas. Places that are not filled hold a box that overlaps none.
#[derive(Clone, Copy)]
struct Kept {
    corners: [[f32; LANES]; 4],
    areas: [f32; LANES],
}

impl Kept {
    const NONE: Self = Self { corners: [[f32::INFINITY; LANES]; 4], areas: [1.0; LANES] };

    /// Whether one of them overlaps a box of this area by more than `threshold`: [`iou`], of all at once.
    fn covers(&self, corners: Corners, area: f32, threshold: f32) -> bool {
        let [x1, y1, x2, y2] = &self.corners;
        let mut covers = false;
        for i in 0..LANES {
            let across = (x2[i].min(corners[2]) - x1[i].max(corners[0]) + 1.0).max(0.0);
            let down = (y2[i].min(corners[3]) - y1[i].max(corners[1]) + 1.0).max(0.0);
            let shared = across * down;
            covers |= shared / (self.areas[i] + area - shared) > threshold;
        }
        covers
    }
}

/// Greedy non-maximum suppression: of `boxes`, best first, keeps each that overlaps no kept one by more than
/// `threshold`, and stops at `max`. Returns indices, best first. Two boxes without area do not overlap.
pub fn suppress(boxes: &[Corners], threshold: f32, max: usize) -> Vec<usize> {
    let (mut kept, mut lanes) = (Vec::new(), Vec::<Kept>::new());
    for (index, &corners) in boxes.iter().enumerate() {
        if kept.len() == max {
            break;
        }
        let size = area(corners);
        if lanes.iter().any(|kept| kept.covers(corners, size, threshold)) {
            continue;
        }
        let lane = kept.len() % LANES;
        if lane == 0 {
            lanes.push(Kept::NONE);
        }
        if let Some(last) = lanes.last_mut() {
            last.corners.iter_mut().zip(corners).for_each(|(lanes, corner)| lanes[lane] = corner);
            last.areas[lane] = size;
        }
        kept.push(index);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_the_far_corner_as_inside() {
        assert_eq!(area([3.0, 4.0, 3.0, 4.0]), 1.0);
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 2.0, 2.0]), 1.0 / 7.0);
        assert_eq!(iou([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]), 0.0);
    }

    #[test]
    fn decodes_with_the_convention_s_widths() {
        // Without deltas the near corner stays and the far one too: (w − 1) + 1 − 1.
        assert_eq!(decode([-14.0, -14.0, 17.0, 17.0], [0.0; 4]), [-14.0, -14.0, 17.0, 17.0]);
        // Width 10 at 0..9, centre 5: shifted by a tenth and doubled it spans 6 ± 10.
        let ln2 = std::f32::consts::LN_2;
        let decoded = decode([0.0, 0.0, 9.0, 9.0], [0.1, 0.0, ln2, 0.0]);
        for (value, expected) in decoded.iter().zip([-4.0, 0.0, 15.0, 9.0]) {
            assert!((value - expected).abs() < 1e-4, "{decoded:?}");
        }
        let huge = decode([0.0, 0.0, 15.0, 15.0], [0.0, 0.0, 100.0, 0.0]);
        assert!((huge[2] - huge[0] + 1.0 - 1000.0).abs() < 0.1);
    }

    #[test]
    fn clips_to_the_canvas() {
        assert_eq!(clip([-3.0, 2.0, 50.0, 99.0], 40, 30), [0.0, 2.0, 39.0, 29.0]);
    }

    #[test]
    fn boxes_without_area_do_not_suppress_each_other() {
        let empty = decode([0.0, 0.0, 15.0, 15.0], [0.0, 0.0, -200.0, 0.0]);
        assert_eq!(area(empty), 0.0);
        assert_eq!(suppress(&[empty, empty], 0.7, 2), [0, 1]);
    }

    #[test]
    fn keeps_the_order_of_equal_scores() {
        for (most, expected) in
            [(9, &[1, 3, 0, 2][..]), (4, &[1, 3, 0, 2]), (3, &[1, 3, 0]), (1, &[1]), (0, &[])]
        {
            assert_eq!(best_first(&[0.5, 0.9, 0.5, 0.9], most), expected);
        }
    }

    /// Marks every box that a better unmarked one suppresses, pair by pair.
    fn brute_force(boxes: &[Corners], threshold: f32) -> Vec<usize> {
        let mut gone = vec![false; boxes.len()];
        for i in 0..boxes.len() {
            for j in i + 1..boxes.len() {
                gone[j] = gone[j] || (!gone[i] && iou(boxes[i], boxes[j]) > threshold);
            }
        }
        (0..boxes.len()).filter(|&i| !gone[i]).collect()
    }

    fn any_box() -> impl Strategy<Value = Corners> {
        (0..40i16, 0..40i16, 0..20i16, 0..20i16)
            .prop_map(|(x, y, w, h)| [f32::from(x), f32::from(y), f32::from(x + w), f32::from(y + h)])
    }

    proptest! {
        #[test]
        fn suppression_equals_brute_force(boxes in prop::collection::vec(any_box(), 0..90), max in 0..90usize) {
            let mut expected = brute_force(&boxes, 0.4);
            expected.truncate(max);
            prop_assert_eq!(suppress(&boxes, 0.4, max), expected);
        }

        #[test]
        fn encode_inverts_decode(anchor in any_box(), target in any_box()) {
            let decoded = decode(anchor, encode(anchor, target));
            for (value, expected) in decoded.iter().zip(target) {
                prop_assert!((value - expected).abs() < 1e-2);
            }
        }
    }
}
