use std::path::Path;

use stage_api::testing::run_stage;

use super::*;
use crate::artifacts::data_summary::DataSummary;
use crate::artifacts::labels::numbers;
use crate::artifacts::samples::SampleSet;
use crate::dataset::indexing::testing::{jpeg, zip};

const GOOD: &str = r#"{"1":{"tweet_text":"hi @you 😂 https://t.co/x","labels":[0,2,0],"labels_str":["NotHate"]},
    "2":{"tweet_text":"two","labels":[1,5,0]}, "3":{"tweet_text":"three &amp; more","labels":[0,0,0]}}"#;

fn index(truth: &str, train: &str, params: &str) -> Result<(Vec<Sample>, DataSummary), String> {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<(String, Vec<u8>)> = [
        (TRUTH, truth.as_bytes().to_vec()),
        ("splits/train_ids.txt", train.as_bytes().to_vec()),
        ("splits/val_ids.txt", b"2\n".to_vec()),
        ("splits/test_ids.txt", b"3\n".to_vec()),
        ("img_resized/1.jpg", jpeg(1)),
        ("img_resized/2.jpg", jpeg(2)),
        ("img_resized/3.jpg", jpeg(3)),
        ("img_txt/1.json", br#"{"img_text":"READ OFF"}"#.to_vec()),
        ("img_txt/3.json", br#"{"img_text":7}"#.to_vec()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    let (archive, out) = (zip(dir.path(), &files), dir.path().join("out"));
    run_stage(&IndexMmhs, params, &[("archive", Path::new(&archive))], &out)
        .map_err(|error| error.to_string())?;
    assert_eq!(std::fs::read(out.join("images/2.jpg")).unwrap(), jpeg(2));
    Ok((SampleSet::read(&out.join("samples")).unwrap().samples, DataSummary::read(&out).unwrap()))
}

#[test]
fn makes_labels_and_texts_by_the_rules() {
    let labels =
        |samples: &[Sample]| numbers(&samples.iter().filter_map(|sample| sample.label).collect::<Vec<_>>());
    let (samples, summary) = index(GOOD, "1\n", "()").unwrap();
    assert_eq!(labels(&samples), [1, 1, 0]);
    assert_eq!(samples[0].text, "hi @you 😂");
    assert_eq!((samples[0].image.as_str(), samples[0].soft), ("1.jpg", None));
    assert_eq!(samples[1].split, Split::Val);
    assert!(summary.choices["labels"].contains("as the paper's logs show"));
    let (samples, summary) =
        index(GOOD, "1\n", r#"(labels: "majority", text: "both", clean: "none")"#).unwrap();
    assert_eq!(labels(&samples), [0, 1, 0]);
    assert_eq!(samples[0].text, "hi @you 😂 https://t.co/x READ OFF");
    assert_eq!((samples[1].text.as_str(), samples[2].text.as_str()), ("two", "three &amp; more"));
    assert!(
        summary.anomalies.iter().any(|anomaly| anomaly.kind == "unreadable OCR file" && anomaly.count == 1)
    );
    let (samples, _) = index(GOOD, "1\n", "(text: ocr)").unwrap();
    assert_eq!((samples[0].text.as_str(), samples[1].text.as_str()), ("READ OFF", ""));
    let (samples, _) = index(GOOD, "1\n", r#"(labels: "soft", clean: "mentions")"#).unwrap();
    assert_eq!(labels(&samples), [0, 1, 0]);
    assert_eq!(samples[0].soft.zip(samples[1].soft), Some((1.0 / 3.0, 2.0 / 3.0)));
    assert_eq!((samples[0].text.as_str(), samples[2].text.as_str()), ("hi 😂", "three & more"));
}

#[test]
fn six_classes_and_the_kinds_of_hate_are_made_of_the_same_annotations() {
    let several = |kinds: &[u8]| Some(Label::Several(kinds.iter().copied().collect()));
    let (samples, _) = index(GOOD, "1\n", "(labels: multi_label)").unwrap();
    let labels: Vec<Option<Label>> = samples.iter().map(|sample| sample.label).collect();
    // Kinds of hate are counted from 0: of 1 and 5 it is the first and the last.
    assert_eq!(labels, [several(&[1]), several(&[0, 4]), several(&[])]);

    // Of 1, 5 and 0 no two are the same.
    let error = index(GOOD, "1\n", "(labels: classes, max_dropped: 1.0)").unwrap_err();
    assert!(error.contains("splits/val_ids.txt") && error.contains("holds no samples"), "{error}");
    let agreed = GOOD.replace("[1,5,0]", "[5,1,5]").replace("[0,2,0]", "[3,0,3]");
    let (samples, summary) = index(&agreed, "1\n", "(labels: classes)").unwrap();
    let labels: Vec<Option<Label>> = samples.iter().map(|sample| sample.label).collect();
    assert_eq!(labels, [3, 5, 0].map(|class| Some(Label::One(class))));
    assert_eq!((summary.classes.count(), summary.classes.multi_label), (6, false));
    assert_eq!(summary.splits[1].by_class, [0, 0, 0, 0, 0, 1]);
    let split = agreed.replace("[3,0,3]", "[3,0,1]");
    let error = index(&split, "1\n", "(labels: classes)").unwrap_err();
    assert!(error.contains("annotators disagree"), "{error}");
}

#[test]
fn says_where_bad_input_is() {
    let six = GOOD.replace("[0,2,0]", "[0,6,0]");
    let two = GOOD.replace("[0,2,0]", "[0,2]");
    for (truth, train, problem) in [
        (GOOD, "1\n1\n", "splits/train_ids.txt line 2: 1: this split has it on an earlier line"),
        (GOOD, "1\n\n77\n", "splits/train_ids.txt line 3: 77: MMHS150K_GT.json does not know it"),
        (GOOD, "1\n../3\n", "splits/train_ids.txt line 2: ../3: is no tweet's id"),
        (six.as_str(), "1\n", "line 1: 1: label 6 is none of 0 to 5"),
        (two.as_str(), "1\n", "line 1: 1: labels are [0,2]; there must be three"),
        ("{", "1\n", "`MMHS150K_GT.json`: EOF"),
    ] {
        let error = index(truth, train, "()").unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    let again = GOOD.replace("\"3\":", "\"1\":{},\"1\":{\"tweet_text\":\"last\",\"labels\":[0,0,0]},\"3\":");
    let (samples, summary) = index(&again, "1\n2\n", "()").unwrap();
    assert_eq!(samples[0].text, "last");
    // In train and in val: two samples, reported.
    assert_eq!((samples.len(), summary.overlaps[0].ids, summary.overlaps[0].both), (4, 1, Some(1)));
    assert!(
        summary
            .anomalies
            .iter()
            .any(|anomaly| anomaly.kind == "id twice in the truth file" && anomaly.count == 2)
    );
}

#[test]
fn the_class_balance_is_held_against_the_papers_logs_where_the_sizes_are_real() {
    let mut entries = Entries::default();
    for (name, split, listed) in [("t", Split::Train, 134_823), ("v", Split::Val, 5000)] {
        entries.files.push(SplitFile { name: name.to_owned(), split, listed });
    }
    compare_with_the_logs(&mut entries, 3719);
    compare_with_the_logs(&mut entries, 2500);
    assert!(entries.checks[0].starts_with("3719 of 5,000") && entries.checks[0].ends_with("3,719: the same"));
    assert!(entries.checks[1].contains("NOT the same"), "{}", entries.checks[1]);
    entries.files[0].listed = 100;
    compare_with_the_logs(&mut entries, 3719);
    assert_eq!(entries.checks.len(), 2);
}
