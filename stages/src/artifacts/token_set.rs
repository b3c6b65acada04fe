//! Token sets: the texts of a data set as WordPiece ids, with everything about a sample that training and
//! evaluation need in addition to the picture's regions.
//!
//! ```text
//! <tree>/tokens.json          data set, vocabulary size, ids of the special tokens
//! <tree>/rows.jsonl           id, image, split, label of each row
//! <tree>/tokens.safetensors   ids (u16, u32 above 65,536 entries; all rows one after the other), offsets (u64,
//!                             rows + 1)
//! ```
//!
//! Ids are stored unpadded, `[CLS]` and `[SEP]` included; the builder of a batch pads it. Row `r` is
//! `ids[offsets[r]..offsets[r + 1]]`, so its length is the difference, and its mask is 1 at as many places and 0 at
//! those that padding adds: neither is stored. The reader maps the ids into memory.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::labels::{Classes, Label};
use super::samples::Split;
use super::{ArtifactError, Result, read_json, read_json_lines, write_json, write_json_lines};
use crate::formats::mapped_file::MappedFile;

/// What is the same for all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSetInfo {
    /// Short name of the data set.
    pub dataset: String,
    /// Its classes.
    #[serde(flatten)]
    pub classes: Classes,
    /// Number of entries of the vocabulary; every id is below it.
    pub vocab_size: usize,
    /// No row is longer than this, special tokens included.
    pub max_length: usize,
    /// Id of `[PAD]`.
    pub pad: u32,
    /// Id of `[CLS]`.
    pub cls: u32,
    /// Id of `[SEP]`.
    pub sep: u32,
    /// Id of `[MASK]`, where the vocabulary has it: only pretraining needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// Id of `[UNK]`.
    pub unknown: u32,
}

/// One row without its ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The sample's id.
    pub id: String,
    /// Name of its picture, the key into the region features.
    pub image: String,
    /// Its split.
    pub split: Split,
    /// Its label, if the source publishes one.
    pub label: Option<Label>,
    /// The share of annotators that call it hateful, where the label rule asks for it; training does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<f32>,
}

/// A token set in the making.
pub struct TokenWriter {
    info: TokenSetInfo,
    rows: Vec<TokenRow>,
    ids: Vec<u32>,
    offsets: Vec<u64>,
}

impl TokenWriter {
    /// An empty set.
    pub fn new(info: TokenSetInfo) -> Self {
        Self { info, rows: Vec::new(), ids: Vec::new(), offsets: vec![0] }
    }

    /// Appends a row with its ids.
    pub fn push(&mut self, row: TokenRow, ids: &[u32]) {
        self.rows.push(row);
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len() as u64);
    }

    /// Writes the set into `dir`.
    ///
    /// # Errors
    /// A folder that cannot be written, ids (special ones too) outside the vocabulary.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        check_ids(&self.info, self.ids.iter().copied())
            .map_err(|problem| ArtifactError::new(&path, problem))?;
        write_json(&dir.join("tokens.json"), &self.info)?;
        write_json_lines(&dir.join("rows.jsonl"), &self.rows)?;
        let fail = |error: safetensors::SafeTensorError| ArtifactError::new(&path, error);
        let narrow = self.info.vocab_size <= NARROW;
        let ids: Vec<u8> = match narrow {
            // Every id is below the size of the vocabulary.
            true => self.ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
            false => self.ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        };
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let dtype = if narrow { Dtype::U16 } else { Dtype::U32 };
        let ids = TensorView::new(dtype, vec![self.ids.len()], &ids).map_err(fail)?;
        let offsets = TensorView::new(Dtype::U64, vec![self.offsets.len()], &offsets).map_err(fail)?;
        safetensors::serialize_to_file([("ids", ids), ("offsets", offsets)], None, &path).map_err(fail)
    }
}

const FILE: &str = "tokens.safetensors";
/// Ids of a vocabulary up to this size fit 16 bits.
const NARROW: usize = 1 << 16;

fn check_ids(info: &TokenSetInfo, ids: impl Iterator<Item = u32>) -> std::result::Result<(), String> {
    let special = [info.pad, info.cls, info.sep, info.unknown].into_iter().chain(info.mask);
    match special.chain(ids).find(|&id| id as usize >= info.vocab_size) {
        Some(id) => Err(format!("id {id} is outside the vocabulary of {}", info.vocab_size)),
        None => Ok(()),
    }
}

/// A tokenized data set: rows in memory, ids by memory map.
pub struct TokenSet {
    /// What is the same for all rows.
    pub info: TokenSetInfo,
    /// The rows in the order of the samples.
    pub rows: Vec<TokenRow>,
    map: MappedFile,
    /// Where in the map the ids begin, and bytes an id.
    ids: usize,
    width: usize,
    offsets: Vec<u64>,
}

impl TokenSet {
    /// The ids of row `row`, `[CLS]` and `[SEP]` included.
    pub fn ids(&self, row: usize) -> Vec<u32> {
        self.within(self.offsets[row] as usize, self.offsets[row + 1] as usize).collect()
    }

    /// The label of row `row`.
    ///
    /// # Errors
    /// It has none, or one that the data set's classes do not allow.
    pub fn label(&self, row: usize) -> std::result::Result<Label, String> {
        let row = &self.rows[row];
        let classes = &self.info.classes;
        match row.label {
            Some(label) if classes.may_have(label) => Ok(label),
            Some(other) => {
                Err(format!("row `{}` has label {other}; it must be {}", row.id, classes.in_words()))
            }
            None => Err(format!("row `{}` of split `{}` has no label", row.id, row.split.as_str())),
        }
    }

    /// How many ids row `row` has.
    pub fn length(&self, row: usize) -> usize {
        (self.offsets[row + 1] - self.offsets[row]) as usize
    }

    fn within(&self, from: usize, to: usize) -> impl Iterator<Item = u32> + '_ {
        let bytes = &self.map[self.ids + from * self.width..self.ids + to * self.width];
        bytes
            .chunks_exact(self.width)
            .map(|id| id.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte)))
    }

    /// The row numbers of a split, in order.
    pub fn rows_of(&self, split: Split) -> Vec<usize> {
        (0..self.rows.len()).filter(|&row| self.rows[row].split == split).collect()
    }

    /// Reads and checks what [`TokenWriter::write`] wrote.
    ///
    /// # Errors
    /// Files that are missing or damaged, rows and offsets that disagree, ids (special ones too) outside the
    /// vocabulary.
    pub fn read(dir: &Path) -> Result<Self> {
        let info: TokenSetInfo = read_json(&dir.join("tokens.json"))?;
        let rows: Vec<TokenRow> = read_json_lines(&dir.join("rows.jsonl"))?;
        let path = dir.join(FILE);
        let fail = |problem: String| ArtifactError::new(&path, problem);
        let map = MappedFile::open(&path).map_err(|error| fail(error.to_string()))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|error| fail(error.to_string()))?;
        let vector = |name: &str, dtypes: &[Dtype]| {
            let tensor = tensors.tensor(name).map_err(|error| fail(error.to_string()))?;
            if !dtypes.contains(&tensor.dtype()) || tensor.shape().len() != 1 {
                return Err(fail(format!("`{name}` is not a vector of {dtypes:?}")));
            }
            Ok(tensor)
        };
        let ids = vector("ids", &[Dtype::U16, Dtype::U32])?;
        let width = if ids.dtype() == Dtype::U16 { 2 } else { 4 };
        let count = ids.data().len() / width;
        let ids = ids.data().as_ptr() as usize - map.as_ptr() as usize;
        let offsets: Vec<u64> = vector("offsets", &[Dtype::U64])?
            .data()
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            .collect();
        let whole = offsets.len() == rows.len() + 1
            && offsets.first() == Some(&0)
            && offsets.last() == Some(&(count as u64))
            && offsets.is_sorted();
        if !whole {
            return Err(fail("offsets do not fit rows.jsonl and ids".to_owned()));
        }
        drop(tensors);
        let set = Self { info, rows, map, ids, width, offsets };
        check_ids(&set.info, set.within(0, count)).map_err(fail)?;
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(vocab_size: usize) -> TokenSetInfo {
        TokenSetInfo {
            dataset: "hmd".to_owned(),
            classes: Classes::default(),
            vocab_size,
            max_length: 8,
            pad: 0,
            cls: 2,
            sep: 3,
            mask: Some(4),
            unknown: 1,
        }
    }

    fn row(id: &str) -> TokenRow {
        let image = format!("{id}.png");
        TokenRow { id: id.to_owned(), image, split: Split::Val, label: None, soft: None }
    }

    #[test]
    fn reads_back_what_was_written_in_16_and_in_32_bits() {
        for (vocab_size, width) in [(1 << 16, 2), ((1 << 16) + 1, 4)] {
            let dir = tempfile::tempdir().unwrap();
            let mut set = TokenWriter::new(info(vocab_size));
            let last = vocab_size as u32 - 1;
            set.push(row("1"), &[2, last, 3]);
            set.push(row("2"), &[]);
            set.push(row("3"), &[2, 258]);
            set.write(dir.path()).unwrap();
            let set = TokenSet::read(dir.path()).unwrap();
            assert_eq!(set.width, width);
            assert_eq!(set.rows, [row("1"), row("2"), row("3")]);
            assert_eq!([set.ids(0), set.ids(1), set.ids(2)], [vec![2, last, 3], vec![], vec![2, 258]]);
            assert_eq!([set.length(0), set.length(1), set.length(2)], [3, 0, 2]);
        }
    }

    #[test]
    fn ids_outside_the_vocabulary_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let written = |info: TokenSetInfo, ids: &[u32]| {
            let mut set = TokenWriter::new(info);
            set.push(row("1"), ids);
            set.write(dir.path())
        };
        written(info(6), &[2, 5, 3]).unwrap();
        let error = written(info(6), &[2, 6, 3]).unwrap_err().to_string();
        assert!(error.contains("id 6 is outside the vocabulary of 6"), "{error}");
        let error = written(TokenSetInfo { sep: 9, ..info(6) }, &[2, 5, 3]).unwrap_err().to_string();
        assert!(error.contains("id 9 is outside"), "{error}");
        // A vocabulary that shrank after the ids were written.
        write_json(&dir.path().join("tokens.json"), &info(5)).unwrap();
        let error = TokenSet::read(dir.path()).err().unwrap().to_string();
        assert!(error.contains("id 5 is outside the vocabulary of 5"), "{error}");
    }
}
