//! Predictions for memes that no step has made.

use std::fs;
use std::path::{Path, PathBuf};

use repro::store::ContentStore;
use serde_json::{Value, json};

use super::project::{Project, made};

/// What a step has made.
fn output(project: &Project, step: &str) -> PathBuf {
    let store = ContentStore::open(&project.path("cache")).unwrap();
    let record = store.records().into_iter().find(|record| record.step == step).unwrap();
    store.open_tree(&record.tree).unwrap().to_path_buf()
}

/// The memes of the split `test` of Hateful Memes, as anybody's: a line each, and a folder of pictures beside.
fn anybodys(project: &Project, folder: &Path) -> Vec<String> {
    let made = output(project, "hmd-samples");
    fs::create_dir(folder.join("pictures")).unwrap();
    let rows = fs::read_to_string(made.join("samples/samples.jsonl")).unwrap();
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
    let line = |row: Value| {
        let image = row["image"].as_str().unwrap();
        fs::copy(made.join("images").join(image), folder.join("pictures").join(image)).unwrap();
        json!({"id": row["id"], "img": format!("pictures/{image}"), "text": row["text"]}).to_string()
    };
    rows.filter(|row| row["split"] == "test").map(line).collect()
}

#[test]
fn memes_of_a_file_get_the_scores_they_get_as_a_data_set() {
    let (made, folder) = (made(), tempfile::tempdir().unwrap());
    let mut lines = anybodys(&made.project, folder.path());
    assert_eq!(lines.len(), 4);
    let file = folder.path().join("memes.jsonl");
    let predict = |more: &[&str]| made.project.run(&[&["predict", "hmd-pe-train"], more].concat());
    let given = |lines: &[String], more: &[&str]| {
        fs::write(&file, lines.join("\n")).unwrap();
        predict(&[&["--memes", file.to_str().unwrap()], more].concat())
    };

    let own = predict(&[]).expect(0).out;
    assert!(own.starts_with("id,proba,label\r\n") && own.lines().count() == 5, "{own}");
    assert_eq!(given(&lines, &[]).expect(0).out, own);

    let told = given(&lines, &["--split", "val"]).expect(2).err;
    assert!(told.contains("leave out --tokens, --regions and --split"), "{told}");
    lines[1] = lines[0].clone();
    let told = given(&lines, &[]).expect(1).err;
    assert!(told.contains("line 2") && told.contains("on an earlier line"), "{told}");
    for (line, expected) in [
        (json!({"id": "x", "img": "pictures/none.png", "text": ""}), "pictures/none.png"),
        (json!({"id": "x", "img": "memes.jsonl", "text": ""}), "no .png, .jpg or .jpeg"),
        (json!({"id": "x", "img": "pictures/none.png"}), "missing field `text`"),
    ] {
        lines[1] = line.to_string();
        let told = given(&lines, &[]).expect(1).err;
        assert!(told.contains("line 2") && told.contains(expected), "{told}");
    }
    assert!(given(&[], &[]).expect(1).err.contains("holds no memes"));
}
