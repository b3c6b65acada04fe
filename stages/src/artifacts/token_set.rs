//! Token sets: the texts of a data set as WordPiece ids, with everything about a sample that training and
//! evaluation need besides the picture's regions.
//!
//! ```text
//! <tree>/tokens.json          data set, vocabulary size, ids of the special tokens
//! <tree>/rows.jsonl           id, image, split, label of each row
//! <tree>/tokens.safetensors   ids (u32, all rows one after the other), offsets (u64, rows + 1)
//! ```
//!
//! Ids are stored unpadded, `[CLS]` and `[SEP]` included; whoever makes a batch pads it.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::samples::Split;
use super::{ArtifactError, Result, read_json, read_json_lines, write_json, write_json_lines};

/// What is the same for all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSetInfo {
    /// Short name of the data set.
    pub dataset: String,
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
    /// Id of `[MASK]`.
    pub mask: u32,
    /// Id of `[UNK]`.
    pub unknown: u32,
}

/// One row besides its ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The sample's id.
    pub id: String,
    /// Name of its picture, the key into the region features.
    pub image: String,
    /// Its split.
    pub split: Split,
    /// Its label, if the source publishes one.
    pub label: Option<u8>,
}

/// A tokenized data set, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// What is the same for all rows.
    pub info: TokenSetInfo,
    /// The rows in the order of the samples.
    pub rows: Vec<TokenRow>,
    ids: Vec<u32>,
    offsets: Vec<u64>,
}

impl TokenSet {
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

    /// The ids of row `row`, `[CLS]` and `[SEP]` included.
    pub fn ids(&self, row: usize) -> &[u32] {
        &self.ids[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// The row numbers of a split, in order.
    pub fn rows_of(&self, split: Split) -> Vec<usize> {
        (0..self.rows.len()).filter(|&row| self.rows[row].split == split).collect()
    }

    /// Writes the set into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("tokens.json"), &self.info)?;
        write_json_lines(&dir.join("rows.jsonl"), &self.rows)?;
        let path = dir.join("tokens.safetensors");
        let fail = |error: safetensors::SafeTensorError| ArtifactError::new(&path, error);
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let ids = TensorView::new(Dtype::U32, vec![self.ids.len()], &ids).map_err(fail)?;
        let offsets = TensorView::new(Dtype::U64, vec![self.offsets.len()], &offsets).map_err(fail)?;
        safetensors::serialize_to_file([("ids", ids), ("offsets", offsets)], None, &path).map_err(fail)
    }

    /// Reads and checks what [`TokenSet::write`] wrote.
    ///
    /// # Errors
    /// Files that are missing or damaged, rows and offsets that disagree, ids (special ones too) outside the
    /// vocabulary.
    pub fn read(dir: &Path) -> Result<Self> {
        let info: TokenSetInfo = read_json(&dir.join("tokens.json"))?;
        let rows: Vec<TokenRow> = read_json_lines(&dir.join("rows.jsonl"))?;
        let path = dir.join("tokens.safetensors");
        let bytes = std::fs::read(&path).map_err(|error| ArtifactError::new(&path, error))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| ArtifactError::new(&path, error))?;
        let read = |name: &str, dtype: Dtype| {
            let tensor = tensors.tensor(name).map_err(|error| ArtifactError::new(&path, error))?;
            if tensor.dtype() != dtype || tensor.shape().len() != 1 {
                return Err(ArtifactError::new(&path, format!("`{name}` is not a vector of {dtype:?}")));
            }
            Ok(tensor.data().to_vec())
        };
        let ids: Vec<u32> = read("ids", Dtype::U32)?
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
            .collect();
        let offsets: Vec<u64> = read("offsets", Dtype::U64)?
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            .collect();
        let whole = offsets.len() == rows.len() + 1
            && offsets.first() == Some(&0)
            && offsets.last() == Some(&(ids.len() as u64))
            && offsets.is_sorted();
        if !whole {
            return Err(ArtifactError::new(&path, "offsets do not fit rows.jsonl and ids"));
        }
        let special = [info.pad, info.cls, info.sep, info.mask, info.unknown];
        if let Some(id) = special.iter().chain(&ids).find(|&&id| id as usize >= info.vocab_size) {
            let problem = format!("id {id} is outside the vocabulary of {}", info.vocab_size);
            return Err(ArtifactError::new(&path, problem));
        }
        Ok(Self { info, rows, ids, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_vocabulary_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let info = TokenSetInfo {
            dataset: "hmd".to_owned(),
            vocab_size: 6,
            max_length: 8,
            pad: 0,
            cls: 2,
            sep: 3,
            mask: 4,
            unknown: 1,
        };
        let row = TokenRow { id: "1".to_owned(), image: "1.png".to_owned(), split: Split::Val, label: None };
        let written = |info: TokenSetInfo, ids: &[u32]| {
            let mut set = TokenSet::new(info);
            set.push(row.clone(), ids);
            set.write(dir.path()).unwrap();
            TokenSet::read(dir.path()).map(|read| assert_eq!(read, set))
        };
        written(info.clone(), &[2, 5, 3]).unwrap();
        let error = written(info.clone(), &[2, 6, 3]).unwrap_err().to_string();
        assert!(error.contains("id 6 is outside the vocabulary of 6"), "{error}");
        let error = written(TokenSetInfo { sep: 9, ..info }, &[2, 5, 3]).unwrap_err().to_string();
        assert!(error.contains("id 9 is outside"), "{error}");
    }
}
