//! Token ids against those that Hugging Face's tokenizer gives: reference/token_parity.py made the fixture of 300 texts,
//! and makes as many more as are wanted; its head says how they are compared.

#![allow(clippy::print_stdout)]

use std::fs;
use std::path::Path;

use stage_api::testing::run_stage;
use stages::artifacts::samples::{Sample, SampleSet, Split};
use stages::artifacts::token_set::TokenSet;

/// Compares all texts of `dir` and returns how many there are.
fn compare(dir: &Path) -> usize {
    let texts = fs::read_to_string(dir.join("texts.jsonl")).unwrap();
    let expected = fs::read_to_string(dir.join("ids.jsonl")).unwrap();
    let sample = |(number, line): (usize, &str)| Sample {
        id: number.to_string(),
        image: String::new(),
        text: serde_json::from_str(line).unwrap(),
        label: None,
        soft: None,
        split: Split::Train,
    };
    let set = SampleSet {
        dataset: "x".into(),
        samples: texts.lines().enumerate().map(sample).collect(),
        ..SampleSet::default()
    };
    let space = tempfile::tempdir().unwrap();
    let (samples, out) = (space.path().join("samples"), space.path().join("out"));
    set.write(&samples).unwrap();
    let vocabulary = dir.join("vocab.txt");
    let inputs = [("samples", samples.as_path()), ("vocabulary", vocabulary.as_path())];
    run_stage(stages::registry().get("tokens").unwrap(), "()", &inputs, &out).unwrap();
    let tokens = TokenSet::read(&out).unwrap();
    assert_eq!(tokens.rows.len(), expected.lines().count());
    let mut different = 0;
    for (row, line) in expected.lines().enumerate() {
        let ids: Vec<u32> = serde_json::from_str(line).unwrap();
        if tokens.ids(row) != ids {
            different += 1;
            println!("{:?}\n  {:?}\n  {ids:?}", set.samples[row].text, tokens.ids(row));
        }
    }
    assert_eq!(different, 0, "texts with other ids, of {}", tokens.rows.len());
    tokens.rows.len()
}

#[test]
fn ids_are_those_of_hugging_faces_tokenizer() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens");
    assert_eq!(compare(&fixture), 300);
    if let Some(dir) = std::env::var_os("REPRO_TOKEN_PARITY") {
        println!("{} texts have the same ids", compare(Path::new(&dir)));
    }
}
