//! Evidence: what a fresh clone builds from it without data, what it does not allow, and that only intact evidence
//! counts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::support::TestSpace;

/// A step whose data is too large for evidence, training, evaluation, and a published step. `sheet` reads the data.
const STEPS: &str = r#"
    (name: "data", stage: "fill", params: (seed: 1, kilobytes: 600, files: 2)),
    (name: "train", stage: "join", params: (text: "t"), inputs: {"in": ["data/file0"]}, needs: (gpu: 1)),
    (name: "score", stage: "head", params: (chars: 9), inputs: {"in": ["train/text"]}),
    (name: "table", stage: "join", params: (text: "T"), inputs: {"in": ["score", "data/file1"]}, publish: "tables"),
    (name: "curve", stage: "join", params: (text: "C"), inputs: {"in": ["score/text", "./paper.csv"]}, publish: "curves"),
    (name: "sheet", stage: "head", params: (chars: 5), inputs: {"in": ["data"]}, publish: "sheet"),
    (name: "page", stage: "join", params: (text: "P"), inputs: {"in": ["table/text", "curve/text"]}, publish: "."),
"#;

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("paper.csv", "1,2\n");
    space.run(&["make"]).expect(0);
    space.run(&["evidence"]).expect(0);
    space
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            if item.path().is_dir() {
                folders.push(item.path());
            } else {
                found.insert(
                    item.path().strip_prefix(root).unwrap().to_owned(),
                    fs::read(item.path()).unwrap(),
                );
            }
        }
    }
    found
}

/// A clone: what git holds, and no cache.
fn clone(of: &TestSpace) -> TestSpace {
    let clone = TestSpace::new("");
    for (path, bytes) in files(&of.path("")) {
        if !path.starts_with("cache") {
            let path = clone.path(path.to_str().unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    clone
}

fn reports(of: &TestSpace) -> BTreeMap<PathBuf, Vec<u8>> {
    files(&of.path("reports/mini"))
}

#[test]
fn a_fresh_clone_builds_the_reports_from_evidence_byte_for_byte() {
    let origin = built();
    let clone = clone(&origin);
    let committed = reports(&clone);
    fs::remove_dir_all(clone.path("reports/mini")).unwrap();
    let run = clone.run(&["make", "--deny-pool", "gpu"]).expect(0);
    assert_eq!(run.ran(), ["curve", "page", "table"], "{}", run.err);
    assert!(run.err.contains("(4 by the evidence; --no-evidence runs them here)"), "{}", run.err);
    assert_eq!((reports(&clone), reports(&clone).len()), (committed, reports(&origin).len()));
    assert!(clone.run(&["make"]).expect(0).err.starts_with("nothing to do: 7 steps fresh"));
    // Evidence that was written from evidence, or written twice, is the same.
    let evidence = files(&clone.path("reports/evidence"));
    clone.run(&["evidence"]).expect(0);
    assert_eq!(files(&clone.path("reports/evidence")), evidence);
    origin.run(&["evidence"]).expect(0);
    assert_eq!(files(&origin.path("reports/evidence")), evidence);
}

#[test]
fn it_holds_inputs_of_published_steps_or_their_results_if_inputs_are_too_large() {
    let origin = built();
    let held: Vec<String> =
        files(&origin.path("reports/evidence/mini")).keys().map(|path| path.display().to_string()).collect();
    assert_eq!(held, ["records.jsonl", "trees/data/file1", "trees/score/text", "trees/sheet/text"]);
    let run = origin.run(&["evidence", "--json"]).expect(0);
    let expected: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        expected["by_result"],
        serde_json::json!(["sheet"]),
        "its input is larger than a repository should hold"
    );
    let run = origin.run(&["evidence", "--largest", "1 B"]).expect(2);
    assert!(run.err.contains("reads more than 1 B, and what it wrote takes"), "{}", run.err);
    origin.steps(&STEPS.replace("\"t\"", "\"u\""));
    let run = origin.run(&["evidence"]).expect(4);
    assert!(run.err.contains("no evidence is written: step `train` is not up to date"), "{}", run.err);
}

#[test]
fn a_change_that_needs_training_is_an_error_with_a_reason() {
    let clone = clone(&built());
    for (old, new, expected) in [
        ("(text: \"t\")", "(text: \"u\")", "`train`: param text: \"t\" -> \"u\""),
        ("seed: 1", "seed: 2", "`train`: it waits for `data`: param seed: 1 -> 2"),
    ] {
        clone.steps(&STEPS.replace(old, new));
        let run = clone.run(&["make", "--deny-pool", "gpu"]).expect(4);
        assert!(run.err.contains(expected), "{}", run.err);
    }
    // Steps that only use the results may change.
    clone.steps(&STEPS.replace("\"T\"", "\"U\""));
    assert_eq!(clone.run(&["make", "--deny-pool", "gpu"]).expect(0).ran(), ["curve", "page", "table"]);
}

#[test]
fn reports_that_differ_from_the_evidence_are_reported_and_stay() {
    let clone = clone(&built());
    clone.run(&["make", "--check"]).expect(0);
    clone.write("reports/mini/tables/text", "better numbers");
    let before = reports(&clone);
    for _ in 0..2 {
        let run = clone.run(&["make", "--check", "--deny-pool", "gpu"]).expect(4);
        assert!(
            run.err.contains("error: --check: 1 file in") && run.err.contains("  tables/text"),
            "{}",
            run.err
        );
        assert_eq!(reports(&clone), before);
    }
    let run = clone.run(&["make", "--check", "--json"]).expect(4);
    let ended: serde_json::Value = serde_json::from_str(run.out.lines().last().unwrap()).unwrap();
    assert_eq!(ended["differing"], serde_json::json!(["tables/text"]));
    clone.run(&["make"]).expect(0);
    clone.run(&["make", "--check"]).expect(0);
}

#[test]
fn damaged_evidence_does_not_count() {
    let clone = clone(&built());
    clone.write("reports/evidence/mini/trees/score/text", "forged");
    let run = clone.run(&["make", "--deny-pool", "gpu"]).expect(4);
    assert!(run.err.contains("`train`: "), "its result would have to be built again: {}", run.err);
    clone.write("reports/evidence/mini/records.jsonl", "<<<<<<< HEAD\n");
    let run = clone.run(&["make"]).expect(2);
    assert!(run.err.contains("records.jsonl:1: this line is not a record of a step"), "{}", run.err);
    // Without evidence all steps run here.
    let run = clone.run(&["make", "--no-evidence"]).expect(0);
    assert_eq!(run.ran(), ["curve", "data", "page", "score", "sheet", "table", "train"]);
}

#[test]
fn removed_evidence_invalidates_the_dependency_snapshot() {
    let clone = clone(&built());
    clone.run(&["make"]).expect(0);
    assert!(clone.run(&["make"]).expect(0).err.starts_with("nothing to do"));
    fs::remove_dir_all(clone.path("reports/evidence")).unwrap();
    let run = clone.run(&["make", "--deny-pool", "gpu"]).expect(4);
    assert!(run.err.contains("`train`: it waits for `data`: no earlier run of it is known"), "{}", run.err);
}

#[test]
fn commands_that_read_the_cache_use_it_too() {
    let clone = clone(&built());
    let status = clone.run(&["status", "-v", "train", "score"]).expect(0).out;
    assert_eq!(status.matches("fresh").count(), 4, "{status}");
    assert!(clone.run(&["why", "train"]).expect(0).out.contains("is fresh"));
    let shown: serde_json::Value =
        serde_json::from_str(&clone.run(&["show", "score", "--json"]).expect(0).out).unwrap();
    assert_eq!(shown["result"]["bytes_there"], true);
    assert!(shown["result"]["folder"].as_str().unwrap().ends_with("reports/evidence/mini/trees/score"));
    assert!(!clone.path("cache").exists(), "nothing was written");
}
