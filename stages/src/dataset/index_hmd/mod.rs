//! `index-hmd`: reads a Hateful Memes archive into samples, pictures and a summary. It knows the official layouts of
//! both phases of the challenge, not what is done with the memes.
//!
//! Lines are JSON with `id` (a number), `img` (`img/01234.png`), `text`, and `label` (0 or 1) where it is
//! published; the pictures are in `img/` or in `img.tar.gz`. Phase 1 has `train`, `dev`, `test`; phase 2 has `train`,
//! `dev_seen`, `dev_unseen`, `test_seen`, `test_unseen`. As in the original (MMF), an archive that has all files of
//! phase 1 is of phase 1, and a caption is taken as it is.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, ParamEnum, Port, Stage, StageError};

use crate::artifacts::data_summary::Overlap;
use crate::artifacts::labels::Label;
use crate::artifacts::samples::{Sample, Split};
use crate::dataset::indexing::data_quality::Anomaly;
use crate::dataset::{
    indexing, indexing::Entries, indexing::Look, indexing::MAX_DROPPED, indexing::Row, indexing::SplitFile,
};
use crate::formats::archive::{Archive, file_name};
use crate::formats::dataset_files::{self, Bad};

/// The stage.
pub struct IndexHmd;

/// Which file is the validation split. The paper's logs fit `dev_seen` (500 rows, 253 of class 0), MMF's default
/// would be `dev_unseen`. Without effect on an archive of phase 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Validation {
    /// `dev_seen.jsonl`.
    #[default]
    DevSeen,
    /// `dev_unseen.jsonl`.
    DevUnseen,
}

/// Which file is the test split. Without effect on an archive of phase 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Test {
    /// `test_seen.jsonl`.
    #[default]
    TestSeen,
    /// `test_unseen.jsonl`.
    TestUnseen,
}

/// Params of [`IndexHmd`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexHmdParams {
    /// The validation split.
    pub validation: Validation,
    /// The test split.
    pub test: Test,
    /// How closely pictures are looked at.
    pub pictures: Look,
    /// The share of entries that may be dropped, from 0 to 1; above it the step fails.
    pub max_dropped: f64,
}

impl Default for IndexHmdParams {
    fn default() -> Self {
        Self {
            validation: Validation::default(),
            test: Test::default(),
            pictures: Look::default(),
            max_dropped: MAX_DROPPED,
        }
    }
}

/// Every annotation file of phase 2.
const PHASE_2: [&str; 5] =
    ["train.jsonl", "dev_seen.jsonl", "dev_unseen.jsonl", "test_seen.jsonl", "test_unseen.jsonl"];

impl Stage for IndexHmd {
    type Params = IndexHmdParams;
    const NAME: &'static str = "index-hmd";
    const ABOUT: &'static str = "reads a Hateful Memes archive into samples, pictures and a summary";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn check(&self, params: &IndexHmdParams) -> Result<(), String> {
        indexing::check_share(params.max_dropped)
    }

    fn run(&self, params: &IndexHmdParams, job: &Job) -> Result<(), StageError> {
        let mut archive = Archive::open("archive", job.inputs.one("archive")?, "train.jsonl")?;
        let phase_1 = archive.has("dev.jsonl") && archive.has("test.jsonl");
        let validation = match (phase_1, params.validation) {
            (true, _) => "dev.jsonl",
            (false, Validation::DevSeen) => "dev_seen.jsonl",
            (false, Validation::DevUnseen) => "dev_unseen.jsonl",
        };
        let test = match (phase_1, params.test) {
            (true, _) => "test.jsonl",
            (false, Test::TestSeen) => "test_seen.jsonl",
            (false, Test::TestUnseen) => "test_unseen.jsonl",
        };
        let mut entries = Entries::default();
        entries.choose("phase", if phase_1 { "1" } else { "2" });
        entries.choose(
            "validation",
            match (phase_1, params.validation) {
                (false, Validation::DevSeen) => {
                    "dev_seen.jsonl, as in the paper's logs (500 rows, 253 of class 0)"
                }
                (false, Validation::DevUnseen) => {
                    "dev_unseen.jsonl, MMF's default; the paper's logs show dev_seen"
                }
                (true, _) => validation,
            },
        );
        entries.choose("test", test);
        entries.choose("text", "as it is, as in the original");
        // By file name: two paths with one file name cannot both be written.
        let mut pictures = BTreeMap::new();
        for (file, split) in [("train.jsonl", Split::Train), (validation, Split::Val), (test, Split::Test)] {
            read_split(&mut archive, file, split, &mut entries, &mut pictures)?;
        }
        compare_with_the_logs(&mut entries);
        entries.aside = aside(&mut archive, &[validation, test])?;
        indexing::write("hmd", entries, &archive, (params.pictures, params.max_dropped), job)
    }
}

fn read_split(
    archive: &mut Archive,
    file: &str,
    split: Split,
    entries: &mut Entries,
    pictures: &mut BTreeMap<String, String>,
) -> Result<(), StageError> {
    let bytes = archive.text(file)?;
    let text = dataset_files::text(&bytes);
    entries.note_form(file, &text);
    let mut ids = HashSet::new();
    let mut listed = 0;
    for (line, json) in text.lines() {
        listed += 1;
        let meme = match dataset_files::meme(json) {
            Ok(meme) => meme,
            Err(bad) => {
                let (anomaly, problem) = match bad {
                    Bad::Json(problem) => (Anomaly::InvalidLine, problem),
                    Bad::Label(problem) => (Anomaly::BadLabel, problem),
                };
                entries.ledger.add(anomaly, || format!("{file} line {line}: {problem}"));
                continue;
            }
        };
        let mut drop = |anomaly, problem: String| {
            entries.ledger.add(anomaly, || format!("{file} line {line}: {}: {problem}", meme.id));
        };
        if ids.contains(&meme.id) {
            drop(Anomaly::Twice, format!("{file} has this id on an earlier line"));
            continue;
        }
        let Some(image) = file_name(&meme.img) else {
            drop(Anomaly::BadName, format!("img is `{}`, which names no file of the archive", meme.img));
            continue;
        };
        let owner = pictures.entry(image.to_owned()).or_insert_with(|| meme.img.clone());
        if *owner != meme.img {
            drop(Anomaly::BadName, format!("`{owner}` and `{}` have the same file name", meme.img));
            continue;
        }
        ids.insert(meme.id.clone());
        let image = image.to_owned();
        let sample = Sample {
            id: meme.id,
            image,
            text: meme.text,
            label: meme.label.map(Label::One),
            soft: None,
            split,
        };
        entries.rows.push(Row { file: entries.files.len(), line, picture: meme.img, group: None, sample });
    }
    if listed == 0 {
        return Err(archive.error(file, "holds no memes"));
    }
    entries.files.push(SplitFile { name: file.to_owned(), split, listed });
    Ok(())
}

/// The paper's logs tell how many rows of each class the validation split has; checked where the sizes are real.
fn compare_with_the_logs(entries: &mut Entries) {
    let [train, val, ..] = entries.files.as_slice() else { return };
    if (train.listed, val.listed, val.name.as_str()) != (8500, 500, "dev_seen.jsonl") {
        return;
    }
    let harmless =
        entries.rows.iter().filter(|row| row.file == 1 && row.sample.label == Some(Label::One(0))).count();
    let verdict = if harmless == 253 { "the same" } else { "NOT the same: is this the paper's data?" };
    entries.checks.push(format!(
        "{harmless} of 500 validation rows are of class 0; the paper's logs show 253: {verdict}"
    ));
}

/// The ids that the files of phase 2 share, where one of the two is no split of this run: `dev_seen` and `dev_unseen`
/// have some 400 in common.
fn aside(archive: &mut Archive, used: &[&str]) -> Result<Vec<Overlap>, StageError> {
    let mut read: Vec<(&str, BTreeSet<String>)> = Vec::new();
    for file in PHASE_2 {
        if archive.has(file) {
            let bytes = archive.text(file)?;
            let ids = dataset_files::text(&bytes)
                .lines()
                .filter_map(|(_, line)| Some(dataset_files::meme(line).ok()?.id))
                .collect();
            read.push((file, ids));
        }
    }
    let is_split = |file: &str| file == "train.jsonl" || used.contains(&file);
    let mut found = Vec::new();
    for (at, (second, b)) in read.iter().enumerate() {
        for (first, a) in &read[..at] {
            let ids = a.intersection(b).count();
            if ids > 0 && !(is_split(first) && is_split(second)) {
                let (first, second) = ((*first).to_owned(), (*second).to_owned());
                found.push(Overlap { first, second, ids, texts: None, pictures: None, both: None });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
