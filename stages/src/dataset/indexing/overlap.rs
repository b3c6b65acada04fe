//! What two splits have in common: ids, texts, pictures. A sample that is trained on and evaluated with tells nothing.

use std::collections::HashSet;

use super::digest;
use crate::artifacts::data_summary::Overlap;

/// What is compared of a split, row by row.
#[derive(Default)]
pub struct Column {
    ids: Vec<u128>,
    /// Nothing for an empty text.
    texts: Vec<Option<u128>>,
    pictures: Vec<u128>,
}

impl Column {
    /// Adds a sample with the digest of its picture.
    pub fn push(&mut self, id: &str, text: &str, picture: u128) {
        self.ids.push(digest(id.as_bytes()));
        self.texts.push(text_digest(text));
        self.pictures.push(picture);
    }

    fn pairs(&self) -> impl Iterator<Item = (u128, u128)> {
        self.texts.iter().zip(&self.pictures).filter_map(|(text, picture)| Some(((*text)?, *picture)))
    }
}

/// What texts have in common that differ only in case and spacing; nothing for an empty text.
pub fn text_digest(text: &str) -> Option<u128> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    (!words.is_empty()).then(|| digest(words.join(" ").as_bytes()))
}

/// How many samples of the second split are in the first, too.
pub fn between((first, a): (&str, &Column), (second, b): (&str, &Column)) -> Overlap {
    let (ids, pictures): (HashSet<_>, HashSet<_>) = (a.ids.iter().collect(), a.pictures.iter().collect());
    let texts: HashSet<_> = a.texts.iter().flatten().collect();
    let pairs: HashSet<_> = a.pairs().collect();
    Overlap {
        first: first.to_owned(),
        second: second.to_owned(),
        ids: b.ids.iter().filter(|id| ids.contains(id)).count(),
        texts: Some(b.texts.iter().flatten().filter(|text| texts.contains(text)).count()),
        pictures: Some(b.pictures.iter().filter(|picture| pictures.contains(picture)).count()),
        both: Some(b.pairs().filter(|pair| pairs.contains(pair)).count()),
    }
}
