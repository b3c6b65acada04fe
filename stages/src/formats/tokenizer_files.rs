//! The files that say how texts become tokens: `vocab.txt` as BERT has it, or a folder as `save_pretrained` of Hugging Face's
//! tokenizers writes it. It knows names of files, not tokens.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A tokenizer as Hugging Face's library saves it whole.
pub const TOKENIZER: &str = "tokenizer.json";
/// A vocabulary: a token a line.
pub const VOCABULARY: &str = "vocab.txt";
/// The settings of a tokenizer.
pub const SETTINGS: &str = "tokenizer_config.json";

/// The files of a tokenizer.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`, or else a vocabulary.
    pub vocabulary: PathBuf,
    /// `tokenizer_config.json`, where the folder has it.
    pub settings: Option<PathBuf>,
}

impl TokenizerFiles {
    /// Those at `path`: a file, or a folder that holds them.
    ///
    /// # Errors
    /// A folder without any.
    pub fn find(path: &Path) -> Result<Self, String> {
        if !path.is_dir() {
            return Ok(Self { vocabulary: path.to_owned(), settings: None });
        }
        let there = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
        let vocabulary = there(TOKENIZER).or_else(|| there(VOCABULARY));
        let vocabulary =
            vocabulary.ok_or_else(|| format!("holds neither `{TOKENIZER}` nor `{VOCABULARY}`"))?;
        Ok(Self { vocabulary, settings: there(SETTINGS) })
    }

    /// Whether the vocabulary is a `tokenizer.json`.
    pub fn is_whole(&self) -> bool {
        self.vocabulary.extension().is_some_and(|ending| ending == "json")
    }

    /// Whether texts are lower-cased: where nothing says so, they are, as for BERT's uncased models.
    ///
    /// # Errors
    /// Settings that cannot be read.
    pub fn lower_case(&self) -> Result<bool, String> {
        let Some(path) = &self.settings else { return Ok(true) };
        let fail = |problem: String| format!("{SETTINGS}: {problem}");
        let bytes = fs::read(path).map_err(|error| fail(error.to_string()))?;
        let settings: Value = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        Ok(settings.get("do_lower_case").and_then(Value::as_bool).unwrap_or(true))
    }
}
