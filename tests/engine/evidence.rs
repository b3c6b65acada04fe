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

/// The lines of a text.
fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn what_the_evidence_knows_is_shown_as_such() {
    let clone = clone(&built());
    let status = clone.run(&["status", "-v"]).expect(0).out;
    assert_eq!(
        lines(&status),
        [
            "fresh    data   from evidence",
            "fresh    train  from evidence",
            "fresh    score  from evidence",
            "stale    table  not built in this cache; the evidence knows what it reads",
            "stale    curve  not built in this cache; the evidence knows what it reads",
            "fresh    sheet  from evidence",
            "waiting  page   for table, curve",
            "7 steps: 4 fresh (4 from evidence), 2 stale, 1 waiting",
        ]
    );
    let why = clone.run(&["why", "train"]).expect(0).out;
    let why = lines(&why);
    assert!(why[0].starts_with("train is fresh: the evidence records a result of key "), "{why:?}");
    assert!(why[1].starts_with("  ran just now, took ") && why[1].contains(", on "), "{why:?}");
    assert_eq!(why[2..], ["  the evidence holds its record, not its bytes"]);
    let why = clone.run(&["why", "data"]).expect(0).out;
    assert!(why.contains("  the evidence holds file1 of it, not file0\n"), "{why}");
    let why = clone.run(&["why", "score"]).expect(0).out;
    assert!(why.ends_with("  the evidence holds all of it\n"), "{why}");

    let shown: serde_json::Value =
        serde_json::from_str(&clone.run(&["show", "score", "--json"]).expect(0).out).unwrap();
    assert_eq!(shown["result"]["bytes_there"], true);
    assert_eq!(shown["from_evidence"], true);
    assert!(shown["result"]["folder"].as_str().unwrap().ends_with("reports/evidence/mini/trees/score"));
    let shown = clone.run(&["show", "data"]).expect(0).out;
    for line in [
        "state    fresh, from evidence\n",
        "600.0 KiB  file1\n",
        " not here  file0\n",
        "files    2 files, 1.2 MiB\n",
    ] {
        assert!(shown.contains(line), "{line} is missing in {shown}");
    }
    assert!(shown.contains("reports/evidence/mini/trees/data\n") && !shown.contains("cache"), "{shown}");
    assert!(!clone.path("cache").exists(), "nothing was written");

    // As soon as it is built here, it is as any other result.
    clone.run(&["make", "train", "--no-evidence"]).expect(0);
    let status = clone.run(&["status", "-v", "score"]).expect(0).out;
    assert_eq!(lines(&status)[..3], ["fresh    data", "fresh    train", "fresh    score  from evidence"]);
}

#[test]
fn a_dry_run_names_what_the_evidence_does_not_hold() {
    let clone = clone(&built());
    clone.steps(&format!(
        "{STEPS}(name: \"more\", stage: \"join\", inputs: {{\"in\": [\"train\", \"data/file0\"]}}),"
    ));
    let run = clone.run(&["make", "more", "--dry-run"]).expect(0);
    let expected = [
        "stale    data   the evidence knows its result but does not hold what `train` needs of it",
        "stale    train  the evidence knows its result but does not hold what `more` needs of it",
        "stale    more   no earlier run of it is known",
        "3 steps: 0 fresh, 3 stale",
    ];
    assert_eq!(lines(&run.out)[..4], expected);
    assert!(
        run.out.contains("by earlier runs about ") && run.out.contains("is known: more\n"),
        "{}",
        run.out
    );
}

#[test]
fn values_that_the_evidence_holds_are_shown() {
    let steps = r#"
        (name: "train", stage: "join", params: (text: "four")),
        (name: "curve", stage: "join", inputs: {"in": ["train/text"]}, publish: "."),
        (name: "other", stage: "join"),
        (name: "sheet", stage: "join", inputs: {"in": ["other/text"]}, publish: "sheet"),
    "#;
    let origin = TestSpace::new(steps);
    origin.make().expect(0);
    origin.run(&["evidence"]).expect(0);
    let clone = clone(&origin);
    let log = clone.run(&["log", "train"]).expect(0);
    assert_eq!(lines(&log.out), ["update  length", "     1  4.0000"]);
    let where_it_is = "`train` is from the evidence: it ran just now, took ";
    assert!(
        log.err.starts_with(where_it_is) && log.err.contains("and its log stayed there\n"),
        "{}",
        log.err
    );
    let log: serde_json::Value =
        serde_json::from_str(&clone.run(&["log", "train", "--json"]).expect(0).out).unwrap();
    let values = serde_json::json!({"length": [{"at": 1, "value": 4.0}]});
    assert_eq!(
        (&log["from_evidence"], &log["log"], &log["values"]),
        (&true.into(), &serde_json::Value::Null, &values)
    );
    let watched = clone.run(&["watch", "train"]).expect(0).out;
    assert!(watched.starts_with("length: 4.0000 at 1\n"), "{watched}");

    // Bytes that were changed do not count.
    clone.write("reports/evidence/mini/trees/other/text", "forged");
    let watched = clone.run(&["watch", "other"]).expect(2).err;
    assert!(
        watched.starts_with("error: no value of step `other` is here: it ran just now, took "),
        "{watched}"
    );
    assert!(
        watched.contains("hint: its result is from the evidence, which keeps no values of it"),
        "{watched}"
    );
    let log = clone.run(&["log", "other"]).expect(0);
    assert!(log.out.is_empty() && log.err.contains("its log stayed there"), "{}", log.err);
    // A tool that needs all of it says what is missing.
    let read = clone.run(&["read", "other"]).expect(1).err;
    assert!(
        read.contains("the result of step `other` is from the evidence, which does not hold all of it"),
        "{read}"
    );
    assert!(read.contains("run `repro make other --no-evidence`"), "{read}");
}
