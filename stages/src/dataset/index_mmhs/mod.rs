//! `index-mmhs`: reads an MMHS150K archive into samples, pictures and a summary. It knows the official layout and the
//! ways to make a label of three annotators' and a text of a tweet, not what is done with them.
//!
//! `MMHS150K_GT.json` maps tweet ids to `tweet_text` and `labels` (one of 0 to 5 an annotator, 0 is not hate);
//! `splits/{train,val,test}_ids.txt` lists ids; `img_resized/<id>.jpg` is the picture; `img_txt/<id>.json` holds
//! the text read off the picture, where there is any.

mod text_cleaning;

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, ParamEnum, Port, Stage, StageError};

use crate::artifacts::labels::{Classes, Label};
use crate::artifacts::samples::{Sample, Split};
use crate::dataset::indexing::data_quality::Anomaly;
use crate::dataset::{
    indexing, indexing::Entries, indexing::Look, indexing::MAX_DROPPED, indexing::Row, indexing::SplitFile,
};
use crate::formats::archive::Archive;
use crate::formats::dataset_files::{self, Truth, Tweet};
use text_cleaning::Clean;

const TRUTH: &str = "MMHS150K_GT.json";

/// The stage.
pub struct IndexMmhs;

/// How three annotators' labels become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Labels {
    /// Hateful if anybody says so. Of all rules only this one gives the 3,719 positives among 5,000 validation
    /// tweets that the paper's logs show.
    #[default]
    Any,
    /// Hateful if two of three say so.
    Majority,
    /// As [`Labels::Majority`], and the share of annotators that say so in a column of its own, `soft`, which
    /// training does not read.
    Soft,
    /// One of the six classes of the data set: the one that two of three annotators name. Tweets of which no two say the same are
    /// dropped.
    Classes,
    /// Any number of the five kinds of hate: each that an annotator names.
    MultiLabel,
}

/// What the labels 0 to 5 of MMHS150K mean.
const CLASSES: [&str; 6] =
    ["not hate", "racist", "sexist", "homophobic", "religion-based hate", "other hate"];

impl Labels {
    /// The rule, as the summary has it.
    const fn in_words(self) -> &'static str {
        match self {
            Self::Any => "any: hateful if one annotator says so, as the paper's logs show",
            Self::Majority => "majority: hateful if two of three annotators say so",
            Self::Soft => "soft: as majority, and the share of annotators as `soft`",
            Self::Classes => "classes: the class that two of three annotators name",
            Self::MultiLabel => "multi_label: each kind of hate that an annotator names",
        }
    }

    /// The classes of the samples.
    fn classes(self) -> Classes {
        let names = match self {
            Self::Any | Self::Majority | Self::Soft => &[][..],
            Self::Classes => &CLASSES[..],
            Self::MultiLabel => &CLASSES[1..],
        };
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Classes { names, multi_label: self == Self::MultiLabel }
    }

    /// The label that three annotators' make; nothing where no two of them say the same and one class is asked for.
    fn label(self, tweet: &Tweet) -> Option<Label> {
        let hateful_from = |least: usize| Some(Label::One(u8::from(votes(tweet) >= least)));
        match self {
            Self::Any => hateful_from(1),
            Self::Majority | Self::Soft => hateful_from(2),
            Self::Classes => {
                let [a, b, c] = tweet.labels;
                let two = if a == b || a == c { Some(a) } else { (b == c).then_some(b) };
                two.map(Label::One)
            }
            Self::MultiLabel => {
                let kinds = tweet.labels.iter().filter_map(|label| label.checked_sub(1));
                Some(Label::Several(kinds.collect()))
            }
        }
    }
}

/// What the text of a sample is. The paper does not say; the tweet is what every entry has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Text {
    /// The tweet.
    #[default]
    Tweet,
    /// What was read off the picture; empty where nothing was.
    Ocr,
    /// The tweet, and behind it what was read off the picture.
    Both,
}

/// Params of [`IndexMmhs`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexMmhsParams {
    /// The rule for labels.
    pub labels: Labels,
    /// The choice of text.
    pub text: Text,
    /// What is taken out of tweets.
    pub clean: Clean,
    /// How closely pictures are looked at.
    pub pictures: Look,
    /// The share of entries that may be dropped, from 0 to 1; above it the step fails.
    pub max_dropped: f64,
}

impl Default for IndexMmhsParams {
    fn default() -> Self {
        Self {
            labels: Labels::default(),
            text: Text::default(),
            clean: Clean::default(),
            pictures: Look::default(),
            max_dropped: MAX_DROPPED,
        }
    }
}

impl Stage for IndexMmhs {
    type Params = IndexMmhsParams;
    const NAME: &'static str = "index-mmhs";
    const ABOUT: &'static str = "reads an MMHS150K archive into samples, pictures and a summary";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn check(&self, params: &IndexMmhsParams) -> Result<(), String> {
        indexing::check_share(params.max_dropped)
    }

    fn run(&self, params: &IndexMmhsParams, job: &Job) -> Result<(), StageError> {
        let mut archive = Archive::open("archive", job.inputs.one("archive")?, TRUTH)?;
        let mut entries = Entries { classes: params.labels.classes(), ..Entries::default() };
        entries.choose("labels", params.labels.in_words());
        entries.choose(
            "text",
            match params.text {
                Text::Tweet => "tweet",
                Text::Ocr => "ocr: what was read off the picture",
                Text::Both => "both: the tweet, then what was read off the picture",
            },
        );
        entries.choose("clean", params.clean.description());
        let truth = read_truth(&mut archive, &mut entries)?;
        let mut against = 0;
        for (name, split) in [("train", Split::Train), ("val", Split::Val), ("test", Split::Test)] {
            job.check_cancelled()?;
            let file = format!("splits/{name}_ids.txt");
            read_split(&mut archive, &file, split, &truth, params, &mut entries)?;
            if split == Split::Val {
                let rows = entries.rows.iter().filter(|row| row.file == 1);
                let tweets = rows.filter_map(|row| truth.tweets.get(&row.sample.id)?.as_ref().ok());
                against = tweets.filter(|tweet| votes(tweet) > 0).count();
            }
        }
        compare_with_the_logs(&mut entries, against);
        let unlisted = truth.tweets.len().saturating_sub(listed_ids(&entries));
        if unlisted > 0 {
            job.progress.note(&format!("{unlisted} tweets of {TRUTH} are in no split"));
        }
        drop(truth);
        indexing::write("mmh", entries, &archive, (params.pictures, params.max_dropped), job)
    }
}

fn listed_ids(entries: &Entries) -> usize {
    entries.rows.iter().map(|row| row.sample.id.as_str()).collect::<HashSet<_>>().len()
}

fn read_truth(archive: &mut Archive, entries: &mut Entries) -> Result<Truth, StageError> {
    let bytes = archive.text(TRUTH)?;
    let text = dataset_files::text(&bytes);
    entries.note_form(TRUTH, &text);
    let truth = dataset_files::truth(&text.text).map_err(|problem| archive.error(TRUTH, problem))?;
    for id in &truth.twice {
        entries.ledger.add(Anomaly::TruthTwice, || id.clone());
    }
    Ok(truth)
}

fn read_split(
    archive: &mut Archive,
    file: &str,
    split: Split,
    truth: &Truth,
    params: &IndexMmhsParams,
    entries: &mut Entries,
) -> Result<(), StageError> {
    let bytes = archive.text(file)?;
    let text = dataset_files::text(&bytes);
    entries.note_form(file, &text);
    let mut seen = HashSet::new();
    let mut listed = 0;
    for (line, id) in text.lines() {
        listed += 1;
        let mut drop = |anomaly, problem: &str| {
            entries.ledger.add(anomaly, || format!("{file} line {line}: {id}: {problem}"));
        };
        if !dataset_files::is_tweet_id(id) {
            drop(Anomaly::BadName, "is no tweet's id");
            continue;
        }
        if !seen.insert(id) {
            drop(Anomaly::Twice, "this split has it on an earlier line");
            continue;
        }
        let tweet = match truth.tweets.get(id) {
            Some(Ok(tweet)) => tweet,
            Some(Err(problem)) => {
                drop(Anomaly::BadLabel, problem);
                continue;
            }
            None => {
                drop(Anomaly::NoTruth, &format!("{TRUTH} does not know it"));
                continue;
            }
        };
        let Some(label) = params.labels.label(tweet) else {
            drop(Anomaly::NoMajority, "no two annotators say the same");
            continue;
        };
        let sample = Sample {
            id: id.to_owned(),
            image: format!("{id}.jpg"),
            text: text_of(archive, id, tweet, params, entries)?,
            label: Some(label),
            soft: (params.labels == Labels::Soft).then_some(votes(tweet) as f32 / 3.0),
            split,
        };
        let picture = format!("img_resized/{id}.jpg");
        entries.rows.push(Row { file: entries.files.len(), line, picture, group: None, sample });
    }
    entries.files.push(SplitFile { name: file.to_owned(), split, listed });
    Ok(())
}

/// How many annotators call it hateful.
fn votes(tweet: &Tweet) -> usize {
    tweet.labels.iter().filter(|label| **label > 0).count()
}

/// The paper's logs tell the class balance of the validation split; checked where the sizes are real.
fn compare_with_the_logs(entries: &mut Entries, against: usize) {
    let [train, val, ..] = entries.files.as_slice() else { return };
    if (train.listed, val.listed) == (134_823, 5000) {
        let verdict = if against == 3719 { "the same" } else { "NOT the same: is this the paper's data?" };
        entries.checks.push(format!(
            "{against} of 5,000 validation tweets are hateful to at least one annotator; the paper's logs show 3,719: \
             {verdict}"
        ));
    }
}

fn text_of(
    archive: &mut Archive,
    id: &str,
    tweet: &Tweet,
    params: &IndexMmhsParams,
    entries: &mut Entries,
) -> Result<String, StageError> {
    let tweet = params.clean.apply(&tweet.text);
    if params.text == Text::Tweet {
        return Ok(tweet);
    }
    let file = format!("img_txt/{id}.json");
    let mut read = String::new();
    if archive.has(&file) {
        let bytes = archive.bytes(&file)?;
        match dataset_files::picture_text(&dataset_files::text(&bytes).text) {
            Ok(text) => read = text,
            Err(problem) => entries.ledger.add(Anomaly::BadPictureText, || format!("{file}: {problem}")),
        }
    }
    Ok(if params.text == Text::Ocr { read } else { format!("{tweet} {read}").trim().to_owned() })
}

#[cfg(test)]
mod tests;
