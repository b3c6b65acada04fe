//! `learn-vocabulary`: learns a WordPiece vocabulary from a text file, one text a line, with Hugging Face's
//! trainer. It knows the form of BERT's `vocab.txt`, not who reads it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::formats::file_kind;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    AddedToken, Model, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Trainer,
};

/// The tokens that stand for something other than text, in their order in the vocabulary: `[PAD]` is 0, as in
/// BERT's own.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The stage.
pub struct LearnVocabulary;

/// Params of [`LearnVocabulary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearnVocabularyParams {
    /// Most entries. Special tokens and single letters count, and are all in, however small this is.
    pub size: usize,
    /// A token is built only of neighbours that occur together so often.
    pub min_frequency: u64,
}

impl Default for LearnVocabularyParams {
    fn default() -> Self {
        Self { size: 1000, min_frequency: 2 }
    }
}

impl Stage for LearnVocabulary {
    type Params = LearnVocabularyParams;
    const NAME: &'static str = "learn-vocabulary";
    const ABOUT: &'static str = "learns a lower-case WordPiece vocabulary from a text";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("text")];

    fn run(&self, params: &LearnVocabularyParams, job: &Job) -> Result<(), StageError> {
        let path = job.inputs.one("text")?;
        let text = std::fs::read_to_string(path).map_err(|error| StageError::input("text", path, error))?;
        if let Some(problem) = file_kind::placeholder(text.as_bytes()).filter(|_| !text.is_empty()) {
            return Err(StageError::input("text", path, problem));
        }
        let vocabulary = learn(&text, params).map_err(StageError::failed)?;
        if vocabulary.len() == SPECIAL.len() {
            return Err(StageError::input("text", path, "holds no words"));
        }
        let lines: String = vocabulary.into_iter().map(|token| token + "\n").collect();
        Ok(std::fs::write(job.out.join("vocab.txt"), lines)?)
    }
}

/// The vocabulary in the order of ids.
fn learn(text: &str, params: &LearnVocabularyParams) -> tokenizers::Result<Vec<String>> {
    let mut letters = BTreeSet::new();
    for line in text.lines() {
        letters.extend(words(line)?.iter().flat_map(|word| word.chars().skip(1)).collect::<Vec<_>>());
    }
    // The trainer numbers letters within words in the order of a hash map with a random key, and breaks ties
    // between tokens by number. Naming them beforehand makes the result the same each time.
    let inner = letters.into_iter().map(|letter| format!("##{letter}"));
    let special = SPECIAL.into_iter().map(str::to_owned).chain(inner);
    let mut trainer = WordPieceTrainer::builder()
        .vocab_size(params.size)
        .min_frequency(params.min_frequency)
        .special_tokens(special.map(|token| AddedToken::from(token, true)).collect())
        .show_progress(false)
        .build();
    trainer.feed(text.lines(), words)?;
    let mut model = WordPiece::default();
    trainer.train(&mut model)?;
    let mut vocabulary: Vec<(u32, String)> =
        model.get_vocab().into_iter().map(|(token, id)| (id, token)).collect();
    vocabulary.sort();
    Ok(vocabulary.into_iter().map(|(_, token)| token).collect())
}

/// The words of a text as BERT splits it: lower-cased, without accents, punctuation apart.
fn words(text: &str) -> tokenizers::Result<Vec<String>> {
    let mut text = NormalizedString::from(text);
    BertNormalizer::default().normalize(&mut text)?;
    let mut text = PreTokenizedString::from(text);
    BertPreTokenizer.pre_tokenize(&mut text)?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits.into_iter().map(|(word, _, _)| word.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_come_first_and_frequent_words_are_whole() {
        let text = "The red star.\nthe RED moon!\nthe red  stár\n".repeat(4);
        let vocabulary = learn(&text, &LearnVocabularyParams { size: 60, min_frequency: 2 }).unwrap();
        assert_eq!(vocabulary[..5], SPECIAL);
        for token in ["the", "red", "star", "moon", ".", "!", "##r", "s"] {
            assert!(vocabulary.iter().any(|known| known == token), "{token} of {vocabulary:?}");
        }
        let distinct: BTreeSet<_> = vocabulary.iter().collect();
        assert_eq!(distinct.len(), vocabulary.len());
        assert!(
            !vocabulary.iter().any(|token| token.contains(char::is_uppercase) && !token.starts_with('['))
        );
    }

    #[test]
    fn the_same_text_gives_the_same_vocabulary() {
        // Many ties: words of equal frequency that share tokens.
        let words: Vec<String> = (0..300u32)
            .map(|n| (0..5).map(|i| char::from(b'a' + (((n * 7919) >> (2 * i)) % 7) as u8)).collect())
            .collect();
        let text = words.chunks(6).map(|line| line.join(" ") + "\n").collect::<String>();
        let params = LearnVocabularyParams { size: 250, min_frequency: 1 };
        let first = learn(&text, &params).unwrap();
        assert_eq!(first.len(), 250);
        for _ in 0..20 {
            assert_eq!(learn(&text, &params).unwrap(), first);
        }
    }
}
