//! Which proposals become a picture's regions: those that some class is most confident of. It does not know
//! the network.

use rayon::prelude::*;

use super::boxes::{Corners, best_first, iou};

/// A chosen proposal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its index among the proposals.
    pub proposal: usize,
    /// The best probability of a class for which no overlapping proposal is better; 0 when there is none.
    pub confidence: f32,
    /// The most probable class, background left out, 0-based.
    pub object: u32,
}

/// Classes that a thread takes at once.
const CLASSES_AT_ONCE: usize = 64;

/// Chooses at most `most` proposals, most confident first, equal ones in the order of the proposals.
///
/// For every class but the background the proposals are suppressed by better ones that overlap them by more
/// than `threshold`; a proposal's confidence is its best probability among the classes it survives in.
/// `probabilities` is `[boxes, classes]`, row-major, background first.
pub fn choose(
    boxes: &[Corners],
    probabilities: &[f32],
    classes: usize,
    threshold: f32,
    most: usize,
) -> Vec<Choice> {
    let n = boxes.len();
    let mut overlap = vec![false; n * n];
    overlap.par_chunks_mut(n.max(1)).zip(boxes).for_each(|(row, &one)| {
        row.iter_mut().zip(boxes).for_each(|(covers, &other)| *covers = iou(one, other) > threshold);
    });
    // Of each class, the survivors' scores; the greatest of all classes does not depend on the order they come in.
    let confidence = (1..classes)
        .into_par_iter()
        .with_min_len(CLASSES_AT_ONCE)
        .fold(
            || vec![0f32; n],
            |mut confidence, class| {
                let scores: Vec<f32> = (0..n).map(|i| probabilities[i * classes + class]).collect();
                let mut gone = vec![false; n];
                for index in best_first(&scores) {
                    if !gone[index] {
                        confidence[index] = confidence[index].max(scores[index]);
                        let row = &overlap[index * n..][..n];
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
    let mut order = best_first(&confidence);
    order.truncate(most);
    order
        .into_iter()
        .map(|proposal| Choice { proposal, confidence: confidence[proposal], object: object(proposal) })
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
        let probabilities = [0.1, 0.5, 0.4, 0.1, 0.6, 0.3, 0.9, 0.06, 0.04];
        let chosen = choose(&[A, NEAR_A, APART], &probabilities, 3, 0.5, 3);
        // Class 1 keeps NEAR_A (0.6) and drops A; class 2 keeps A (0.4) and drops NEAR_A.
        let expected = [(1, 0.6, 0), (0, 0.4, 0), (2, 0.06, 0)];
        for (choice, (proposal, confidence, object)) in chosen.iter().zip(expected) {
            assert_eq!(*choice, Choice { proposal, confidence, object });
        }
        assert_eq!(choose(&[A, NEAR_A, APART], &probabilities, 3, 0.5, 2).len(), 2);
    }

    #[test]
    fn suppressed_everywhere_means_zero_and_ties_keep_their_order() {
        let probabilities = [0.2, 0.8, 0.4, 0.6, 0.2, 0.8];
        let chosen = choose(&[A, NEAR_A, APART], &probabilities, 2, 0.5, 3);
        assert_eq!(chosen.iter().map(|choice| choice.proposal).collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!(chosen[2].confidence, 0.0);
    }

    #[test]
    fn of_nothing_chooses_nothing() {
        assert!(choose(&[], &[], 2, 0.5, 10).is_empty());
    }
}
