//! `index-hmd`: reads a Hateful Memes archive into samples and pictures. It knows the official layouts of both
//! phases of the challenge, not what is done with the memes.
//!
//! Lines are JSON with `id` (a number), `img` (`img/01234.png`), `text`, and `label` (0 or 1) where it is
//! published. Phase 1 has `train`, `dev`, `test`; phase 2 has `train`, `dev_seen`, `dev_unseen`, `test_seen`,
//! `test_unseen`. As in the original (MMF), an archive that has all files of phase 1 is of phase 1.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::archive::{Archive, file_name};
use crate::artifacts::samples::{Sample, SampleSet, Split};

/// The stage.
pub struct IndexHmd;

/// Which file is the validation split. The paper's logs fit `dev_seen` (500 rows, 253 of class 0), MMF's default
/// would be `dev_unseen`. Without effect on an archive of phase 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validation {
    /// `dev_seen.jsonl`.
    #[default]
    DevSeen,
    /// `dev_unseen.jsonl`.
    DevUnseen,
}

/// Which file is the test split. Without effect on an archive of phase 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// `test_seen.jsonl`.
    #[default]
    TestSeen,
    /// `test_unseen.jsonl`.
    TestUnseen,
}

/// Params of [`IndexHmd`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// The validation split.
    pub validation: Validation,
    /// The test split.
    pub test: Test,
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    img: String,
    label: Option<u8>,
    text: String,
}

impl Stage for IndexHmd {
    type Params = Params;
    const NAME: &'static str = "index-hmd";
    const ABOUT: &'static str = "reads a Hateful Memes archive into samples and pictures";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("archive")];

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
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
        let mut samples = Vec::new();
        // By file name. A meme may be in two splits; its picture is copied once.
        let mut pictures = BTreeMap::new();
        for (file, split) in [("train.jsonl", Split::Train), (validation, Split::Val), (test, Split::Test)] {
            read_split(&mut archive, file, split, &mut samples, &mut pictures)?;
        }
        let images = job.out.join("images");
        std::fs::create_dir_all(&images)?;
        for (done, picture) in pictures.values().enumerate() {
            if done % 256 == 0 {
                job.checkpoint()?;
                job.progress.advance(done as u64, pictures.len() as u64);
            }
            archive.copy_picture(picture, &images)?;
        }
        job.progress.advance(pictures.len() as u64, pictures.len() as u64);
        Ok(SampleSet { dataset: "hmd".to_owned(), samples }.write(&job.out.join("samples"))?)
    }
}

fn read_split(
    archive: &mut Archive,
    file: &str,
    split: Split,
    samples: &mut Vec<Sample>,
    pictures: &mut BTreeMap<String, String>,
) -> Result<(), StageError> {
    let text = archive.text(file)?;
    let mut ids = HashSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |problem: String| archive.error(file, format!("line {number}: {problem}"));
        let line: Line = serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
        if !ids.insert(line.id) {
            return Err(fail(format!("id {} is there twice", line.id)));
        }
        if let Some(label @ 2..) = line.label {
            return Err(fail(format!("label is {label}; it may be 0 or 1")));
        }
        let image = file_name(&line.img)
            .ok_or_else(|| fail(format!("img is `{}`, which names no file of the archive", line.img)))?
            .to_owned();
        if !archive.has(&line.img) {
            return Err(fail(format!("the archive has no picture `{}`", line.img)));
        }
        if let Some(other) = pictures.insert(image.clone(), line.img.clone())
            && other != line.img
        {
            return Err(fail(format!("`{other}` and `{}` have the same file name", line.img)));
        }
        samples.push(Sample { id: line.id.to_string(), image, text: line.text, label: line.label, split });
    }
    if ids.is_empty() {
        return Err(archive.error(file, "holds no memes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use stage_api::testing::run_stage;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const GOOD: &str = r#"{"id":42,"img":"img/00042.png","label":1,"text":"hello \u00e9"}"#;

    /// Runs the stage on an archive of phase 2 with one line in each file, `line` in train; pictures 42 and 7.
    fn index(line: &str, params: &str, files: &[&str]) -> (tempfile::TempDir, Result<SampleSet, String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.zip");
        let mut zip = ZipWriter::new(std::fs::File::create(&path).unwrap());
        let mut add = |name: &str, text: &str| {
            zip.start_file(format!("data/{name}"), SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        };
        add("train.jsonl", line);
        for (id, file) in files.iter().enumerate() {
            add(file, &format!(r#"{{"id":{id},"img":"img/00007.png","text":"{file}"}}"#));
        }
        add("img/00042.png", "42");
        add("img/00007.png", "7");
        add("other/00007.png", "seven");
        zip.finish().unwrap();
        let out = dir.path().join("out");
        let result = run_stage(&IndexHmd, params, &[("archive", Path::new(&path))], &out);
        let set = result.map_err(|error| error.to_string()).map(|_| {
            assert_eq!(std::fs::read_to_string(out.join("images/00042.png")).unwrap(), "42");
            SampleSet::read(&out.join("samples")).unwrap()
        });
        (dir, set)
    }

    const PHASE_2: [&str; 4] = ["dev_seen.jsonl", "dev_unseen.jsonl", "test_seen.jsonl", "test_unseen.jsonl"];

    fn texts(set: &SampleSet) -> Vec<&str> {
        set.samples.iter().map(|sample| sample.text.as_str()).collect()
    }

    #[test]
    fn reads_both_phases() {
        let (_dir, set) = index(GOOD, "()", &PHASE_2);
        let set = set.unwrap();
        assert_eq!(texts(&set), ["hello é", "dev_seen.jsonl", "test_seen.jsonl"]);
        assert_eq!(set.samples[0].id, "42");
        assert_eq!(set.samples[0].image, "00042.png");
        assert_eq!((set.samples[0].label, set.samples[1].label), (Some(1), None));
        assert_eq!((set.samples[1].split, set.samples[2].split), (Split::Val, Split::Test));
        let (_dir, set) = index(GOOD, "(validation: dev_unseen, test: test_unseen)", &PHASE_2);
        assert_eq!(texts(&set.unwrap())[1..], ["dev_unseen.jsonl", "test_unseen.jsonl"]);
        let (_dir, set) = index(GOOD, "()", &["dev.jsonl", "test.jsonl"]);
        assert_eq!(texts(&set.unwrap())[1..], ["dev.jsonl", "test.jsonl"]);
    }

    #[test]
    fn says_in_which_line_bad_input_is() {
        let twice = format!("{GOOD}\n\n{GOOD}");
        let broken = format!("{GOOD}\n{{\"id\":");
        for (line, problem) in [
            (twice.as_str(), "line 3: id 42 is there twice"),
            (broken.as_str(), "line 2: EOF while parsing"),
            (r#"{"id":1,"img":"img/00042.png","label":2,"text":""}"#, "line 1: label is 2"),
            (r#"{"id":1,"img":"img/00001.png","label":0,"text":""}"#, "no picture `img/00001.png`"),
            (r#"{"id":1,"img":"../../evil.png","label":0,"text":""}"#, "names no file of the archive"),
            (
                "{\"id\":1,\"img\":\"img/00007.png\",\"text\":\"\"}\n{\"id\":2,\"img\":\"other/00007.png\",\"text\":\"\"}",
                "line 2: `img/00007.png` and `other/00007.png` have the same file name",
            ),
            (r#"{"id":1,"label":0,"text":""}"#, "line 1: missing field `img`"),
            ("", "holds no memes"),
        ] {
            let error = index(line, "()", &PHASE_2).1.unwrap_err();
            assert!(error.contains("`data/train.jsonl`") && error.contains(problem), "{error}");
        }
        let error = index(GOOD, "()", &PHASE_2[1..]).1.unwrap_err();
        assert!(error.contains("`data/dev_seen.jsonl`: is missing"), "{error}");
    }
}
