//! What the two `index` stages share: from the entries of the split files to samples, pictures and a summary, with one
//! policy for invalid samples. It does not know the layouts of the data sets.

pub mod data_quality;
pub mod overlap;
pub mod picture;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use schemars::JsonSchema;
use sha2::{Digest, Sha256};
use stage_api::{Job, ParamEnum, StageError, Unit};

use crate::artifacts::data_summary::{DataSummary, Overlap, PictureSummary, SplitSummary, Spread};
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::formats::archive::{Archive, file_name};
use crate::formats::dataset_files::Text;
use crate::formats::{file_kind, image_decode, tar_members};
use data_quality::{Anomaly, Ledger};
use picture::{Looks, Unusable};

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
/// Bytes of pictures out of a stream that are in memory at a time.
const AT_ONCE: usize = 32 << 20;
/// Pictures between two looks at whether to stop.
const CHUNK: usize = 1024;

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

/// A picture that is fine, and written.
struct Kept {
    looks: Looks,
    digest: u128,
    bytes: u64,
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
    // Two entries may share a picture; it is read once.
    let Entries { files, rows, mut ledger, choices, checks, mut aside } = entries;
    let mut file_names: Vec<String> = rows.iter().map(|row| row.picture.clone()).collect();
    file_names.sort_unstable();
    file_names.dedup();
    let found =
        Pictures { archive, images: &images, look, job, done: AtomicU64::new(0), file_names: &file_names };
    let found = found.all()?;

    let mut kept: Vec<(usize, Sample, &Kept)> = Vec::new();
    let mut seen = vec![false; file_names.len()];
    for row in rows {
        let at = file_names.binary_search(&row.picture).unwrap_or_default();
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
            }
        }
    }
    let listed = files.iter().map(|file| file.listed).sum();
    ledger.tell(job.progress);
    ledger.check(listed, max_dropped)?;

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
        .map(|(at, file)| split_summary(file, kept.iter().filter(|row| row.0 == at).map(|row| &row.1)))
        .collect();
    if let Some(empty) = splits.iter().find(|split| split.samples == 0) {
        return Err(archive.error(&empty.file, "holds no memes that can be used"));
    }
    let used =
        seen.iter().zip(&found).filter(|(seen, _)| **seen).filter_map(|(_, found)| found.as_ref().ok());
    let summary = DataSummary {
        dataset: name.to_owned(),
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
    SampleSet { dataset: name.to_owned(), samples }.write(&job.out.join("samples"))?;
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

fn split_summary<'a>(file: &SplitFile, samples: impl Iterator<Item = &'a Sample> + Clone) -> SplitSummary {
    let with = |label| samples.clone().filter(|sample| sample.label == label).count();
    SplitSummary {
        split: file.split,
        file: file.name.clone(),
        listed: file.listed,
        samples: samples.clone().count(),
        hateful: with(Some(1)),
        harmless: with(Some(0)),
        unlabelled: with(None),
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

/// The pictures of an archive, on their way into `images/`.
struct Pictures<'a> {
    archive: &'a Archive,
    images: &'a Path,
    look: Look,
    job: &'a Job<'a>,
    done: AtomicU64,
    /// Their paths, sorted.
    file_names: &'a [String],
}

/// The archive of Hateful Memes may hold its pictures in an archive of their own.
const INNER: &str = "img.tar.gz";

impl Pictures<'_> {
    /// What became of each.
    fn all(&self) -> Result<Vec<Result<Kept, Unusable>>, StageError> {
        let any_here = self.file_names.iter().any(|name| self.archive.has(name));
        let found = if !any_here && self.archive.has(INNER) { self.of_inner() } else { self.of_archive() }?;
        let missing =
            |name: &String| (Anomaly::MissingPicture, format!("the archive has no picture `{name}`"));
        Ok(found
            .into_iter()
            .zip(self.file_names)
            .map(|(found, name)| found.unwrap_or(Err(missing(name))))
            .collect())
    }

    /// Each thread reads the archive on its own.
    fn of_archive(&self) -> Result<Vec<Option<Result<Kept, Unusable>>>, StageError> {
        let mut found = Vec::with_capacity(self.file_names.len());
        for chunk in self.file_names.chunks(CHUNK) {
            self.job.check_cancelled()?;
            let one = |archive: &mut Archive, name: &String| {
                if !archive.has(name) {
                    return Ok(None);
                }
                let bytes = archive.bytes(name)?;
                self.keep(name, &bytes).map(Some)
            };
            let new: Result<Vec<_>, StageError> =
                chunk.par_iter().map_init(|| self.archive.clone(), one).collect();
            found.append(&mut new?);
        }
        Ok(found)
    }

    /// A tar can only be read from its beginning on: what one thread unpacks, all look at, some megabytes at a time.
    fn of_inner(&self) -> Result<Vec<Option<Result<Kept, Unusable>>>, StageError> {
        let found = Mutex::new((0..self.file_names.len()).map(|_| None).collect::<Vec<_>>());
        let mut archive = self.archive.clone();
        let fail = |problem: String| self.archive.error(INNER, problem);
        let mut content = std::io::BufReader::new(archive.stream(INNER)?);
        if let Some(problem) = content.fill_buf().ok().and_then(file_kind::placeholder) {
            return Err(fail(problem));
        }
        let mut tar = tar::Archive::new(flate2::bufread::MultiGzDecoder::new(content));
        let mut taken = HashSet::new();
        let mut batch: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut held = 0;
        let flush = |batch: &mut Vec<(usize, Vec<u8>)>| -> Result<(), StageError> {
            self.job.check_cancelled()?;
            let new: Result<Vec<_>, StageError> = batch
                .par_iter()
                .map(|(at, bytes)| Ok((*at, self.keep(&self.file_names[*at], bytes)?)))
                .collect();
            let mut found = found.lock().map_err(|_| StageError::failed("a thread panicked"))?;
            new?.into_iter().for_each(|(at, kept)| found[at] = Some(kept));
            batch.clear();
            Ok(())
        };
        for member in tar_members::members(&mut tar).map_err(fail)? {
            let member = member.map_err(fail)?;
            let name = String::from_utf8_lossy(&member.path).trim_start_matches("./").to_owned();
            let name = if name.starts_with("img/") { name } else { format!("img/{name}") };
            let at = self.file_names.binary_search(&name);
            let Some(at) = at.ok().filter(|_| member.kind.is_file()) else { continue };
            if !taken.insert(at) {
                return Err(fail(format!("holds `{name}` twice")));
            }
            if member.size > self.archive.max_bytes() {
                return Err(fail(format!("`{name}` has {} bytes: more than a picture has", member.size)));
            }
            let mut bytes = Vec::new();
            let (content, size) = (member.content, member.size);
            content.take(size).read_to_end(&mut bytes).map_err(|error| fail(tar_members::broken(&error)))?;
            if bytes.len() as u64 != size {
                return Err(fail(format!("ends within `{name}`: it was cut short")));
            }
            held += bytes.len();
            batch.push((at, bytes));
            if held >= AT_ONCE {
                flush(&mut batch)?;
                held = 0;
            }
        }
        flush(&mut batch)?;
        tar_members::check_end(tar.into_inner()).map_err(fail)?;
        found.into_inner().map_err(|_| StageError::failed("a thread panicked"))
    }

    /// Looks at a picture and writes it, if it can be used.
    fn keep(&self, name: &str, bytes: &[u8]) -> Result<Result<Kept, Unusable>, StageError> {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(CHUNK as u64) || done == self.file_names.len() as u64 {
            self.job.progress.advance(done, self.file_names.len() as u64, Unit::Items);
        }
        let looks = match picture::look(bytes, name) {
            Ok(looks) => looks,
            Err(unusable) => return Ok(Err(unusable)),
        };
        if self.look == Look::Decode
            && let Err(problem) = image_decode::decode(bytes)
        {
            return Ok(Err((Anomaly::UnreadablePicture, problem)));
        }
        let file = file_name(name).ok_or_else(|| self.archive.error(name, "is not the name of a file"))?;
        let to = self.images.join(file);
        std::fs::write(&to, bytes)
            .map_err(|error| StageError::failed(format!("{}: {error}", to.display())))?;
        Ok(Ok(Kept { looks, digest: digest(bytes), bytes: bytes.len() as u64 }))
    }
}

/// Half of a SHA-256: equal for equal contents, and for no others that will ever be met.
pub fn digest(bytes: &[u8]) -> u128 {
    Sha256::digest(bytes).iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}

#[cfg(test)]
pub mod testing;
