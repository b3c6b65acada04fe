//! BERT's masked-language-model corruption: some words of a text are to be guessed; most of them are hidden, some
//! replaced by another word, some left as they are. It does not know pictures or the model.

use rand::{Rng, RngExt};

use crate::artifacts::token_set::TokenSetInfo;

/// How words are hidden.
pub(super) struct Masking {
    /// Share of words to be guessed.
    pub probability: f64,
    /// Share of those that become `[MASK]`.
    pub hidden: f64,
    /// Share of those that become a random word; the rest stays.
    pub replaced: f64,
    /// The id of `[MASK]`.
    pub mask: u32,
    /// Ids that are words: neither targets nor replacements are special tokens.
    words: Vec<u32>,
    is_word: Vec<bool>,
}

/// A corrupted text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Masked {
    /// The text as the model sees it.
    pub ids: Vec<u32>,
    /// Positions to be guessed, ascending, each with its true id.
    pub targets: Vec<(usize, u32)>,
}

impl Masking {
    /// The rule for texts of the vocabulary `info`.
    ///
    /// # Errors
    /// A vocabulary without `[MASK]` or without words.
    pub(super) fn new(
        info: &TokenSetInfo,
        probability: f64,
        hidden: f64,
        replaced: f64,
    ) -> Result<Self, &'static str> {
        let mask = info.mask.ok_or("the vocabulary has no [MASK], which pretraining hides words with")?;
        let special = [info.pad, info.cls, info.sep, mask, info.unknown];
        let is_word: Vec<bool> = (0..info.vocab_size as u32).map(|id| !special.contains(&id)).collect();
        let words: Vec<u32> = (0..info.vocab_size as u32).filter(|&id| is_word[id as usize]).collect();
        match words.is_empty() {
            true => Err("the vocabulary has only special tokens: nothing can be masked"),
            false => Ok(Self { probability, hidden, replaced, mask, words, is_word }),
        }
    }

    /// Corrupts a text. At least one word is to be guessed, if the text has any.
    pub(super) fn apply(&self, ids: &[u32], rng: &mut impl Rng) -> Masked {
        let places: Vec<usize> = (0..ids.len()).filter(|&at| self.is_word[ids[at] as usize]).collect();
        let mut chosen: Vec<usize> =
            places.iter().copied().filter(|_| rng.random_bool(self.probability)).collect();
        if chosen.is_empty() && !places.is_empty() {
            chosen.push(places[rng.random_range(0..places.len())]);
        }
        let mut masked = Masked { ids: ids.to_vec(), targets: Vec::with_capacity(chosen.len()) };
        for at in chosen {
            masked.targets.push((at, ids[at]));
            let fate: f64 = rng.random();
            if fate < self.hidden {
                masked.ids[at] = self.mask;
            } else if fate < self.hidden + self.replaced {
                masked.ids[at] = self.words[rng.random_range(0..self.words.len())];
            }
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::artifacts::labels::Classes;

    fn info() -> TokenSetInfo {
        TokenSetInfo {
            dataset: "scenes".to_owned(),
            classes: Classes::default(),
            vocab_size: 50,
            max_length: 64,
            pad: 0,
            unknown: 1,
            cls: 2,
            sep: 3,
            mask: Some(4),
        }
    }

    #[test]
    fn the_shares_are_those_asked_for_and_special_tokens_stay() {
        let masking = Masking::new(&info(), 0.15, 0.8, 0.1).unwrap();
        let text: Vec<u32> = [2].into_iter().chain((0..60).map(|at| 5 + at % 45)).chain([1, 3]).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut words, mut targets, mut hidden, mut kept) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..2000 {
            let masked = masking.apply(&text, &mut rng);
            assert_eq!(masked.ids.len(), text.len());
            words += 60.0;
            let mut rest = text.clone();
            for &(at, id) in &masked.targets {
                assert!(id >= 5 && text[at] == id, "a special token was chosen");
                assert!(masked.ids[at] >= 4, "replaced by a special token");
                targets += 1.0;
                hidden += f64::from(u8::from(masked.ids[at] == 4));
                kept += f64::from(u8::from(masked.ids[at] == id));
                rest[at] = masked.ids[at];
            }
            assert_eq!(rest, masked.ids, "a position that is no target was changed");
        }
        // 120,000 words: three standard deviations of the share are 0.003, of the 18,000 targets' below 0.01.
        assert!((targets / words - 0.15f64).abs() < 0.005);
        assert!((hidden / targets - 0.8f64).abs() < 0.01);
        // A random word is the true one in 1 of 45 cases.
        assert!((kept / targets - (0.1 + 0.1 / 45.0f64)).abs() < 0.01);
    }

    #[test]
    fn every_text_with_words_gets_a_target() {
        let masking = Masking::new(&info(), 0.0, 1.0, 0.0).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(masking.apply(&[2, 9, 3], &mut rng), Masked { ids: vec![2, 4, 3], targets: vec![(1, 9)] });
        assert_eq!(masking.apply(&[2, 3], &mut rng), Masked { ids: vec![2, 3], targets: vec![] });
    }
}
