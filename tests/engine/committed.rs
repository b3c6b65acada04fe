//! How a run and `repro diff --first` compare results with the committed ones: equal, or the first step that differs.
//! And settings of the machine, which change no key.

use std::fs;

use serde_json::{Value, json};

use super::process::Run;
use super::support::TestSpace;

/// Three steps, of which the middle one writes what the kernels compute; and a published one that does not depend on
/// it.
const STEPS: &str = r#"
    (name: "data", stage: "fill", params: (seed: 1, kilobytes: 1)),
    (name: "train", stage: "trouble", params: (how: "kernels"), inputs: {"in": ["data"]}),
    (name: "table", stage: "join", params: (text: "T"), inputs: {"in": ["train/numbers.json"]}, publish: "tables"),
    (name: "about", stage: "join", params: (text: "A"), publish: "about"),
"#;

const TABLES: [&str; 2] = ["reports/mini/tables/parts/0", "reports/mini/tables/text"];

/// A project with committed reports and evidence, and no cache.
fn committed() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    space.run(&["evidence"]).expect(0);
    commit(&space);
    forget(&space);
    space
}

fn commit(space: &TestSpace) {
    space.write(".gitignore", "/cache\n");
    space.git(&["init", "-q"]);
    space.git(&["add", "."]);
    space.git(&["commit", "-qm", "one"]);
}

fn forget(space: &TestSpace) {
    fs::remove_dir_all(space.path("cache")).unwrap();
}

/// A run without evidence and with other kernels.
fn make_with(space: &TestSpace, kernels: &str, args: &[&str]) -> Run {
    let args = [&["make", "--no-evidence"], args].concat();
    super::process::finished(space.command(&args).env("TOY_KERNELS", kernels).output().unwrap())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn diff(space: &TestSpace) -> Value {
    serde_json::from_str(&space.run(&["diff", "--first", "--json"]).expect(0).out).unwrap()
}

#[test]
fn a_run_reports_that_it_reproduced_the_committed_reports() {
    let space = committed();
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(run.err.ends_with("\n3 reports, the same bytes as committed\n"), "{}", run.err);
    // Nothing ran, so nothing is compared.
    assert_eq!(space.make().expect(0).err, "nothing to do: 4 steps fresh\n");
    let text = space.run(&["diff", "--first"]).expect(0);
    assert_eq!(text.out, "no step differs from what is committed; 4 steps compared\n");
    assert_eq!(text.err, "");

    // For a part of the reports, only that part is compared.
    forget(&space);
    let run = space.run(&["make", "about", "--no-evidence", "--json"]).expect(0);
    let values = json!({"verdict": "", "intervals": 0, "significant": []});
    let reports = json!({"same": 1, "changed": [], "new": [], "gone": [], "values": values});
    let steps = json!({"same": 1, "differing": [], "first": []});
    assert_eq!(json(&run.out)["reproduction"], json!({"reports": reports, "steps": steps}));
    // Reports that are built from the evidence are compared too.
    let run = space.make().expect(0);
    assert!(run.err.contains("(2 by the evidence"), "{}", run.err);
    assert!(run.err.ends_with("\n3 reports, the same bytes as committed\n"), "{}", run.err);
}

#[test]
fn the_first_step_that_differs_is_named_with_its_differences() {
    let space = committed();
    let run = make_with(&space, "wide", &[]).expect(0);
    let text = "\n2 of 3 reports not as committed: reports/mini/tables/parts/0 (changed), \
        reports/mini/tables/text (changed)\n\
        no reported value differs\n\
        2 steps gave other results than the committed ones, `train` first: see `repro diff --first`\n";
    assert!(run.err.ends_with(text), "{}", run.err);
    let steps = json!({"same": 2, "differing": ["train", "table"], "first": ["train"]});
    forget(&space);
    let run = make_with(&space, "wide", &["--json"]).expect(0);
    // The reports are those of the last run and still differ from the committed ones.
    assert_eq!(json(&run.out)["published"], 0);
    let values = json!({"verdict": "no reported value differs", "intervals": 0, "significant": []});
    let reports = json!({"same": 1, "changed": TABLES, "new": [], "gone": [], "values": values});
    assert_eq!(json(&run.out)["reproduction"], json!({"reports": reports, "steps": steps}));

    let text = space.run(&["diff", "--first"]).expect(0).out;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "train: the same key, other bytes");
    assert!(lines[1].starts_with("  committed  key ") && lines[1].contains(" (cpu, 1 thread), "), "{text}");
    assert!(lines[2].starts_with("  now        key "), "{text}");
    assert_eq!(
        lines[3], "  numbers.json has numbers with a relative difference of 2.00e-1",
        "evidence has its bytes"
    );
    assert!(
        lines[4].starts_with("  weights has different bytes: ")
            && lines[4].ends_with("(the evidence does not hold the committed bytes)"),
        "{text}"
    );
    assert_eq!(lines[5..], ["1 step below differs too"]);

    let found = diff(&space);
    assert_eq!(found["differing"], json!(["train", "table"]));
    assert_eq!(found["same"], json!(["data", "about"]));
    let [first] = found["first"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&first["step"], &first["causes"]), (&json!("train"), &json!([])));
    assert_eq!(first["committed"]["key"], first["now"]["key"]);
    assert_ne!(first["committed"]["tree"], first["now"]["tree"]);
    assert_eq!(first["files"][0]["path"], "numbers.json");

    // Without the bytes of the evidence, only digests are shown.
    space.write("reports/evidence/mini/trees/train/numbers.json", "{\"loss\": 0.5}");
    let text = space.run(&["diff", "--first"]).expect(0).out;
    assert!(text.contains("  numbers.json has different bytes: "), "{text}");
}

#[test]
fn another_key_is_explained_as_in_why() {
    let space = committed();
    // The training gives the same with other data, so the difference does not reach the reports.
    space.steps(&STEPS.replace("seed: 1", "seed: 2"));
    let text = "\n3 reports, the same bytes as committed\n\
        step `data` gave another result than the committed one: see `repro diff --first`; \
        if this is intended, `repro evidence` renews the evidence\n";
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(run.err.ends_with(text), "{}", run.err);

    space.steps(&STEPS.replace("seed: 1", "seed: 2").replace("\"A\"", "\"B\""));
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(
        run.err.contains("\n1 of 3 reports not as committed: reports/mini/about/text (changed)\n"),
        "{}",
        run.err
    );
    let text = space.run(&["diff", "--first"]).expect(0).out;
    assert!(
        text.starts_with("data: another key than committed\n  param seed: 1 -> 2\n  committed  key "),
        "{text}"
    );
    // Only its reports prove a published step.
    let about = text.split_once("about: other reports than committed\n").unwrap().1;
    assert!(about.contains("  reports/mini/about/text has different words\n"), "{text}");
    assert!(!text.contains("train") && !text.contains("below"), "{text}");
}

#[test]
fn without_committed_reports_nothing_is_printed() {
    let space = TestSpace::new(STEPS);
    let run = space.make().expect(0);
    assert!(!run.err.contains("commit") && !run.err.contains("evidence"), "{}", run.err);
    assert_eq!(
        json(&space.run(&["make", "--force", "data", "--json"]).expect(0).out)["reproduction"],
        Value::Null
    );
    let run = space.run(&["diff", "--first"]).expect(2);
    assert!(
        run.err.contains("no result of the profile `mini` is committed") && run.err.contains("hint: "),
        "{}",
        run.err
    );
    // A repository without a commit, and one without the reports.
    space.git(&["init", "-q"]);
    assert!(!space.run(&["make", "--force", "data"]).expect(0).err.contains("commit"));
    space.git(&["add", "pipeline.ron"]);
    space.git(&["commit", "-qm", "one"]);
    assert!(!space.run(&["make", "--force", "data"]).expect(0).err.contains("commit"));
    space.run(&["diff", "--first"]).expect(2);
    // Reports without evidence.
    commit(&space);
    let run = make_with(&space, "wide", &["--force", "train"]).expect(0);
    assert!(run.err.contains("step `table` gave another result than the committed one: see"), "{}", run.err);
    let text = space.run(&["diff", "--first"]).expect(0);
    assert!(text.out.starts_with("table: other reports than committed\n"), "{}", text.out);
    assert!(
        text.out
            .contains("  reports/mini/tables/parts/0 has numbers with a relative difference of 2.00e-1\n"),
        "{}",
        text.out
    );
    assert!(text.err.contains("2 steps not compared"), "{}", text.err);
}

#[test]
fn without_git_the_steps_are_compared_with_the_evidence() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    space.run(&["evidence"]).expect(0);
    forget(&space);
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(run.err.ends_with("\n2 steps, the same results as the evidence records\n"), "{}", run.err);
    forget(&space);
    let run = make_with(&space, "wide", &[]).expect(0);
    assert!(
        run.err.ends_with(
            "\nstep `train` gave another result than the committed one: see `repro diff --first`\n"
        ),
        "{}",
        run.err
    );
}

#[test]
fn damaged_evidence_does_not_stop_a_run() {
    let space = committed();
    space.write("reports/evidence/mini/records.jsonl", "<<<<<<< HEAD\n");
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(run.err.contains("warning: results are not compared with the evidence: "), "{}", run.err);
    assert!(run.err.ends_with("3 reports, the same bytes as committed\n"), "{}", run.err);
    let run = space.run(&["diff", "--first"]).expect(2);
    assert!(run.err.contains("records.jsonl:1: this line is not a record of a step"), "{}", run.err);
}

#[test]
fn new_and_missing_reports_differ_from_the_committed_ones() {
    let space = committed();
    // A report that a person has removed is built again.
    fs::remove_file(space.path(TABLES[1])).unwrap();
    let run = space.run(&["make", "--no-evidence"]).expect(0);
    assert!(run.err.contains("\npublished 1 file in "), "{}", run.err);
    assert!(run.err.ends_with("\n3 reports, the same bytes as committed\n"), "{}", run.err);
    // A report that no step publishes any longer, and one that no step has published.
    space.steps(
        &STEPS
            .replace("\"about\", stage", "\"news\", stage")
            .replace("publish: \"about\"", "publish: \"news\""),
    );
    let run = space.make().expect(0);
    let text = "\n2 of 4 reports not as committed: reports/mini/news/text (not committed), \
        reports/mini/about/text (committed, and no longer built)\n";
    assert!(run.err.ends_with(text), "{}", run.err);
    let found = diff(&space);
    assert_eq!((&found["first"], &found["not_compared"]), (&json!([]), &json!(["news"])));
    // A report of another target is not missing.
    fs::remove_file(space.path(TABLES[1])).unwrap();
    let run = space.run(&["make", "news", "--force", "news"]).expect(0);
    assert!(run.err.contains("1 of 1 report not as committed: reports/mini/news/text"), "{}", run.err);
}

#[test]
fn an_unsupported_setting_ends_a_run_before_its_first_step() {
    let space = TestSpace::new(STEPS);
    let run = make_with(&space, "huge", &[]).expect(2);
    assert_eq!(
        run.err,
        "error: TOY_KERNELS is `huge`, which this machine does not have\nhint: set it to plain or wide, or unset it\n"
    );
    assert_eq!(space.records(), 0);
    let doctor = |kernels: &str| {
        let mut command = space.command(&["doctor"]);
        super::process::finished(command.env("TOY_KERNELS", kernels).output().unwrap())
    };
    assert!(doctor("wide").out.contains("toy kernels  wide (of plain, wide)\n"), "{}", doctor("wide").out);
    let text = doctor("huge").expect(3).out;
    assert!(text.contains("PROBLEM  toy kernels  TOY_KERNELS is `huge`"), "{text}");

    // The steps see it, but it is not part of a key.
    make_with(&space, "wide", &[]).expect(0);
    assert_eq!(space.read("reports/mini/tables/parts/0"), "{\"loss\": 0.5}");
    assert!(make_with(&space, "plain", &[]).expect(0).err.starts_with("nothing to do"));
}
