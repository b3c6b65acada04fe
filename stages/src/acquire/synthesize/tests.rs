//! The whole stage on a small scale, and its archives read back by the index stages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stage_api::testing::run_stage;

use super::Synthesize;
use crate::artifacts::labels::Label;
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::dataset::index_hmd::IndexHmd;
use crate::dataset::index_mmhs::IndexMmhs;

const SMALL: &str = "(seed: 3, hmd_train: 40, hmd_dev_seen: 20, hmd_dev_unseen: 4, hmd_test_seen: 4, \
    hmd_test_unseen: 4, mmh_train: 64, mmh_val: 32, mmh_test: 16, scenes: 12, scenes_val: 3)";

fn synthesize(dir: &Path, params: &str) -> PathBuf {
    let out = dir.join("memes");
    run_stage(&Synthesize, params, &[], &out).unwrap();
    out
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(
                self::files(&path)
                    .into_iter()
                    .map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            files.insert(path.file_name().unwrap().into(), std::fs::read(&path).unwrap());
        }
    }
    files
}

/// Whether each text of a split has the same share of positives.
fn text_tells_nothing(samples: &[Sample], split: Split) -> bool {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let (mut positives, mut rows) = (0, 0);
    for sample in samples.iter().filter(|sample| sample.split == split) {
        let label = u64::from(sample.label == Some(Label::One(1)));
        let count = counts.entry(&sample.text).or_default();
        *count = (count.0 + label, count.1 + 1);
        (positives, rows) = (positives + label, rows + 1);
    }
    counts.values().all(|(of_text, rows_of_text)| of_text * rows == positives * rows_of_text)
}

#[test]
fn hateful_memes_read_back_balanced() {
    let dir = tempfile::tempdir().unwrap();
    let archive = synthesize(dir.path(), SMALL).join("hateful_memes.zip");
    let out = dir.path().join("hmd");
    run_stage(&IndexHmd, "()", &[("archive", &archive)], &out).unwrap();
    let set = SampleSet::read(&out.join("samples")).unwrap();
    let positives = |split| {
        let labels: Vec<u8> = set
            .samples
            .iter()
            .filter(|s| s.split == split)
            .map(|s| u8::from(s.label == Some(Label::One(1))))
            .collect();
        (labels.iter().filter(|label| **label == 1).count(), labels.len())
    };
    assert_eq!(positives(Split::Train), (20, 40));
    assert_eq!(positives(Split::Val), (10, 20));
    assert_eq!(positives(Split::Test), (2, 4));
    assert!(
        [Split::Train, Split::Val, Split::Test].iter().all(|split| text_tells_nothing(&set.samples, *split))
    );
    for sample in &set.samples {
        let picture = image::open(out.join("images").join(&sample.image)).unwrap();
        assert_eq!((picture.width(), picture.height()), (112, 112));
    }
    let out = dir.path().join("unseen");
    run_stage(
        &IndexHmd,
        r#"(validation: "dev_unseen", test: "test_unseen")"#,
        &[("archive", &archive)],
        &out,
    )
    .unwrap();
    let set = SampleSet::read(&out.join("samples")).unwrap();
    assert!(set.samples.iter().all(|s| (s.split == Split::Test) == s.label.is_none()));
}

#[test]
fn mmhs150k_reads_back_three_quarters_positive_and_balanced_under_both_rules() {
    let dir = tempfile::tempdir().unwrap();
    let archive = synthesize(dir.path(), SMALL).join("mmhs150k.zip");
    for (rule, share) in [("any", 0.75), ("majority", 0.5)] {
        let out = dir.path().join(rule);
        run_stage(&IndexMmhs, &format!("(labels: {rule})"), &[("archive", &archive)], &out).unwrap();
        let set = SampleSet::read(&out.join("samples")).unwrap();
        let val: Vec<_> = set.samples.iter().filter(|sample| sample.split == Split::Val).collect();
        let positives = val.iter().filter(|sample| sample.label == Some(Label::One(1))).count();
        assert_eq!((positives as f64, val.len()), (share * 32.0, 32));
        assert!(
            text_tells_nothing(&set.samples, Split::Train) && text_tells_nothing(&set.samples, Split::Val)
        );
        assert!(!set.samples.iter().any(|sample| sample.text.contains("http")));
        let picture = image::open(out.join("images").join(&set.samples[0].image)).unwrap();
        assert_eq!(picture.width(), 112);
    }
    let out = dir.path().join("raw");
    run_stage(&IndexMmhs, r#"(text: "both", clean: "none")"#, &[("archive", &archive)], &out).unwrap();
    let set = SampleSet::read(&out.join("samples")).unwrap();
    let read_off = set.samples.iter().filter(|sample| !sample.text.ends_with(char::is_alphanumeric)).count();
    assert!(set.samples.iter().all(|sample| sample.text.contains("https://t.co/")));
    assert!(read_off < set.samples.len());
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let (one, two, three) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = files(&synthesize(one.path(), SMALL));
    assert_eq!(first.len(), 2 + 1 + 2 + 1 + 15);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let second = pool.install(|| files(&synthesize(two.path(), SMALL)));
    assert!(first == second, "the same seed gave other bytes");
    let third = files(&synthesize(three.path(), &SMALL.replace("seed: 3", "seed: 4")));
    assert!(first.iter().zip(&third).all(|((_, a), (_, b))| a != b || a.len() < 64));
}

#[test]
fn scenes_are_samples_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let out = synthesize(dir.path(), SMALL).join("scenes");
    let set = SampleSet::read(&out.join("samples")).unwrap();
    assert_eq!(set.samples.len(), 15 * 4);
    assert_eq!(set.samples.iter().filter(|sample| sample.split == Split::Val).count(), 3 * 4);
    let objects = std::fs::read_to_string(out.join("objects.jsonl")).unwrap();
    assert_eq!(objects.lines().count(), 15);
    assert!(objects.starts_with(r#"{"image":"00000.png","objects":[[""#), "{objects}");
    assert!(set.samples.iter().all(|sample| out.join("images").join(&sample.image).exists()));
}

#[test]
fn params_that_cannot_balance_are_refused() {
    for (params, problem) in [
        ("(hmd_train: 6)", "`hmd_train` is 6; labels balance only in multiples of 4"),
        ("(mmh_val: 40)", "`mmh_val` is 40; labels balance only in multiples of 16"),
        ("(mmh_val: 6, mmh_side: 1)", "`mmh_val` is 6; labels balance only in multiples of 4"),
        ("(mmh_side: 0)", "`mmh_side` is 0; it may be 1 or 2"),
        ("(colours: 2)", "`colours` is 2; it may be 3 to 6"),
        ("(min_objects: 5, max_objects: 4)", "`min_objects` is 5; it may be 1 to 4"),
        ("(joke_share: 0.8, question_share: 0.3)", "may not exceed it together"),
    ] {
        let error = stage_api::AnyStage::load(&Synthesize, params).err().unwrap();
        assert!(error.message.contains(problem), "{error}");
    }
}
