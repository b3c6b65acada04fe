//! `tokens`: turns the texts of a data set into WordPiece ids as BERT's tokenizer does. It knows text and
//! vocabularies, neither pictures nor models.
//!
//! With a `vocab.txt` the steps are those of `BertTokenizerFast`, uncased unless a `tokenizer_config.json` next to it says otherwise: control characters out, spaces around CJK characters,
//! lower case, accents off, punctuation apart, greedy longest match; at most `max_length` ids with `[CLS]` before
//! and `[SEP]` behind, cut from the end. A literal `[SEP]` (or another special token) within a text becomes the
//! token. A `tokenizer.json` says its steps itself.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError, Unit};
use tokenizers::models::ModelWrapper;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer, TruncationParams};

use crate::artifacts::labels::Classes;
use crate::artifacts::samples::SampleSet;
use crate::artifacts::token_set::{TokenRow, TokenSetInfo, TokenWriter};
use crate::formats::file_kind;
use crate::formats::tokenizer_files::TokenizerFiles;

/// Texts tokenized at a time.
const CHUNK: usize = 4096;

/// The stage.
pub struct Tokens;

/// Params of [`Tokens`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokensParams {
    /// Most ids of a text, `[CLS]` and `[SEP]` included.
    pub max_length: usize,
}

impl Default for TokensParams {
    fn default() -> Self {
        Self { max_length: 128 }
    }
}

impl Stage for Tokens {
    type Params = TokensParams;
    const NAME: &'static str = "tokens";
    const ABOUT: &'static str = "turns the texts of a data set into WordPiece ids";
    const VERSION: u32 = 2;
    const INPUTS: &'static [Port] = &[Port::one("samples"), Port::one("vocabulary")];

    fn check(&self, params: &TokensParams) -> Result<(), String> {
        if params.max_length < 2 {
            return Err("`max_length` must leave room for [CLS] and [SEP]: at least 2".to_owned());
        }
        Ok(())
    }

    fn run(&self, params: &TokensParams, job: &Job) -> Result<(), StageError> {
        let path = job.inputs.one("vocabulary")?;
        let vocabulary =
            Vocabulary::read(path).map_err(|problem| StageError::input("vocabulary", path, problem))?;
        let set = SampleSet::read(job.inputs.one("samples")?)?;
        let tokenizer = vocabulary.tokenizer(params.max_length).map_err(StageError::failed)?;
        let mut tokens = TokenWriter::new(vocabulary.info(set.dataset, set.classes, params.max_length));
        let total = set.samples.len() as u64;
        let mut done = 0;
        for chunk in set.samples.chunks(CHUNK) {
            job.check_cancelled()?;
            // Each text on its own and the results in the texts' order: any number of threads gives the same.
            let encodings: tokenizers::Result<Vec<_>> =
                chunk.par_iter().map(|sample| tokenizer.encode_fast(sample.text.as_str(), true)).collect();
            for (sample, encoding) in chunk.iter().zip(encodings.map_err(StageError::failed)?) {
                let row = TokenRow {
                    id: sample.id.clone(),
                    image: sample.image.clone(),
                    split: sample.split,
                    label: sample.label,
                    soft: sample.soft,
                };
                tokens.push(row, encoding.get_ids());
            }
            done += chunk.len() as u64;
            job.progress.advance(done, total, Unit::Items);
        }
        Ok(tokens.write(job.out)?)
    }
}

/// What turns texts into ids, and the ids of BERT's special tokens.
struct Vocabulary {
    tokenizer: Tokenizer,
    size: usize,
    pad: u32,
    unknown: u32,
    cls: u32,
    sep: u32,
    /// Absent where nothing was pretrained by masking.
    mask: Option<u32>,
}

impl Vocabulary {
    /// Reads a `vocab.txt`, a `tokenizer.json`, or a folder that has one of them.
    fn read(path: &Path) -> Result<Self, String> {
        let files = TokenizerFiles::find(path)?;
        let bytes = std::fs::read(&files.vocabulary).map_err(|error| error.to_string())?;
        if let Some(problem) = file_kind::placeholder(&bytes) {
            return Err(problem);
        }
        if files.is_whole() { Self::of_json(&bytes) } else { Self::of_list(&bytes, files.lower_case()?) }
    }

    /// Of a `vocab.txt`: one token a line, its id is the line's number from 0.
    fn of_list(bytes: &[u8], lower_case: bool) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text: {error}"))?;
        let mut ids = HashMap::new();
        for (id, token) in (0u32..).zip(text.lines().map(str::trim_end)) {
            if let Some(earlier) = ids.insert(token, id) {
                return Err(format!("`{token}` is on line {} and again on line {}", earlier + 1, id + 1));
            }
        }
        let size = ids.len();
        let special = Special::find(|token| ids.get(token).copied())?;
        let tokenizer = special.tokenizer(bytes, lower_case).map_err(|error| error.to_string())?;
        Ok(special.vocabulary(tokenizer, size))
    }

    /// Of a `tokenizer.json`, which says all that the tokenizer does.
    fn of_json(bytes: &[u8]) -> Result<Self, String> {
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| format!("is not a tokenizer.json: {error}"))?;
        if !matches!(tokenizer.get_model(), ModelWrapper::WordPiece(_)) {
            return Err("is a tokenizer of another kind than WordPiece, which BERT's is".to_owned());
        }
        let special = Special::find(|token| tokenizer.token_to_id(token))?;
        // Rows are padded in batches.
        tokenizer.with_padding(None);
        if tokenizer.get_post_processor().is_none() {
            tokenizer.with_post_processor(Some(special.ends()));
        }
        let size = tokenizer.get_vocab_size(true);
        Ok(special.vocabulary(tokenizer, size))
    }

    fn info(&self, dataset: String, classes: Classes, max_length: usize) -> TokenSetInfo {
        TokenSetInfo {
            dataset,
            classes,
            vocab_size: self.size,
            max_length,
            pad: self.pad,
            cls: self.cls,
            sep: self.sep,
            mask: self.mask,
            unknown: self.unknown,
        }
    }

    /// The tokenizer that cuts texts after so many ids.
    fn tokenizer(&self, max_length: usize) -> tokenizers::Result<Tokenizer> {
        let mut tokenizer = self.tokenizer.clone();
        tokenizer.with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))?;
        Ok(tokenizer)
    }
}

/// The ids of BERT's special tokens.
struct Special {
    pad: u32,
    unknown: u32,
    cls: u32,
    sep: u32,
    mask: Option<u32>,
}

impl Special {
    fn find(id: impl Fn(&str) -> Option<u32>) -> Result<Self, String> {
        let must =
            |token: &str| id(token).ok_or_else(|| format!("has no {token}: is it the vocabulary of a BERT?"));
        Ok(Self {
            pad: must("[PAD]")?,
            unknown: must("[UNK]")?,
            cls: must("[CLS]")?,
            sep: must("[SEP]")?,
            mask: id("[MASK]"),
        })
    }

    /// `[CLS]` before and `[SEP]` behind.
    fn ends(&self) -> BertProcessing {
        BertProcessing::new(("[SEP]".to_owned(), self.sep), ("[CLS]".to_owned(), self.cls))
    }

    /// BERT's tokenizer of the tokens of a `vocab.txt`.
    fn tokenizer(&self, vocabulary: &[u8], lower_case: bool) -> tokenizers::Result<Tokenizer> {
        let model = WordPiece::builder().vocab(WordPiece::read_bytes(vocabulary)?).build()?;
        let mut tokenizer = Tokenizer::new(model);
        // Control characters out, spaces around CJK characters, accents off where letters are lower-cased.
        tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, lower_case)))?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_post_processor(Some(self.ends()));
        // A token that the vocabulary lacks would get an id outside of it.
        let mask = self.mask.map(|_| "[MASK]");
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].into_iter().chain(mask);
        tokenizer.add_special_tokens(special.map(|token| AddedToken::from(token, true)))?;
        Ok(tokenizer)
    }

    fn vocabulary(self, tokenizer: Tokenizer, size: usize) -> Vocabulary {
        let Self { pad, unknown, cls, sep, mask } = self;
        Vocabulary { tokenizer, size, pad, unknown, cls, sep, mask }
    }
}

#[cfg(test)]
mod tests {
    use stage_api::testing::run_stage;

    use super::*;
    use crate::artifacts::labels::Label;
    use crate::artifacts::samples::{Sample, Split};
    use crate::artifacts::token_set::TokenSet;

    const VOCABULARY: &str = "[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nun\n##aff\n##able\ncafe\n!\n,\nred\n##d\n中\n😂\n##s\n";

    fn ids(text: &str, max_length: usize) -> Vec<u32> {
        let dir = tempfile::tempdir().unwrap();
        let (vocabulary, samples) = (dir.path().join("vocab.txt"), dir.path().join("samples"));
        std::fs::write(&vocabulary, VOCABULARY).unwrap();
        let sample = Sample {
            id: "7".to_owned(),
            image: "7.png".to_owned(),
            text: text.to_owned(),
            label: Some(Label::One(1)),
            soft: Some(0.25),
            split: Split::Val,
        };
        SampleSet { dataset: "hmd".to_owned(), samples: vec![sample], ..SampleSet::default() }
            .write(&samples)
            .unwrap();
        let out = dir.path().join("out");
        let inputs = [("samples", samples.as_path()), ("vocabulary", vocabulary.as_path())];
        run_stage(&Tokens, &format!("(max_length: {max_length})"), &inputs, &out).unwrap();
        let set = TokenSet::read(&out).unwrap();
        let (id, image) = ("7".to_owned(), "7.png".to_owned());
        let row = TokenRow { id, image, split: Split::Val, label: Some(Label::One(1)), soft: Some(0.25) };
        assert_eq!(set.rows, [row]);
        assert_eq!((set.info.vocab_size, set.info.cls, set.info.unknown, set.info.pad), (17, 3, 2, 0));
        set.ids(0)
    }

    /// Ids by hand, after the rules of BERT's uncased tokenizer.
    #[test]
    fn ids_are_those_of_berts_tokenizer() {
        for (text, expected) in [
            ("unaffable", &[3, 6, 7, 8, 4][..]),
            ("UNAFFABLE, Café!", &[3, 6, 7, 8, 11, 9, 10, 4]),
            ("red\tredd  reds\u{200b}", &[3, 12, 12, 13, 12, 16, 4]),
            ("red中red", &[3, 12, 14, 12, 4]),
            ("blue red", &[3, 2, 12, 4]),
            ("red😂", &[3, 2, 4]),
            ("red 😂", &[3, 12, 15, 4]),
            ("red [SEP] red[MASK]", &[3, 12, 4, 12, 5, 4]),
            ("[sep]", &[3, 2, 2, 2, 4]),
            ("", &[3, 4]),
        ] {
            assert_eq!(ids(text, 128), expected, "{text}");
        }
    }

    #[test]
    fn long_texts_lose_their_end_before_the_special_tokens_are_added() {
        assert_eq!(ids("red , red ! unaffable", 6), [3, 12, 11, 12, 10, 4]);
        assert_eq!(ids(&"red ".repeat(500), 128).len(), 128);
        assert_eq!(ids("red", 2), [3, 4]);
    }

    #[test]
    fn the_same_bytes_come_out_on_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let (vocabulary, samples) = (dir.path().join("vocab.txt"), dir.path().join("samples"));
        std::fs::write(&vocabulary, VOCABULARY).unwrap();
        let sample = |n: usize| Sample {
            id: n.to_string(),
            image: String::new(),
            text: "red unaffable ".repeat(n % 7),
            label: None,
            soft: None,
            split: Split::Train,
        };
        let set = SampleSet {
            dataset: "hmd".to_owned(),
            samples: (0..3 * CHUNK / 2).map(sample).collect(),
            ..SampleSet::default()
        };
        set.write(&samples).unwrap();
        let bytes = |threads: usize| {
            let out = dir.path().join(threads.to_string());
            let inputs = [("samples", samples.as_path()), ("vocabulary", vocabulary.as_path())];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run_stage(&Tokens, "()", &inputs, &out)).unwrap();
            std::fs::read(out.join("tokens.safetensors")).unwrap()
        };
        assert!(bytes(1) == bytes(3));
    }

    #[test]
    fn a_vocabulary_needs_no_mask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vocab.txt");
        std::fs::write(&path, VOCABULARY.replace("[MASK]\n", "")).unwrap();
        let vocabulary = Vocabulary::read(&path).unwrap();
        assert_eq!(vocabulary.info("hmd".to_owned(), Classes::default(), 9).mask, None);
        // Words come one line earlier, and the text is no special token.
        let encoded = vocabulary.tokenizer(9).unwrap().encode("red [MASK]", true).unwrap();
        assert_eq!(encoded.get_ids(), [3, 11, 2, 2, 2, 4]);
    }

    #[test]
    fn a_folder_of_save_pretrained_gives_the_ids_that_its_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let ids = |text: &str| {
            let vocabulary = Vocabulary::read(dir.path()).unwrap();
            assert_eq!((vocabulary.size, vocabulary.mask), (17, Some(5)));
            vocabulary.tokenizer(9).unwrap().encode(text, true).unwrap().get_ids().to_vec()
        };
        assert!(
            Vocabulary::read(dir.path()).err().unwrap().contains("neither `tokenizer.json` nor `vocab.txt`")
        );
        write("vocab.txt", VOCABULARY);
        let uncased = ids("Red CAFÉ redd");
        assert_eq!(uncased, [3, 12, 9, 12, 13, 4]);
        // As a cased model's: what is not in the vocabulary so is unknown.
        write("tokenizer_config.json", "{\"do_lower_case\": false, \"tokenizer_class\": \"BertTokenizer\"}");
        assert_eq!(ids("Red cafe redd"), [3, 2, 9, 12, 13, 4]);
        // The whole tokenizer goes before both, padding of its own left out.
        let mut whole = Vocabulary::of_list(VOCABULARY.as_bytes(), true).unwrap().tokenizer;
        whole.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(8),
            ..tokenizers::PaddingParams::default()
        }));
        write("tokenizer.json", &whole.to_string(true).unwrap());
        assert_eq!(ids("Red CAFÉ redd"), uncased);
        let info = Vocabulary::read(&dir.path().join("tokenizer.json")).unwrap().info(
            "x".to_owned(),
            Classes::default(),
            9,
        );
        assert_eq!((info.pad, info.unknown, info.cls, info.sep), (0, 2, 3, 4));
        for (text, problem) in
            [("{}", "is not a tokenizer.json"), ("", "is empty"), ("[", "is not a tokenizer.json")]
        {
            write("tokenizer.json", text);
            let error = Vocabulary::read(dir.path()).err().unwrap();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_vocabulary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vocab.txt");
        std::fs::write(&path, "[PAD]\n[UNK]\na\nb\na\n").unwrap();
        let error = Vocabulary::read(&path).err().unwrap();
        assert!(error.contains("`a` is on line 3 and again on line 5"), "{error}");
        std::fs::write(&path, "[PAD]\n[UNK]\n[CLS]\n").unwrap();
        assert!(Vocabulary::read(&path).err().unwrap().contains("has no [SEP]"));
    }
}
