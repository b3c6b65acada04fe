//! Tables in every form with pictures in every form, splits by column, file, folder and rule, and what is wrong with others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use stage_api::AnyStage;
use stage_api::testing::{Recorder, run_stage};

use super::*;
use crate::artifacts::data_summary::DataSummary;
use crate::artifacts::labels::Label;
use crate::artifacts::samples::{Sample, SampleSet, Split};
use crate::dataset::indexing::testing::{png, zip};

/// Six rows in three splits.
const TABLE: &str = "id,image,text,label,split\n\
    1,1.png,one,cat,train\n2,2.png,two,dog,training\n3,3.png,three,cat,validation\n\
    4,4.png,four,dog,dev\n5,5.png,five,,test\n6,6.png,six,1,test\n";
const CLASSES: &str = r#"classes: ["cat", "dog"]"#;

struct Indexed {
    samples: Vec<Sample>,
    summary: DataSummary,
    log: Recorder,
    images: Vec<String>,
}

impl Indexed {
    fn ids(&self, split: Split) -> Vec<&str> {
        let of_split = self.samples.iter().filter(|sample| sample.split == split);
        of_split.map(|sample| sample.id.as_str()).collect()
    }
}

fn index(params: &str, inputs: &[(&str, &Path)]) -> Result<Indexed, String> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let log = run_stage(&IndexTable, params, inputs, &out).map_err(|error| error.to_string())?;
    let mut images: Vec<String> = fs::read_dir(out.join("images"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    images.sort();
    let set = SampleSet::read(&out.join("samples")).unwrap();
    let summary = DataSummary::read(&out).unwrap();
    assert_eq!((&set.dataset, &set.classes), (&summary.dataset, &summary.classes));
    Ok(Indexed { samples: set.samples, summary, log, images })
}

/// A folder with these files.
fn folder(dir: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let root = dir.join("folder");
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    root
}

/// The same as a tar, in gzip or not.
fn tar(dir: &Path, files: &[(String, Vec<u8>)], gzip: bool) -> PathBuf {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("./{name}"), bytes.as_slice()).unwrap();
    }
    let mut bytes = tar.into_inner().unwrap();
    if gzip {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &bytes).unwrap();
        bytes = packed.finish().unwrap();
    }
    let path = dir.join(if gzip { "images.tar.gz" } else { "images.tar" });
    fs::write(&path, bytes).unwrap();
    path
}

/// Pictures 1 to `count`, each of its own shade, below `prefix`.
fn pictures(prefix: &str, count: u8) -> Vec<(String, Vec<u8>)> {
    (1..=count).map(|number| (format!("{prefix}{number}.png"), png(number))).collect()
}

/// A table and six pictures in a folder.
fn index_text(name: &str, text: &str, params: &str) -> Result<Indexed, String> {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join(name);
    fs::write(&table, text).unwrap();
    let images = folder(dir.path(), &pictures("pictures/", 6));
    index(&format!("(name: \"pets\", {params})"), &[("images", &images), ("table", &table)])
}

#[test]
fn a_table_in_any_form_with_pictures_in_any_form_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let lines: Vec<Vec<&str>> = TABLE.lines().map(|line| line.split(',').collect()).collect();
    let object = |row: &Vec<&str>| {
        let object: serde_json::Map<_, _> =
            lines[0].iter().zip(row).map(|(name, cell)| ((*name).to_owned(), (*cell).into())).collect();
        serde_json::Value::Object(object).to_string()
    };
    let json: Vec<String> = lines[1..].iter().map(object).collect();
    let tables = [
        write("pets.csv", TABLE.to_owned()),
        write("semicolons.csv", TABLE.replace(',', ";").replace('\n', "\r\n")),
        write("pets.tsv", format!("\u{feff}{}", TABLE.replace(',', "\t"))),
        write("pets.jsonl", json.join("\n")),
    ];
    let files = pictures("some/where/", 6);
    let images = [
        folder(dir.path(), &files),
        zip(dir.path(), &files),
        tar(dir.path(), &files, false),
        tar(dir.path(), &files, true),
    ];
    let params = format!("(name: \"pets\", {CLASSES})");
    let expected = index(&params, &[("images", &images[0]), ("table", &tables[0])]).unwrap();
    let labels: Vec<Option<Label>> = expected.samples.iter().map(|sample| sample.label).collect();
    let (no, yes) = (Some(Label::One(0)), Some(Label::One(1)));
    assert_eq!(labels, [no, yes, no, yes, None, yes]);
    assert_eq!(
        [Split::Train, Split::Val, Split::Test].map(|split| expected.ids(split).join("")),
        ["12", "34", "56"]
    );
    assert_eq!(expected.images, ["1.png", "2.png", "3.png", "4.png", "5.png", "6.png"]);
    let split = &expected.summary.splits[2];
    assert_eq!((split.file.as_str(), split.listed, split.samples), ("pets.csv (test)", 2, 2));
    assert_eq!((&split.by_class[..], split.unlabelled), (&[0, 1][..], 1));
    // As Hateful Memes calls the column.
    let named = write("img.csv", TABLE.replace("id,image", "id,img"));
    let found = index(&params, &[("images", &images[0]), ("table", &named)]).unwrap();
    assert_eq!(found.samples, expected.samples);
    for table in &tables {
        for images in &images {
            let found = index(&params, &[("images", images), ("table", table)]).unwrap();
            assert_eq!(found.samples, expected.samples, "{} {}", table.display(), images.display());
            assert_eq!(found.images, expected.images);
        }
    }
}

#[test]
fn image_folders_of_hugging_face_have_their_splits_by_folder() {
    let metadata = |label: u8| {
        format!(
            "{{\"file_name\": \"1.png\", \"text\": \"a\", \"label\": {label}}}\n{{\"file_name\": \"2.png\", \"text\": \"b\", \"label\": 1}}\n"
        )
    };
    let mut files = Vec::new();
    for (at, split) in ["train", "validation", "test"].into_iter().enumerate() {
        files.extend(pictures(&format!("data/{split}/"), 2));
        files.push((format!("data/{split}/metadata.jsonl"), metadata(at as u8 % 2).into_bytes()));
    }
    let dir = tempfile::tempdir().unwrap();
    for images in [folder(dir.path(), &files), zip(dir.path(), &files), tar(dir.path(), &files, true)] {
        let found = index("(name: \"pets\")", &[("images", &images)]).unwrap();
        assert_eq!(found.ids(Split::Val), ["1.png", "2.png"]);
        assert_eq!(found.samples.len(), 6);
        // Files of one name in several folders have names of their own.
        assert_eq!(found.images.len(), 6);
        assert_eq!(found.samples[0].image, "data_test_1.png");
        let files: Vec<&str> = found.summary.splits.iter().map(|split| split.file.as_str()).collect();
        assert_eq!(files[0], "data/train/metadata.jsonl (train)");
    }
    // One table at the root, with paths.
    let mut files = pictures("train/", 2);
    files.extend(pictures("dev/", 1));
    let table = "file_name,text,label\ntrain/1.png,a,0\ntrain/2.png,b,1\ndev/1.png,c,1\n";
    files.push(("metadata.csv".to_owned(), table.as_bytes().to_vec()));
    let dir = tempfile::tempdir().unwrap();
    let found = index("(name: \"pets\")", &[("images", &folder(dir.path(), &files))]).unwrap();
    assert_eq!(
        (found.ids(Split::Train), found.ids(Split::Val)),
        (vec!["train/1.png", "train/2.png"], vec!["dev/1.png"])
    );
    assert_eq!(found.images, ["2.png", "dev_1.png", "train_1.png"]);
    let dir = tempfile::tempdir().unwrap();
    let error =
        index("(name: \"pets\")", &[("images", &folder(dir.path(), &pictures("", 2)))]).err().unwrap();
    assert!(error.contains("holds no metadata.csv and no metadata.jsonl among its 2 files"), "{error}");
    let parquet = [("metadata.parquet".to_owned(), b"PAR1".to_vec())];
    let dir = tempfile::tempdir().unwrap();
    let error = index("(name: \"pets\")", &[("images", &folder(dir.path(), &parquet))]).err().unwrap();
    assert!(error.contains("holds `metadata.parquet`, which is not read here"), "{error}");
}

#[test]
fn splits_come_by_file_and_a_rule_divides_training() {
    let dir = tempfile::tempdir().unwrap();
    let images = zip(dir.path(), &pictures("", 40));
    let rows = |ids: std::ops::RangeInclusive<u8>| {
        let row = |id| format!("{id}\t{id}\tt{id}\t{}\n", id % 2);
        "id\timage\ttext\tlabel\n".to_owned() + &ids.map(row).collect::<String>()
    };
    let path = |name: &str| dir.path().join(name);
    for (name, ids) in [("a.tsv", 1..=20), ("b.tsv", 21..=30), ("c.tsv", 31..=40)] {
        fs::write(path(name), rows(ids)).unwrap();
    }
    let (train, val, test) = (path("a.tsv"), path("b.tsv"), path("c.tsv"));
    let by_file = [("images", &*images), ("train", &*train), ("val", &*val), ("test", &*test)];
    let found = index("(name: \"pets\")", &by_file).unwrap();
    let sizes = |found: &Indexed| -> Vec<(String, usize)> {
        found.summary.splits.iter().map(|split| (split.file.clone(), split.samples)).collect()
    };
    assert_eq!(sizes(&found), [("a.tsv".into(), 20), ("b.tsv".into(), 10), ("c.tsv".into(), 10)]);
    // Pictures are named without their ending.
    assert_eq!(found.samples[0].image, "1.png");
    // A validation split out of training; the test split stays.
    let params = "(name: \"pets\", split: (val: 0.2))";
    let found = index(params, &[by_file[0], by_file[1], by_file[3]]).unwrap();
    assert_eq!(sizes(&found), [("a.tsv".into(), 16), ("a.tsv (val)".into(), 4), ("c.tsv".into(), 10)]);
    let hateful: Vec<usize> = found.summary.splits.iter().map(|split| split.hateful).collect();
    assert_eq!(hateful, [8, 2, 5]);
    let error = index(params, &by_file).err().unwrap();
    assert!(error.contains("is in the split `val`, of which `split` makes another"), "{error}");
    // All of it out of one table.
    let params = "(name: \"pets\", split: (val: 0.25, test: 0.25, seed: 3))";
    let found = index(params, &[by_file[0], ("table", &*train)]).unwrap();
    let names = ["a.tsv (train)", "a.tsv (val)", "a.tsv (test)"];
    assert_eq!(
        sizes(&found),
        names.map(|name| (name.to_owned(), if name.contains("train") { 10 } else { 5 }))
    );
    assert_eq!(found.summary.listed, 20);
    let rule = &found.summary.choices["splits"];
    assert_eq!(
        rule,
        "by shares, 0.25 val and 0.25 test, stratified, seed 3; no picture and no text and no group in two splits"
    );
}

#[test]
fn a_rule_keeps_pictures_texts_and_groups_in_one_split() {
    let dir = tempfile::tempdir().unwrap();
    // Thirty pictures, of which each two have the same bytes; groups of five rows.
    let files: Vec<_> = (0..30u8).map(|at| (format!("{at}.png"), png(at / 2))).collect();
    let images = zip(dir.path(), &files);
    let row = |at: usize| format!("{at},{at}.png,text {at},{},author {}\n", at % 2, at / 5);
    let table = dir.path().join("memes.csv");
    fs::write(&table, "id,image,text,label,author\n".to_owned() + &(0..30).map(row).collect::<String>())
        .unwrap();
    let inputs = [("images", &*images), ("table", &*table)];
    let params = |columns: &str| format!("(name: \"m\", columns: ({columns}), split: (val: 0.2, test: 0.2))");
    for (columns, together) in [("", 2), ("group: \"author\"", 10)] {
        let found = index(&params(columns), &inputs).unwrap();
        let splits: BTreeMap<usize, Split> =
            found.samples.iter().map(|sample| (sample.id.parse().unwrap(), sample.split)).collect();
        for at in 0..30 {
            assert_eq!(splits[&at], splits[&(at / together * together)], "{columns} {at}");
        }
        assert!(found.summary.overlaps.iter().all(|overlap| overlap.pictures == Some(0)));
    }
    // With one picture for all there is nothing to divide.
    let one = zip(dir.path(), &(0..30u8).map(|at| (format!("{at}.png"), png(1))).collect::<Vec<_>>());
    let error = index(&params(""), &[("images", &one), inputs[1]]).err().unwrap();
    assert!(
        error.contains("holds no samples that can be used: there are too few, or too many of them share"),
        "{error}"
    );
    let loose = "(name: \"m\", split: (val: 0.2, test: 0.2, share_pictures: true))";
    assert_eq!(index(loose, &[("images", &one), inputs[1]]).unwrap().ids(Split::Val).len(), 6);
}

#[test]
fn what_is_wrong_with_a_table_is_named() {
    for (text, params, problem) in [
        (
            "id,image,txt,label\n",
            "split: (val: 0.1)",
            "has no column `text`; the nearest is `txt`, of `id`, `image`, `txt`, `label`; name the one that holds the text: `columns: (text: \"…\")`",
        ),
        (TABLE, "columns: (label: \"lable\")", "has no column `lable`; the nearest is `label`, of"),
        (TABLE, "columns: (group: \"author\")", "has no column `author`"),
        ("id,image,text,label\n1,1.png,a,0\n", "", "nothing says which split its rows are in"),
        ("id,image,text,label,split\n", "", "holds no rows"),
        ("<!DOCTYPE html><title>Sign in</title>", "", "is a web page (`Sign in`)"),
        (
            "id,image,text,label,split,who\n1,1.png,a,0,train,x\n2,2.png,b,0,val,x\n",
            "columns: (group: \"who\")",
            "the group `x` is in two splits: `train` in pets.csv line 2, `val` in line 3",
        ),
    ] {
        let error = index_text("pets.csv", text, params).err().unwrap();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    for (params, problem) in [
        ("(name: \"A b\")", "`name` is `A b`"),
        ("()", "missing field named `name`"),
        ("(name: \"a\", classes: [\"x\"])", "names 1 of them"),
        ("(name: \"a\", classes: [\"x\", \"x\"])", "names `x` twice"),
        ("(name: \"a\", classes: [\"x\", \" \"])", "an empty name"),
        ("(name: \"a\", split: (val: 1.5))", "leave something for training"),
        ("(name: \"a\", max_dropped: 2.0)", "a share, from 0 to 1"),
        ("(name: \"a\", column: ())", "unexpected field named `column`"),
    ] {
        let error = AnyStage::load(&IndexTable, params).err().unwrap();
        assert!(error.message.to_lowercase().contains(&problem.to_lowercase()), "{problem}: {error}");
    }
    let loaded = AnyStage::load(&IndexTable, "(name: \"a\", columns: (split: \"s\"))").unwrap();
    assert!(loaded.check_wiring(&["images", "table"]).is_ok());
    assert!(loaded.check_wiring(&["images", "train"]).unwrap_err().contains("ports already say"));
    assert!(loaded.check_wiring(&["images", "train", "table"]).unwrap_err().contains("reads either `table`"));
}

#[test]
fn invalid_rows_are_dropped_up_to_a_share_with_file_line_and_reason() {
    let rows = [
        "id,image,text,label,split",
        "1,1.png,one,cat,train",
        "2,2.png,two,bird,train",
        "3,3.png,three,cat,later",
        "1,4.png,again,dog,train",
        "5,../5.png,five,dog,val",
        "6,7.png,six,dog,val",
        "7,6.png",
        ",5.png,no id,dog,val",
        "8,2.png,eight,dog,val",
        "9,3.png,nine,dog,",
    ];
    let error = index_text("pets.csv", &rows.join("\n"), CLASSES).err().unwrap();
    for part in [
        "8 of 10 entries cannot be used, 80.00 %; `max_dropped` allows 0.50 %",
        "pets.csv line 3: 2: label is `bird`; it may be `cat` or `dog` (bad label)",
        "pets.csv line 4: split is `later`; it may be train, val or test (bad split)",
        "pets.csv line 5: 1: an earlier line of the split has this id (id twice in a split)",
        "pets.csv line 6: 5: `../5.png` is not the name of a picture (bad name)",
        "pets.csv (val) line 7: 6: `7.png`: the archive has no picture `7.png` (missing picture)",
        "pets.csv line 8: has 2 fields, the first line 5 (invalid line)",
        "pets.csv line 9: its id is ``; it must be",
        "pets.csv line 11: nothing says which split it is in; to divide such rows",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let found = index_text("pets.csv", &rows.join("\n"), &format!("{CLASSES}, max_dropped: 0.8")).unwrap();
    assert_eq!((found.ids(Split::Train), found.ids(Split::Val)), (vec!["1"], vec!["8"]));
    assert_eq!((found.summary.listed, found.summary.dropped), (10, 8));
    let notes = found.log.notes.lock().unwrap().join("\n");
    assert!(notes.contains("bad split: 2, dropped\n  pets.csv line 4"), "{notes}");
    assert!(
        notes.contains(
            "columns: id in `id`, image in `image`, text in `text`, label in `label`, split in `split`"
        ),
        "{notes}"
    );
}

#[test]
fn unreadable_pictures_above_the_share_and_names_of_two_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("pets.csv");
    fs::write(&table, "id,image,text,label,split\n1,1.png,a,0,train\n2,2.png,b,1,val\n3,x/3.png,c,1,val\n")
        .unwrap();
    let mut files = pictures("a/x/", 3);
    files[0].1.truncate(40);
    files[1].1 = b"no picture".to_vec();
    files.push(("b/x/3.png".to_owned(), png(9)));
    let images = folder(dir.path(), &files);
    let error = index("(name: \"pets\")", &[("images", &images), ("table", &table)]).err().unwrap();
    for part in [
        "3 of 3 entries cannot be used, 100.00 %",
        "1: `a/x/1.png`: ",
        "(truncated picture)",
        "2: `a/x/2.png`: ",
        "(unreadable picture)",
        "`x/3.png` may be 2 files, such as `a/x/3.png` and `b/x/3.png`; give more of the path (bad name)",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn more_classes_than_two_and_rows_with_several_are_read() {
    let rows = |labels: [&str; 6]| -> String {
        let row = |(at, label): (usize, &&str)| {
            format!("{0},{0}.png,text {0},{label},{1}\n", at + 1, ["train", "val", "test"][at % 3])
        };
        format!("id,image,text,label,split\n{}", labels.iter().enumerate().map(row).collect::<String>())
    };
    let classes = "classes: [\"cat\", \"dog\", \"other bird\"]";
    let found = |text: &str, params: &str| -> Result<Vec<Option<Label>>, String> {
        let indexed = index_text("pets.csv", text, params)?;
        Ok(indexed.samples.iter().map(|sample| sample.label).collect())
    };
    let one = |class: u8| Some(Label::One(class));
    let labels = found(&rows(["cat", "other bird", "1", "2.0", "", "dog"]), classes).unwrap();
    assert_eq!(labels, [one(0), one(2), one(1), one(2), None, one(1)]);
    for wrong in ["3", "bird", "-1", "cat;dog"] {
        let error = found(&rows(["cat", wrong, "dog", "cat", "dog", "cat"]), classes).unwrap_err();
        assert!(error.contains("it may be `cat` or `dog` or `other bird`"), "{error}");
    }
    let several = |classes: &[u8]| Some(Label::Several(classes.iter().copied().collect()));
    let params = format!("{classes}, multi_label: true");
    let labels = found(&rows(["cat", "dog; cat", "", "1|2", "other bird", "cat;cat"]), &params).unwrap();
    let expected = [&[0][..], &[0, 1], &[], &[1, 2], &[2], &[0]];
    assert_eq!(labels, expected.map(several));
    // JSON has lists, and tells no label from no class.
    let line = |at: usize, label: &str| {
        let split = ["train", "val", "test"][at % 3];
        format!(
            "{{\"id\":{at},\"image\":\"{}.png\",\"text\":\"x{at}\",\"label\":{label},\"split\":\"{split}\"}}\n",
            at + 1
        )
    };
    let cells = ["[\"cat\",2]", "[]", "null", "[1]", "\"dog\"", "[0]"];
    let text: String = cells.iter().enumerate().map(|(at, cell)| line(at, cell)).collect();
    let labels = |params: &str| -> Result<Vec<_>, String> {
        Ok(index_text("pets.jsonl", &text, params)?.samples.iter().map(|sample| sample.label).collect())
    };
    let expected = [several(&[0, 2]), several(&[]), None, several(&[1]), several(&[1]), several(&[0])];
    assert_eq!(labels(&params).unwrap(), expected);
    assert!(
        labels(classes).unwrap_err().contains("its label is a list; where a sample may have several classes")
    );
    for (params, problem) in [
        ("classes: [\"a\"]", "names 1 of them; name 2 to 64"),
        ("multi_label: true", "several classes that `classes` names"),
        ("classes: [\"a\", \"b;c\"], multi_label: true", "`;` and `|` separate them"),
    ] {
        let error = index_text("pets.csv", TABLE, params).err().unwrap();
        assert!(error.contains(problem), "{error}");
    }
}
