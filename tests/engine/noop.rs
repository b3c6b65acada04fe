//! A run with nothing to do: its cost, and that every change is noticed.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use super::process::finished;
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "command", inputs: {"in": ["./one", "./two"]},
     params: (run: ["cat", "{input.in}"], stdout: "text", pass_env: ["COUNTED"])),
    (name: "b", stage: "join", inputs: {"in": ["a/text"]}, publish: "."),
"#;

/// A project in which `make` has found twice that there is nothing to do, the second time without planning.
fn done() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("one", "1");
    space.write("two", "2");
    space.make().expect(0);
    // Older than a tick of the clock, so that the next run can trust their stamps.
    std::thread::sleep(Duration::from_millis(60));
    for _ in 0..2 {
        assert_eq!(space.make().expect(0).err, "nothing to do: 2 steps fresh\n");
    }
    space
}

/// The number of lines of the state log with this prefix after their checksum.
fn lines(space: &TestSpace, word: &str) -> usize {
    space.read("cache/state").lines().filter(|line| line[17..].starts_with(word)).count()
}

#[test]
fn the_second_time_nothing_is_planned_hashed_or_written() {
    let space = done();
    assert_eq!(lines(&space, "up-to-date "), 1);
    let before = space.read("cache/state");
    assert_eq!(space.make().expect(0).err, "nothing to do: 2 steps fresh\n");
    assert_eq!(space.read("cache/state"), before);
    // Missing files were not needed: no pipeline was loaded, no record was decoded.
    fs::remove_dir_all(space.path("cache/pipelines")).unwrap();
    space.make().expect(0);
    assert!(!space.path("cache/pipelines").exists());
}

#[test]
fn a_second_target_has_its_own_dependency_snapshot() {
    let space = TestSpace::new(
        r#"
    (name: "a", stage: "join", params: (text: "a")),
    (name: "b", stage: "join", params: (text: "b")),
    (name: "c", stage: "join", params: (text: "c")),
"#,
    );
    let targets = "targets: {\"more\": [\"b\"], \"all\": [\"a\"]}";
    space.write("pipeline.ron", &space.read("pipeline.ron").replace("targets: {}", targets));
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    assert_eq!(space.run(&["make", "--with", "more"]).expect(0).ran(), ["b"]);
    let done = space.run(&["make", "--with", "more"]).expect(0);
    assert_eq!(done.err, "nothing to do: 2 steps fresh\n");
    assert_eq!(space.run(&["make", "b", "--with", "c"]).expect(0).ran(), ["c"]);
    let unknown = space.run(&["make", "--with", "mroe"]).expect(2);
    assert!(
        unknown.err.contains("no target or step `mroe`") && unknown.err.contains("more"),
        "{}",
        unknown.err
    );
}

#[test]
fn a_touched_source_costs_one_hash() {
    let space = done();
    let known = lines(&space, "file ");
    let touched = File::options().append(true).open(space.path("one")).unwrap();
    touched.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
    std::thread::sleep(Duration::from_millis(60));
    for _ in 0..2 {
        assert_eq!(space.make().expect(0).err, "nothing to do: 2 steps fresh\n");
        assert_eq!(lines(&space, "file "), known + 1);
        assert_eq!(lines(&space, "up-to-date "), 1, "the dependency snapshot is still valid");
    }
}

#[test]
fn every_change_of_the_dependency_snapshot_is_noticed() {
    let expect = |what: &str, change: &dyn Fn(&TestSpace), ran: &[&str]| {
        let space = done();
        change(&space);
        assert_eq!(space.make().expect(0).ran(), ran, "{what}");
        assert!(space.make().expect(0).err.contains("nothing to do"), "{what}");
    };
    expect("a source", &|space| space.write("one", "0"), &["a", "b"]);
    expect(
        "the pipeline",
        &|space| space.steps(&STEPS.replace("\"join\"", "\"join\", params: (text: \"x\")")),
        &["b"],
    );
    expect("a comment", &|space| space.steps(&format!("// nothing\n{STEPS}")), &[]);
    expect(
        "a lost record",
        &|space| {
            let store = repro::store::ContentStore::open(&space.path("cache")).unwrap();
            store.lock(&mut |_| {}).unwrap().forget(&space.record("b").key_text.key()).unwrap();
        },
        &["b"],
    );
    let space = done();
    fs::write(space.path("reports/mini/text"), "scribbled").unwrap();
    assert!(space.make().expect(0).err.contains("published 1 file"));
    assert_eq!(space.read("reports/mini/text"), "(12)");
    let space = done();
    fs::remove_file(space.path("two")).unwrap();
    assert!(space.make().expect(2).err.contains("two"));
    let space = done();
    let other = finished(space.command(&["make"]).env("COUNTED", "1").output().unwrap()).expect(0);
    assert_eq!(other.ran(), ["a"]);
    let space = done();
    assert_eq!(space.run(&["make", "--force", "b"]).expect(0).ran(), ["b"]);
    assert_eq!(space.run(&["make", "a"]).expect(0).err, "nothing to do: 1 step fresh\n");
    space.run(&["make", "nonsense"]).expect(2);
    space.run(&["make", "--deny-pool", "nonsense"]).expect(2);
}

#[test]
fn a_damaged_stored_pipeline_is_parsed_again() {
    let space = done();
    for name in space.cached("pipelines") {
        let file = space.path("cache/pipelines").join(name);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    }
    space.write("one", "0");
    assert_eq!(space.make().expect(0).ran(), ["a", "b"]);
}
