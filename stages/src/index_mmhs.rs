//! `index-mmhs`: reads an MMHS150K archive into samples and pictures. It knows the official layout and the ways
//! to make a label of three annotators' and a text of a tweet, not what is done with them.
//!
//! `MMHS150K_GT.json` maps tweet ids to `tweet_text` and `labels` (one of 0 to 5 an annotator, 0 is not hate);
//! `splits/{train,val,test}_ids.txt` lists ids; `img_resized/<id>.jpg` is the picture; `img_txt/<id>.json` holds
//! the text read off the picture, where there is any.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::archive::{Archive, file_name};
use crate::artifacts::samples::{Sample, SampleSet, Split};

const TRUTH: &str = "MMHS150K_GT.json";

/// The stage.
pub struct IndexMmhs;

/// How three annotators' labels become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// Hateful if anybody says so. Of all rules only this one gives the 3,719 positives among 5,000 validation
    /// tweets that the paper's logs show.
    #[default]
    Any,
    /// Hateful if two of three say so.
    Majority,
}

/// What the text of a sample is. The paper does not say; the tweet is what every entry has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// The tweet.
    #[default]
    Tweet,
    /// What was read off the picture; empty where nothing was.
    Ocr,
    /// The tweet, and behind it what was read off the picture.
    Both,
}

/// What is taken out of tweets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clean {
    /// Nothing.
    None,
    /// Links: nearly every tweet ends in the address of its own picture, a dozen meaningless word pieces. Mentions
    /// and tags stay: people speak to and about somebody with them.
    #[default]
    Urls,
}

/// Params of [`IndexMmhs`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// The rule for labels.
    pub labels: Labels,
    /// The choice of text.
    pub text: Text,
    /// What is taken out of tweets.
    pub clean: Clean,
}

#[derive(Deserialize)]
struct Tweet {
    tweet_text: String,
    labels: [u8; 3],
}

#[derive(Deserialize)]
struct PictureText {
    img_text: String,
}

impl Stage for IndexMmhs {
    type Params = Params;
    const NAME: &'static str = "index-mmhs";
    const ABOUT: &'static str = "reads an MMHS150K archive into samples and pictures";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let mut archive = Archive::open("archive", job.inputs.one("archive")?, TRUTH)?;
        let truth = archive.text(TRUTH)?;
        let truth: BTreeMap<String, Tweet> =
            serde_json::from_str(&truth).map_err(|error| archive.error(TRUTH, error))?;
        let images = job.out.join("images");
        std::fs::create_dir_all(&images)?;
        let mut samples = Vec::new();
        let mut seen = HashSet::new();
        for (name, split) in [("train", Split::Train), ("val", Split::Val), ("test", Split::Test)] {
            let file = format!("splits/{name}_ids.txt");
            let ids = archive.text(&file)?;
            for (number, id) in (1..).zip(ids.lines().map(str::trim)).filter(|(_, id)| !id.is_empty()) {
                if samples.len() % 256 == 0 {
                    job.checkpoint()?;
                    job.progress.advance(samples.len() as u64, truth.len() as u64);
                }
                let picture = format!("img_resized/{id}.jpg");
                let tweet = truth.get(id);
                let problem = if !seen.insert(id.to_owned()) {
                    Some(format!("{id} is there twice, here or in an earlier split"))
                } else if tweet.is_none() {
                    Some(format!("{TRUTH} does not know {id}"))
                } else if !archive.has(&picture) {
                    Some(format!("the archive has no picture `{picture}`"))
                } else {
                    None
                };
                if let Some(problem) = problem {
                    return Err(archive.error(&file, format!("line {number}: {problem}")));
                }
                let Some(tweet) = tweet else { continue };
                let label = label(&tweet.labels, params.labels)
                    .map_err(|problem| archive.error(TRUTH, format!("{id}: {problem}")))?;
                let text = text(&mut archive, id, tweet, params)?;
                let image = file_name(&picture)
                    .ok_or_else(|| archive.error(&file, format!("line {number}: `{id}` is no tweet id")))?
                    .to_owned();
                archive.copy_picture(&picture, &images)?;
                samples.push(Sample { id: id.to_owned(), image, text, label: Some(label), split });
            }
        }
        job.progress.advance(samples.len() as u64, samples.len() as u64);
        Ok(SampleSet { dataset: "mmh".to_owned(), samples }.write(&job.out.join("samples"))?)
    }
}

fn label(labels: &[u8; 3], rule: Labels) -> Result<u8, String> {
    if let Some(label) = labels.iter().find(|label| **label > 5) {
        return Err(format!("label {label} is none of 0 to 5"));
    }
    let against = labels.iter().filter(|label| **label > 0).count();
    Ok(u8::from(match rule {
        Labels::Any => against >= 1,
        Labels::Majority => against >= 2,
    }))
}

fn text(archive: &mut Archive, id: &str, tweet: &Tweet, params: &Params) -> Result<String, StageError> {
    let tweet = match params.clean {
        Clean::None => tweet.tweet_text.clone(),
        Clean::Urls => without_urls(&tweet.tweet_text),
    };
    if params.text == Text::Tweet {
        return Ok(tweet);
    }
    let file = format!("img_txt/{id}.json");
    let mut read = String::new();
    if archive.has(&file) {
        let text = archive.text(&file)?;
        let text: PictureText = serde_json::from_str(&text).map_err(|error| archive.error(&file, error))?;
        read = text.img_text;
    }
    Ok(if params.text == Text::Ocr { read } else { format!("{tweet} {read}").trim().to_owned() })
}

/// The words of a text without links, with single spaces between them.
fn without_urls(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        // A link often sticks to the word before it.
        let start = ["http://", "https://"].iter().filter_map(|scheme| word.find(scheme)).min();
        &word[..start.unwrap_or(word.len())]
    });
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use stage_api::testing::run_stage;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const GOOD: &str = r#"{"1":{"tweet_text":"hi @you 😂 https://t.co/x","labels":[0,2,0],"labels_str":["NotHate"]},
        "2":{"tweet_text":"two","labels":[1,5,0]}, "3":{"tweet_text":"three","labels":[0,0,0]}}"#;

    fn index(truth: &str, train: &str, params: &str) -> Result<Vec<Sample>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        let mut zip = ZipWriter::new(std::fs::File::create(&path).unwrap());
        for (name, text) in [
            (TRUTH, truth),
            ("splits/train_ids.txt", train),
            ("splits/val_ids.txt", "2\n"),
            ("splits/test_ids.txt", "3\n"),
            ("img_resized/1.jpg", "one"),
            ("img_resized/2.jpg", "two"),
            ("img_resized/3.jpg", "three"),
            ("img_txt/1.json", r#"{"img_text":"READ OFF"}"#),
        ] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let out = dir.path().join("out");
        run_stage(&IndexMmhs, params, &[("archive", Path::new(&path))], &out)
            .map_err(|error| error.to_string())?;
        assert_eq!(std::fs::read_to_string(out.join("images/2.jpg")).unwrap(), "two");
        Ok(SampleSet::read(&out.join("samples")).unwrap().samples)
    }

    #[test]
    fn makes_labels_and_texts_by_the_rules() {
        let samples = index(GOOD, "1\n", "()").unwrap();
        let labels =
            |samples: &[Sample]| samples.iter().filter_map(|sample| sample.label).collect::<Vec<_>>();
        assert_eq!(labels(&samples), [1, 1, 0]);
        assert_eq!(samples[0].text, "hi @you 😂");
        assert_eq!(samples[0].image, "1.jpg");
        assert_eq!(samples[1].split, Split::Val);
        let samples = index(GOOD, "1\n", "(labels: majority, text: both, clean: none)").unwrap();
        assert_eq!(labels(&samples), [0, 1, 0]);
        assert_eq!(samples[0].text, "hi @you 😂 https://t.co/x READ OFF");
        assert_eq!(samples[1].text, "two");
        let samples = index(GOOD, "1\n", "(text: ocr)").unwrap();
        assert_eq!((samples[0].text.as_str(), samples[1].text.as_str()), ("READ OFF", ""));
    }

    #[test]
    fn cleaning_takes_links_and_leaves_words() {
        for (text, clean) in [
            ("the red one https://t.co/AbC", "the red one"),
            ("look!https://t.co/AbC  now\nhttp://a.b c", "look! now c"),
            ("@user_1 #tag httpfoo", "@user_1 #tag httpfoo"),
            ("https://t.co/AbC", ""),
        ] {
            assert_eq!(without_urls(text), clean);
        }
    }

    #[test]
    fn says_where_bad_input_is() {
        let six = GOOD.replace("[0,2,0]", "[0,6,0]");
        let two = GOOD.replace("[0,2,0]", "[0,2]");
        for (truth, train, problem) in [
            (GOOD, "1\n1\n", "`splits/train_ids.txt`: line 2: 1 is there twice"),
            (GOOD, "1\n2\n", "`splits/val_ids.txt`: line 1: 2 is there twice, here or in an earlier split"),
            (GOOD, "1\n\n77\n", "line 3: MMHS150K_GT.json does not know 77"),
            (six.as_str(), "1\n", "`MMHS150K_GT.json`: 1: label 6 is none of 0 to 5"),
            (two.as_str(), "1\n", "`MMHS150K_GT.json`: invalid length 2"),
            ("{", "1\n", "`MMHS150K_GT.json`: EOF"),
        ] {
            let error = index(truth, train, "()").unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let truth = GOOD.replace("\"3\":", "\"../3\":");
        let error = index(&truth, "1\n../3\n", "()").unwrap_err();
        assert!(error.contains("no picture"), "{error}");
    }
}
