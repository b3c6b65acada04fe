use std::path::Path;

use stage_api::testing::{Recorder, run_stage};

use super::*;
use crate::artifacts::data_summary::DataSummary;
use crate::artifacts::labels::Label;
use crate::artifacts::samples::SampleSet;
use crate::dataset::indexing::testing::{png, zip};

const GOOD: &str = r#"{"id":42,"img":"img/00042.png","label":1,"text":"hello \u00e9"}"#;
const PHASE_2: [&str; 4] = ["dev_seen.jsonl", "dev_unseen.jsonl", "test_seen.jsonl", "test_unseen.jsonl"];

struct Indexed {
    samples: Vec<Sample>,
    summary: DataSummary,
    log: Recorder,
    images: Vec<String>,
}

/// One line in each file of `splits`, `train` in train; pictures 42 and 7, and `more` files.
fn files(train: &str, splits: &[&str], more: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("train.jsonl".to_owned(), train.as_bytes().to_vec())];
    for (id, file) in splits.iter().enumerate() {
        let line = format!(r#"{{"id":{id},"img":"img/00007.png","text":"{file}"}}"#);
        files.push(((*file).to_owned(), line.into_bytes()));
    }
    files.push(("img/00042.png".to_owned(), png(42)));
    files.push(("img/00007.png".to_owned(), png(7)));
    files.extend(more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())));
    files.into_iter().map(|(name, bytes)| (format!("data/{name}"), bytes)).collect()
}

fn index(files: &[(String, Vec<u8>)], params: &str) -> Result<Indexed, String> {
    let dir = tempfile::tempdir().unwrap();
    let (archive, out) = (zip(dir.path(), files), dir.path().join("out"));
    let log = run_stage(&IndexHmd, params, &[("archive", Path::new(&archive))], &out)
        .map_err(|error| error.to_string())?;
    let mut images: Vec<String> = std::fs::read_dir(out.join("images"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    images.sort();
    let samples = SampleSet::read(&out.join("samples")).unwrap().samples;
    Ok(Indexed { samples, summary: DataSummary::read(&out).unwrap(), log, images })
}

fn texts(indexed: &Indexed) -> Vec<&str> {
    indexed.samples.iter().map(|sample| sample.text.as_str()).collect()
}

#[test]
fn reads_both_phases() {
    let archive = files(GOOD, &PHASE_2, &[]);
    let indexed = index(&archive, "()").unwrap();
    assert_eq!(texts(&indexed), ["hello é", "dev_seen.jsonl", "test_seen.jsonl"]);
    assert_eq!((indexed.samples[0].id.as_str(), indexed.samples[0].image.as_str()), ("42", "00042.png"));
    assert_eq!((indexed.samples[0].label, indexed.samples[1].label), (Some(Label::One(1)), None));
    assert_eq!((indexed.samples[1].split, indexed.samples[2].split), (Split::Val, Split::Test));
    assert_eq!(indexed.images, ["00007.png", "00042.png"]);
    assert!(indexed.summary.choices["validation"].starts_with("dev_seen.jsonl, as in the paper's logs"));
    let notes = indexed.log.notes.lock().unwrap().join("\n");
    assert!(notes.contains("validation: dev_seen.jsonl"), "{notes}");
    let indexed = index(&archive, "(validation: dev_unseen, test: test_unseen)").unwrap();
    assert_eq!(texts(&indexed)[1..], ["dev_unseen.jsonl", "test_unseen.jsonl"]);
    let indexed = index(&files(GOOD, &["dev.jsonl", "test.jsonl"], &[]), "()").unwrap();
    assert_eq!(texts(&indexed)[1..], ["dev.jsonl", "test.jsonl"]);
    let error = index(&files(GOOD, &PHASE_2[1..], &[]), "()").err().unwrap();
    assert!(error.contains("`data/dev_seen.jsonl`: is missing"), "{error}");
}

#[test]
fn pictures_may_be_in_an_archive_of_their_own() {
    let pack = |more: &[(&str, Vec<u8>)], after: &[u8]| {
        let mut tar = tar::Builder::new(Vec::new());
        let files = [("./img/00042.png", png(42)), ("img/00007.png", png(7)), ("img/x", vec![1])];
        for (name, bytes) in files.iter().chain(more) {
            // An attribute of macOS, whose value has lines, one of them like a record of its own.
            let attribute = ("LIBARCHIVE.xattr.com.apple.metadata", &b"<plist>\n18 path=img/y.png\n"[..]);
            tar.append_pax_extensions([attribute]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        let bytes = [&tar.into_inner().unwrap()[..], after].concat();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &bytes).unwrap();
        packed.finish().unwrap()
    };
    let tar = pack(&[], &[]);
    let mut archive = files(GOOD, &PHASE_2, &[]);
    archive.retain(|(name, _)| !name.contains("img/"));
    archive.push(("data/img.tar.gz".to_owned(), tar.clone()));
    let indexed = index(&archive, "()").unwrap();
    assert_eq!(indexed.images, ["00007.png", "00042.png"]);
    assert_eq!((indexed.samples.len(), indexed.summary.pictures.files), (3, 2));
    archive.last_mut().unwrap().1 = tar[..tar.len() / 2].to_vec();
    let error = index(&archive, "()").err().unwrap();
    assert!(error.contains("data/img.tar.gz`: "), "{error}");
    archive.last_mut().unwrap().1 = pack(&[("./img/00042.png", png(1))], &[]);
    let error = index(&archive, "()").err().unwrap();
    assert!(error.contains("data/img.tar.gz`: holds `img/00042.png` twice"), "{error}");
    archive.last_mut().unwrap().1 = pack(&[], b"more");
    let error = index(&archive, "()").err().unwrap();
    assert!(error.contains("data/img.tar.gz`: goes on after its end mark"), "{error}");
}

#[test]
fn drops_what_cannot_be_used_up_to_a_share() {
    let line = |id: u32, img: &str| format!(r#"{{"id":{id},"img":"{img}","label":0,"text":"t"}}"#);
    let train = [
        "\u{feff}".to_owned() + GOOD,
        GOOD.to_owned(),
        "{\"id\":".to_owned(),
        String::new(),
        r#"{"id":1,"img":"img/00042.png","label":2,"text":""}"#.to_owned(),
        line(2, "img/00001.png"),
        line(3, "../../evil.png"),
        line(4, "other/00042.png"),
        line(5, "img/empty.png"),
        line(6, "img/cut.png"),
        line(7, "img/text.png"),
        r#"{"id":8,"label":0,"text":""}"#.to_owned(),
        format!(r#"{{"id":9,"img":"img/00042.png","label":0,"text":"{}"}}"#, "long ".repeat(2000)),
        r#"{"id":10,"img":"img/00042.png","label":0,"text":" "}"#.to_owned(),
        r#"{"id":11,"img":"img/00042.png","label":0,"text":"\ud83d\ude02 \ud83d"}"#.to_owned(),
    ]
    .join("\r\n");
    let more = [
        ("img/empty.png", vec![]),
        ("img/cut.png", png(1)[..60].to_vec()),
        ("img/text.png", b"no picture".to_vec()),
        ("other/00042.png", png(9)),
    ];
    let archive = files(&train, &PHASE_2, &more);
    let error = index(&archive, "()").err().unwrap();
    for part in [
        "10 of 16 entries cannot be used, 62.50 %; `max_dropped` allows 0.50 %",
        "train.jsonl line 3: column 6: EOF while parsing",
        "train.jsonl line 2: 42: train.jsonl has this id on an earlier line (id twice in a split)",
        "train.jsonl line 6: 2: `img/00001.png`: the archive has no picture",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let indexed = index(&archive, "(max_dropped: 0.7)").unwrap();
    let ids: Vec<&str> = indexed.samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!(ids, ["42", "9", "10", "11", "0", "2"]);
    assert_eq!(indexed.samples[3].text, "😂 \u{fffd}");
    assert_eq!(indexed.images, ["00007.png", "00042.png"]);
    let summary = &indexed.summary;
    let kinds: Vec<(&str, usize)> =
        summary.anomalies.iter().map(|anomaly| (anomaly.kind.as_str(), anomaly.count)).collect();
    assert_eq!(
        kinds,
        [
            ("invalid line", 2),
            ("bad label", 1),
            ("bad name", 2),
            ("id twice in a split", 1),
            ("missing picture", 1),
            ("picture of zero bytes", 1),
            ("truncated picture", 1),
            ("unreadable picture", 1),
            ("empty text", 1),
            ("text of more than 1,000 characters", 1),
            ("emoji (beyond the basic plane)", 1),
            ("broken characters", 1),
            ("byte-order mark", 1),
            ("CR LF line ends", 1),
        ]
    );
    assert_eq!((summary.listed, summary.dropped), (16, 10));
    let train = &summary.splits[0];
    assert_eq!((train.listed, train.samples, train.hateful, train.harmless), (14, 4, 1, 3));
    assert_eq!((train.characters.min, train.characters.max), (1, 10_000));
    let notes = indexed.log.notes.lock().unwrap().join("\n");
    assert!(
        notes.contains("truncated picture: 1, dropped\n  train.jsonl line 10: 6: `img/cut.png`"),
        "{notes}"
    );
}

#[test]
fn says_what_splits_share() {
    let line = |id: u32, img: u32, text: &str| {
        format!(r#"{{"id":{id},"img":"img/{img:05}.png","label":0,"text":"{text}"}}"#)
    };
    let mut archive = files(&[line(1, 1, "One"), line(2, 2, "two"), line(3, 3, "")].join("\n"), &[], &[]);
    for (name, lines) in [
        // The same id with another picture, a copied picture, a copied text, both at once, two empty texts.
        ("dev_seen", [line(1, 4, "four"), line(5, 5, " one "), line(6, 6, "")]),
        ("dev_unseen", [line(1, 4, "four"), line(5, 5, "one"), line(9, 9, "nine")]),
        ("test_seen", [line(20, 4, "FOUR"), line(21, 2, "x"), line(22, 22, "y")]),
    ] {
        archive.push((format!("data/{name}.jsonl"), lines.join("\n").into_bytes()));
    }
    for id in [1, 2, 3, 4, 6, 9, 22] {
        archive.push((format!("data/img/{id:05}.png"), png(id)));
    }
    archive.push(("data/img/00005.png".to_owned(), png(1)));
    let indexed = index(&archive, "()").unwrap();
    let shared: Vec<_> = indexed
        .summary
        .overlaps
        .iter()
        .map(|o| (o.first.as_str(), o.second.as_str(), o.ids, o.texts, o.pictures, o.both))
        .collect();
    assert_eq!(
        shared,
        [
            ("train.jsonl", "dev_seen.jsonl", 1, Some(1), Some(1), Some(1)),
            ("train.jsonl", "test_seen.jsonl", 0, Some(0), Some(1), Some(0)),
            ("dev_seen.jsonl", "test_seen.jsonl", 0, Some(1), Some(1), Some(1)),
            ("train.jsonl", "dev_unseen.jsonl", 1, None, None, None),
            ("dev_seen.jsonl", "dev_unseen.jsonl", 2, None, None, None),
        ]
    );
    // One id in two splits is two samples.
    assert_eq!(indexed.samples.iter().filter(|sample| sample.id == "1").count(), 2);
}

#[test]
fn a_split_without_memes_is_refused() {
    let error = index(&files("", &PHASE_2, &[]), "()").err().unwrap();
    assert!(error.contains("`data/train.jsonl`: holds no memes"), "{error}");
    let error = index(&files("{}", &PHASE_2, &[]), "(max_dropped: 1.0)").err().unwrap();
    assert!(error.contains("`data/train.jsonl`: holds no samples that can be used"), "{error}");
    let error = index(&files(GOOD, &PHASE_2, &[]), "(max_dropped: 1.5)").err().unwrap();
    assert!(error.contains("a share, from 0 to 1"), "{error}");
}
