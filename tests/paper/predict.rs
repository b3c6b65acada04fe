//! Predictions for memes of a file, by imported runs, and of other systems.

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

    // A table of another form, whose rows have no ids.
    let line = |line: &String| -> Value { serde_json::from_str(line).unwrap() };
    let cell = |value: &Value| format!("\"{}\"", value.as_str().unwrap().replace('"', "\"\""));
    let rows = lines.iter().map(line).map(|row| format!("{};{}\n", cell(&row["img"]), cell(&row["text"])));
    let table = folder.path().join("memes.csv");
    fs::write(&table, format!("file_name;text\n{}", rows.collect::<String>())).unwrap();
    let of_table = predict(&["--memes", table.to_str().unwrap()]).expect(0).out;
    let scores = |csv: &str| -> Vec<String> {
        csv.lines().skip(1).map(|row| row.split_once(',').unwrap().1.to_owned()).collect()
    };
    assert_eq!(scores(&of_table), scores(&own));
    fs::write(&table, "file_name,words\n").unwrap();
    assert!(predict(&["--memes", table.to_str().unwrap()]).expect(1).err.contains("holds no memes"));
    fs::write(&table, "file_name,words\na.png,x\n").unwrap();
    let told = predict(&["--memes", table.to_str().unwrap()]).expect(1).err;
    assert!(told.contains("has no column `text`, of `file_name`, `words`"), "{told}");

    // One meme at a time.
    for (line, row) in lines.iter().zip(own.lines().skip(1)) {
        let line: Value = serde_json::from_str(line).unwrap();
        let picture = folder.path().join(line["img"].as_str().unwrap());
        let one = ["--image", picture.to_str().unwrap(), "--text", line["text"].as_str().unwrap()];
        let probability = row.split(',').nth(1).unwrap();
        assert_eq!(predict(&one).expect(0).out.trim_end(), probability);
        let json: Value =
            serde_json::from_str(&predict(&[&one[..], &["--json"]].concat()).expect(0).out).unwrap();
        assert_eq!(json[0]["proba"].to_string(), probability);
    }
    for (picture, why) in [("none.png", "No such file"), ("memes.jsonl", "is not a .png, .jpg or .jpeg file")]
    {
        fs::write(&file, "").unwrap();
        let picture = folder.path().join(picture);
        let told = predict(&["--image", picture.to_str().unwrap(), "--text", "x"]).expect(1).err;
        assert!(told.contains(why), "{told}");
    }
    assert!(predict(&["--image", "a.png"]).expect(2).err.contains("--text <TEXT>"));

    let told = given(&lines, &["--split", "val"]).expect(2).err;
    assert!(told.contains("'--memes <FILE>' cannot be used with '--split <NAME>'"), "{told}");
    lines[1] = lines[0].clone();
    let told = given(&lines, &[]).expect(1).err;
    assert!(told.contains("line 2") && told.contains("on an earlier line"), "{told}");
    for (line, expected) in [
        (json!({"id": "x", "img": "pictures/none.png", "text": ""}), "pictures/none.png"),
        (json!({"id": "x", "img": "memes.jsonl", "text": ""}), "is not a .png, .jpg or .jpeg file"),
        (json!({"id": "x", "img": "pictures/none.png"}), "has no `text`"),
    ] {
        lines[1] = line.to_string();
        let told = given(&lines, &[]).expect(1).err;
        assert!(told.contains("line 2") && told.contains(expected), "{told}");
    }
    assert!(given(&[], &[]).expect(1).err.contains("holds no memes"));
}

/// `text`, a pipeline, with `more` before its first step.
fn with_steps(text: &str, more: &str) -> String {
    text.replacen("\n    steps: [\n", &format!("\n    steps: [\n{more}"), 1)
}

#[test]
fn an_exported_run_is_imported_with_equal_predictions() {
    let project = made().project.copy();
    let config = fs::read(output(&project, "hmd-pe-train").join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let heads = config["num_attention_heads"].as_u64().unwrap();
    let export = |run: &str, form: &str, out: &str| {
        project.run(&["export", run, "--to", form, "--out", out]).expect(0);
    };
    export("hmd-pe-train", "mmf", "run.pth");
    export("hmd-pe-train", "huggingface", "exported");
    // Its model card has what the evaluations found, and an example that tests/reference/model_card.py runs.
    let card = fs::read_to_string(project.path("exported/README.md")).unwrap();
    for expected in [
        "library_name: transformers",
        "license: unknown",
        "| hmd | val |",
        " to ",
        "step `hmd-pe-train`",
        "\"--most\"",
    ] {
        assert!(card.contains(expected), "{expected}: {card}");
    }
    let vocabulary = fs::read_to_string(project.path("exported/vocab.txt")).unwrap();
    assert_eq!(vocabulary, fs::read_to_string(output(&project, "vocabulary").join("vocab.txt")).unwrap());
    let steps = format!(
        r#"
        (name: "mmf-run", stage: "import-run", params: (dataset: "hmd", config: (num_attention_heads: {heads})),
         inputs: {{"archive": "./run.pth"}}),
        (name: "huggingface-run", stage: "import-run", params: (dataset: "hmd"), inputs: {{"archive": "./exported"}}),
        (for: {{"from": ["mmf", "huggingface"]}}, name: "from-{{from}}", stage: "evaluate",
         inputs: {{"run": "{{from}}-run", "tokens": "hmd-tokens", "regions": "hmd-regions"}}),
        (name: "given", stage: "evaluate", params: (name: "theirs"),
         inputs: {{"predictions": "./theirs.csv", "tokens": "hmd-tokens"}}),
    "#
    );
    project.write(&with_steps(&project.text(), &steps));
    project.run(&["make", "from-mmf", "from-huggingface"]).expect(0);
    let read = |step: &str, file: &str| fs::read_to_string(output(&project, step).join(file)).unwrap();
    let own = project.run(&["predict", "hmd-pe-train"]).expect(0).out;
    for from in ["mmf", "huggingface"] {
        for file in ["predictions.csv", "scores.csv"] {
            assert_eq!(read(&format!("from-{from}"), file), read("hmd-pe", file), "{from}");
        }
        // The memes are those of the step that evaluates it.
        let run = format!("{from}-run");
        assert_eq!(project.run(&["predict", &run]).expect(0).out, own);
        export(&run, "mmf", "again.pth");
        let bytes = |file: &str| fs::read(project.path(file)).unwrap();
        assert!(bytes("run.pth") == bytes("again.pth"), "{from}");
    }

    // A file of predictions that is not there is asked for; one that is gets what the run got.
    let refused = project.run(&["make", "given"]).expect(3);
    let message = refused.out + &refused.err;
    assert!(message.contains("columns id and proba"), "{message}");
    fs::write(project.path("theirs.csv"), read("hmd-pe", "predictions.csv")).unwrap();
    project.run(&["make", "given"]).expect(0);
    assert_eq!(read("given", "predictions.csv"), read("hmd-pe", "predictions.csv"));
    let metrics = |step: &str| serde_json::from_str::<Value>(&read(step, "metrics.json")).unwrap();
    let (given, own) = (metrics("given"), metrics("hmd-pe"));
    for name in ["roc_auc", "accuracy", "f1", "average_precision", "calibration_error", "intervals"] {
        assert_eq!(given[name], own[name], "{name}");
    }
}
