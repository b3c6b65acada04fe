//! Which proposals become a picture's regions: those that some class is most confident of. It does not know
//! the network.

use rayon::prelude::*;

use super::boxes::{Corners, best_first, iou};

/// A chosen proposal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its index among the proposals.
    pub proposal: usize,
    /// The box, in pixels of the picture.
    pub corners: Corners,
    /// The best probability of a class for which no overlapping proposal is better; 0 when there is none.
    pub confidence: f32,
    /// The most probable class, background left out, 0-based.
    pub object: u32,
}

/// Bits of a word.
const BITS: usize = u64::BITS as usize;
/// Classes that a thread takes at once.
const CLASSES_AT_ONCE: usize = 64;

/// Chooses at most `max` proposals, most confident first, equal ones in the order of the proposals.
///
/// `proposals` are in pixels of the canvas, `scale` is its size over the picture's. Everything else is in pixels of the
/// picture, as in MMF's extraction: sides are counted with one pixel more, so overlaps depend on the unit.
/// For every class but the background the boxes are suppressed by better ones that overlap them by more
/// than `threshold`; a box's confidence is its best probability among the classes it survives in.
/// `probabilities` is `[proposals, classes]`, row-major, background first.
pub fn choose(
    proposals: &[Corners],
    scale: f32,
    probabilities: &[f32],
    classes: usize,
    threshold: f32,
    max: usize,
) -> Vec<Choice> {
    let boxes: Vec<Corners> = proposals.iter().map(|corners| corners.map(|value| value / scale)).collect();
    let n = boxes.len();
    // A bit for each pair.
    let words = n.div_ceil(BITS);
    let mut overlap = vec![0u64; n * words];
    overlap.par_chunks_mut(words.max(1)).zip(&boxes).for_each(|(row, &one)| {
        for (word, boxes) in row.iter_mut().zip(boxes.chunks(BITS)) {
            let covers = boxes.iter().map(|&other| u64::from(iou(one, other) > threshold));
            *word = covers.enumerate().fold(0, |word, (bit, covers)| word | covers << bit);
        }
    });
    // Of each class, the survivors' scores; the greatest of all classes does not depend on the order they come in.
    let confidence = (1..classes)
        .into_par_iter()
        .with_min_len(CLASSES_AT_ONCE)
        .fold(
            || vec![0f32; n],
            |mut confidence, class| {
                let scores: Vec<f32> = (0..n).map(|i| probabilities[i * classes + class]).collect();
                let mut gone = vec![0u64; words];
                for index in best_first(&scores, n) {
                    if gone[index / BITS] >> (index % BITS) & 1 == 0 {
                        confidence[index] = confidence[index].max(scores[index]);
                        let row = &overlap[index * words..][..words];
                        gone.iter_mut().zip(row).for_each(|(gone, covers)| *gone |= covers);
                    }
                }
                confidence
            },
        )
        .reduce(|| vec![0f32; n], |a, b| a.iter().zip(&b).map(|(a, b)| a.max(*b)).collect());
    let object = |proposal: usize| {
        let row = &probabilities[proposal * classes + 1..(proposal + 1) * classes];
        // The first of equal classes, as an argmax has it.
        let best = row.iter().enumerate().fold((0, f32::MIN), |best, (class, &probability)| {
            if probability > best.1 { (class, probability) } else { best }
        });
        best.0 as u32
    };
    best_first(&confidence, max)
        .into_iter()
        .map(|proposal| Choice {
            proposal,
            corners: boxes[proposal],
            confidence: confidence[proposal],
            object: object(proposal),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: Corners = [50.0, 50.0, 59.0, 59.0];
    const A: Corners = [0.0, 0.0, 9.0, 9.0];
    const NEAR_A: Corners = [0.0, 0.0, 9.0, 8.0];

    #[test]
    fn a_class_keeps_one_of_two_overlapping_boxes() {
        let (boxes, probabilities) = ([A, NEAR_A, APART], [0.1, 0.5, 0.4, 0.1, 0.6, 0.3, 0.9, 0.06, 0.04]);
        let chosen = choose(&boxes, 1.0, &probabilities, 3, 0.5, 3);
        // Class 1 keeps NEAR_A (0.6) and drops A; class 2 keeps A (0.4) and drops NEAR_A.
        let expected = [(1, 0.6, 0), (0, 0.4, 0), (2, 0.06, 0)];
        for (choice, (proposal, confidence, object)) in chosen.iter().zip(expected) {
            assert_eq!(*choice, Choice { proposal, corners: boxes[proposal], confidence, object });
        }
        assert_eq!(choose(&boxes, 1.0, &probabilities, 3, 0.5, 2).len(), 2);
    }

    #[test]
    fn suppressed_everywhere_means_zero_and_ties_keep_their_order() {
        let probabilities = [0.2, 0.8, 0.4, 0.6, 0.2, 0.8];
        let chosen = choose(&[A, NEAR_A, APART], 1.0, &probabilities, 2, 0.5, 3);
        assert_eq!(chosen.iter().map(|choice| choice.proposal).collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(chosen[2].confidence, 0.0);
    }

    /// Two boxes as wide as high, one further right: w pixels and a shift of d overlap by (w − d) / (w + d).
    #[test]
    fn overlaps_are_measured_on_the_picture() {
        let second = |side: f32, shift: f32, scale: f32| {
            let pair = [[0.0, 0.0, side, side], [shift, 0.0, side + shift, side]];
            let chosen = choose(&pair, scale, &[0.1, 0.9, 0.2, 0.8], 2, 0.5, 2);
            assert_eq!(chosen[1].corners, pair[1].map(|value| value / scale));
            chosen[1].confidence
        };
        // 31 / 6.8 + 1 = 5.56 and 11 / 6.8 = 1.62: 3.94 / 7.18 = 0.55; on the canvas 21 / 43 = 0.49.
        assert_eq!([second(31.0, 11.0, 6.8), second(31.0, 11.0, 1.0)], [0.0, 0.8]);
        // 4 / 0.4 + 1 = 11 and 1.6 / 0.4 = 4: 7 / 15 = 0.47; on the canvas 3.4 / 6.6 = 0.52.
        assert_eq!([second(4.0, 1.6, 0.4), second(4.0, 1.6, 1.0)], [0.8, 0.0]);
    }

    #[test]
    fn of_nothing_chooses_nothing() {
        assert!(choose(&[], 1.0, &[], 2, 0.5, 10).is_empty());
    }
}
