//! What the `index` stages share: from the entries of the split files to samples, pictures and a summary, with one
//! policy for invalid samples. It does not know the layouts of the data sets.

pub mod data_quality;
pub mod overlap;
pub mod picture;
mod read_pictures;
pub mod split_rule;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicU64;

use schemars::JsonSchema;
use sha2::{Digest, Sha256};
use stage_api::{Job, ParamEnum, StageError};

use crate::artifacts::data_summary::{DataSummary, Overlap, PictureSummary, SplitSummary, Spread};
use crate::artifacts::labels::Classes;
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::formats::archive::Archive;
use crate::formats::dataset_files::Text;
use data_quality::{Anomaly, Ledger};
use read_pictures::{Kept, Pictures};
use split_rule::SplitRule;

/// How closely pictures are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Look {
    /// Headers and structure up to the end mark: no pixel is decoded.
    #[default]
    Structure,
    /// Every picture is decoded, too: minutes at the size of MMHS150K.
    Decode,
}

/// The share of entries that may be dropped unless a pipeline says otherwise.
pub const MAX_DROPPED: f64 = 0.005;

/// Whether a share is one.
///
/// # Errors
/// A sentence, for anything below 0 or above 1.
pub fn check_share(max_dropped: f64) -> Result<(), String> {
    match max_dropped {
        0.0..=1.0 => Ok(()),
        other => Err(format!("`max_dropped` is {other}; it is a share, from 0 to 1")),
    }
}

/// An entry of a split file that has all it needs but, perhaps, its picture.
pub struct Row {
    /// Which of [`Entries::files`] lists it.
    pub file: usize,
    /// Its line there, from 1.
    pub line: usize,
    /// Path of its picture within the data set.
    pub picture: String,
    /// What else it must not share with a row of another split, where the source names such groups.
    pub group: Option<String>,
    /// What will become of it.
    pub sample: Sample,
}

/// A split file.
pub struct SplitFile {
    /// Its name within the archive.
    pub name: String,
    /// The split.
    pub split: Split,
    /// How many entries it lists.
    pub listed: usize,
}

/// All that was read of a data set before its pictures.
#[derive(Default)]
pub struct Entries {
    /// The split files: train, validation, test.
    pub files: Vec<SplitFile>,
    /// The entries in the order of the source.
    pub rows: Vec<Row>,
    /// What was odd so far.
    pub ledger: Ledger,
    /// The rules in force.
    pub choices: BTreeMap<String, String>,
    /// What was compared with published figures.
    pub checks: Vec<String>,
    /// Overlaps with files that belong to no split.
    pub aside: Vec<Overlap>,
    /// The classes of the data set.
    pub classes: Classes,
    /// How the rows of training are divided, once their pictures are known.
    pub rule: Option<SplitRule>,
}

impl Entries {
    /// Enters what is odd about the form of the text file `name`.
    pub fn note_form(&mut self, name: &str, text: &Text) {
        if text.marked {
            self.ledger.add(Anomaly::ByteOrderMark, || name.to_owned());
        }
        if text.carriage_returns > 0 {
            self.ledger.add(Anomaly::CarriageReturns, || format!("{name}: {} lines", text.carriage_returns));
        }
    }

    /// Names the rule in force for `name`.
    pub fn choose(&mut self, name: &str, rule: impl ToString) {
        self.choices.insert(name.to_owned(), rule.to_string());
    }
}

/// Looks at the pictures and writes `images/`, `samples/` and `summary.json` of the data set `name`.
///
/// # Errors
/// An archive that cannot be read, a split that nothing is left of, more than `max_dropped` of the entries dropped.
pub fn write(
    name: &str,
    entries: Entries,
    archive: &Archive,
    (look, max_dropped): (Look, f64),
    job: &Job,
) -> Result<(), StageError> {
    let images = job.out.join("images");
    std::fs::create_dir_all(&images)?;
    let Entries { mut files, rows, mut ledger, choices, checks, mut aside, classes, rule } = entries;
    // Two entries may share a picture; it is read once.
    let mut pictures: Vec<(String, String)> =
        rows.iter().map(|row| (row.picture.clone(), row.sample.image.clone())).collect();
    pictures.sort_unstable();
    pictures.dedup();
    let found =
        Pictures { archive, images: &images, look, job, done: AtomicU64::new(0), files: &pictures }.all()?;

    let mut kept: Vec<(usize, Sample, &Kept)> = Vec::new();
    let mut groups = Vec::new();
    let mut seen = vec![false; pictures.len()];
    for row in rows {
        let at = pictures.binary_search_by(|(path, _)| path.cmp(&row.picture)).unwrap_or_default();
        let place = || format!("{} line {}: {}", files[row.file].name, row.line, row.sample.id);
        match &found[at] {
            Err((anomaly, problem)) => {
                ledger.add(*anomaly, || format!("{}: `{}`: {problem}", place(), row.picture))
            }
            Ok(picture) => {
                if !std::mem::replace(&mut seen[at], true) {
                    picture.looks.odd.iter().for_each(|anomaly| ledger.add(*anomaly, || row.picture.clone()));
                }
                odd_text(&row.sample.text).for_each(|anomaly| ledger.add(anomaly, place));
                kept.push((row.file, row.sample, picture));
                groups.push(row.group);
            }
        }
    }
    let listed = files.iter().map(|file| file.listed).sum();
    ledger.tell(job.progress);
    ledger.check(listed, max_dropped)?;
    if let Some(rule) = &rule {
        divide(rule, &mut files, &mut kept, &groups);
    }

    let columns: Vec<overlap::Column> = (0..files.len()).map(|_| overlap::Column::default()).collect();
    let columns = kept.iter().fold(columns, |mut columns, (file, sample, picture)| {
        columns[*file].push(&sample.id, &sample.text, picture.digest);
        columns
    });
    let mut overlaps = Vec::new();
    for (second, b) in columns.iter().enumerate() {
        for (first, a) in columns[..second].iter().enumerate() {
            overlaps.push(overlap::between((&files[first].name, a), (&files[second].name, b)));
        }
    }
    overlaps.append(&mut aside);
    let splits: Vec<SplitSummary> = (files.iter().enumerate())
        .map(|(at, file)| {
            split_summary(file, &classes, kept.iter().filter(|row| row.0 == at).map(|row| &row.1))
        })
        .collect();
    if let Some(empty) = splits.iter().find(|split| split.samples == 0) {
        let why = match rule {
            Some(_) => ": there are too few, or too many of them share a picture, a text or a group",
            None => "",
        };
        return Err(archive.error(&empty.file, format!("holds no samples that can be used{why}")));
    }
    let used =
        seen.iter().zip(&found).filter(|(seen, _)| **seen).filter_map(|(_, found)| found.as_ref().ok());
    let summary = DataSummary {
        dataset: name.to_owned(),
        classes: classes.clone(),
        choices,
        checks,
        splits,
        pictures: picture_summary(&used.collect::<Vec<_>>()),
        listed,
        dropped: ledger.dropped(),
        max_dropped,
        anomalies: ledger.counts(),
        overlaps,
    };
    tell(&summary, job);
    let samples = kept.into_iter().map(|(_, sample, _)| sample).collect();
    SampleSet { dataset: name.to_owned(), classes, samples }.write(&job.out.join("samples"))?;
    Ok(summary.write(job.out)?)
}

fn odd_text(text: &str) -> impl Iterator<Item = Anomaly> + use<> {
    [
        (Anomaly::EmptyText, text.trim().is_empty()),
        (Anomaly::LongText, text.len() > Anomaly::LONG && text.chars().count() > Anomaly::LONG),
        (Anomaly::Emoji, text.chars().any(|character| character > '\u{ffff}')),
        (Anomaly::BrokenText, text.contains('\u{fffd}')),
    ]
    .into_iter()
    .filter(|(_, is)| *is)
    .map(|(anomaly, _)| anomaly)
}

/// Moves rows of training to the splits that `rule` makes of them.
fn divide(
    rule: &SplitRule,
    files: &mut Vec<SplitFile>,
    kept: &mut [(usize, Sample, &Kept)],
    groups: &[Option<String>],
) {
    let pool: Vec<usize> = (0..kept.len()).filter(|&row| kept[row].1.split == Split::Train).collect();
    let item = |&row: &usize| {
        let (_, sample, picture) = &kept[row];
        let text = overlap::text_digest(&sample.text);
        split_rule::Item { label: sample.label, group: groups[row].as_deref(), text, picture: picture.digest }
    };
    let splits = rule.divide(&pool.iter().map(item).collect::<Vec<_>>());
    let train = files.iter().position(|file| file.split == Split::Train).unwrap_or_default();
    let source = files[train].name.trim_end_matches(" (train)").to_owned();
    for split in [Split::Val, Split::Test].into_iter().filter(|split| rule.makes(*split)) {
        let moved = pool.iter().zip(&splits).filter(|(_, to)| **to == split);
        let mut listed = 0;
        for (&row, _) in moved {
            (kept[row].0, kept[row].1.split) = (files.len(), split);
            listed += 1;
        }
        files[train].listed -= listed;
        files.push(SplitFile { name: format!("{source} ({})", split.as_str()), split, listed });
    }
    // The order of the summary.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&file| files[file].split);
    kept.iter_mut().for_each(|row| row.0 = order.iter().position(|&file| file == row.0).unwrap_or_default());
    files.sort_by_key(|file| file.split);
}

fn split_summary<'a>(
    file: &SplitFile,
    classes: &Classes,
    samples: impl Iterator<Item = &'a Sample> + Clone,
) -> SplitSummary {
    let is_labelled = |sample: &&Sample| sample.label.is_some();
    let with = |class: usize| {
        samples.clone().filter(|sample| sample.label.is_some_and(|label| label.has(class))).count()
    };
    SplitSummary {
        split: file.split,
        file: file.name.clone(),
        listed: file.listed,
        samples: samples.clone().count(),
        hateful: with(1),
        harmless: with(0),
        by_class: (0..classes.names.len()).map(with).collect(),
        unlabelled: samples.clone().count() - samples.clone().filter(is_labelled).count(),
        characters: Spread::from_values(
            samples.clone().map(|sample| sample.text.chars().count() as u64).collect(),
        ),
        words: Spread::from_values(
            samples.map(|sample| sample.text.split_whitespace().count() as u64).collect(),
        ),
    }
}

fn picture_summary(pictures: &[&Kept]) -> PictureSummary {
    let mut formats = BTreeMap::new();
    for picture in pictures {
        *formats.entry(picture.looks.format.to_owned()).or_default() += 1;
    }
    PictureSummary {
        files: pictures.len(),
        distinct: pictures.iter().map(|picture| picture.digest).collect::<HashSet<_>>().len(),
        bytes: pictures.iter().map(|picture| picture.bytes).sum(),
        formats,
        width: Spread::from_values(pictures.iter().map(|picture| u64::from(picture.looks.width)).collect()),
        height: Spread::from_values(pictures.iter().map(|picture| u64::from(picture.looks.height)).collect()),
    }
}

/// What a reader of the log should know.
fn tell(summary: &DataSummary, job: &Job) {
    for (name, rule) in &summary.choices {
        job.progress.note(&format!("{name}: {rule}"));
    }
    summary.checks.iter().for_each(|check| job.progress.note(check));
    for overlap in &summary.overlaps {
        let mut shared = vec![(overlap.ids, "id")];
        shared.extend(overlap.texts.map(|count| (count, "text")));
        shared.extend(overlap.pictures.map(|count| (count, "picture")));
        shared.extend(overlap.both.map(|count| (count, "text and picture")));
        for (count, what) in shared.into_iter().filter(|(count, _)| *count > 0) {
            let Overlap { first, second, .. } = overlap;
            job.progress.note(&format!("{count} samples of {second} have the {what} of one of {first}"));
        }
    }
}

/// Half of a SHA-256: equal for equal contents, and for no others that will ever be met.
pub fn digest(bytes: &[u8]) -> u128 {
    Sha256::digest(bytes).iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}

#[cfg(test)]
pub mod testing;
