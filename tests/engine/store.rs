//! The cache when something is missing or damaged, and when two want it.

use std::fs;

use super::process::finished;
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "a")),
    (name: "b", stage: "join", params: (text: "b"), inputs: {"in": ["a"]}),
    (name: "c", stage: "join", params: (text: "c"), inputs: {"in": ["b"]}),
"#;

#[test]
fn a_damaged_record_counts_as_absent_and_is_said() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let trees = space.trees();
    let record = space.path(&format!("cache/records/{}", space.record("b").key_text.key()));
    let mut bytes = fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&record, bytes).unwrap();
    let run = space.make().expect(0);
    assert_eq!(run.ran(), ["b"]);
    assert!(run.err.contains("the record is damaged and counts as absent"), "{}", run.err);
    assert_eq!(space.trees(), trees);
}

#[test]
fn missing_bytes_matter_only_to_a_step_that_must_run() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    for name in space.cached("trees") {
        fs::remove_dir_all(space.path("cache/trees").join(name)).unwrap();
    }
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    space.steps(&STEPS.replace("\"c\")", "\"d\")"));
    assert_eq!(space.make().expect(0).ran(), ["a", "b", "c"]);
    for tree in ["a", "c"] {
        fs::remove_dir_all(space.path(&format!("cache/trees/{}", space.record(tree).tree))).unwrap();
    }
    space.steps(&STEPS.replace("\"c\")", "\"e\")"));
    assert_eq!(space.make().expect(0).ran(), ["c"], "nobody that must run reads `a`");
}

#[test]
fn a_lost_manifest_is_read_from_the_bytes() {
    let space = TestSpace::new("(name: \"a\", stage: \"join\", params: (text: \"a\"), publish: \".\"),");
    space.make().expect(0);
    fs::remove_dir_all(space.path("cache/manifests")).unwrap();
    fs::remove_dir_all(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert_eq!(space.read("reports/mini/text"), "a");
}

#[test]
fn trees_are_read_only_and_the_cache_is_marked_as_one() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let text = space.path(&format!("cache/trees/{}/text", space.record("a").tree));
    assert!(fs::metadata(text).unwrap().permissions().readonly());
    assert!(space.read("cache/CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    assert!(space.cached("work").is_empty());
    assert!(space.read(&format!("cache/{}", space.record("a").log)).contains("joined"));
}

#[test]
fn a_cache_of_another_version_is_refused() {
    let space = TestSpace::new(STEPS);
    space.write("cache/VERSION", "999\n");
    let run = space.make().expect(1);
    assert!(run.err.contains("another version of this program (999"), "{}", run.err);
    assert!(run.err.contains("hint: "), "{}", run.err);
}

#[test]
fn two_at_once_share_the_work() {
    let space = TestSpace::new(&STEPS.replace("\"a\")", "\"a\", ms: 600)"));
    let first = space.spawn(&["make"]);
    while space.cached("work").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = space.make().expect(0);
    let first = finished(first.wait_with_output().unwrap()).expect(0);
    assert_eq!(first.ran(), ["a", "b", "c"]);
    assert_eq!(second.ran(), [""; 0]);
    assert!(
        second.err.contains("waiting for process ") && second.err.contains("nothing to do"),
        "{}",
        second.err
    );
}

#[test]
fn the_same_inputs_give_the_same_trees_in_another_place() {
    let (one, two) = (TestSpace::new(STEPS), TestSpace::new(STEPS));
    one.make().expect(0);
    two.run(&["make", "-j", "1"]).expect(0);
    assert_eq!(one.trees(), two.trees());
}

#[test]
fn a_folder_that_holds_other_things_is_no_cache_and_stays_as_it_is() {
    let space = TestSpace::new(STEPS);
    let thesis = ["mine", "work", "thesis.txt"].join("/");
    space.write(&thesis, "years of it");
    let run = space.run(&["make", "--cache", "mine"]).expect(2);
    assert!(run.err.contains("is not a cache of this program: it holds `work`"), "{}", run.err);
    assert_eq!(space.read(&thesis), "years of it");
    assert_eq!(fs::read_dir(space.path("mine")).unwrap().count(), 1);
}

#[test]
fn forcing_a_step_repairs_its_bytes_and_needs_no_target() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let text = format!("cache/trees/{}/text", space.record("b").tree);
    let whole = space.read(&text);
    fs::remove_file(space.path(&text)).unwrap();
    space.write(&text, "damaged");
    assert_eq!(space.run(&["make", "a", "--force", "b"]).expect(0).ran(), ["b"]);
    assert_eq!(space.read(&text), whole);
}

#[test]
fn two_names_for_one_piece_of_work_run_once() {
    let twin = r#"(name: "twin", stage: "join", params: (text: "a")),"#;
    for jobs in ["1", "2"] {
        let space = TestSpace::new(&format!("{STEPS}{twin}"));
        let run = space.run(&["make", "-j", jobs, "a", "twin"]).expect(0);
        assert_eq!(run.ran().len(), 1, "{}", run.err);
        assert!(space.run(&["make", "a", "twin"]).expect(0).err.contains("nothing to do"));
    }
}

#[test]
fn a_listener_that_went_away_stops_nothing() {
    let space = TestSpace::new(STEPS);
    let mut child = space.command(&["make", "c"]).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(space.trees().len(), 3);
}
