//! What reruns after an edit, and what does not.

use super::support::TestSpace;

const CHAIN: &str = r#"
    (name: "a", stage: "join", params: (text: "hello"), inputs: {"in": ["./word"]}),
    (name: "cut", stage: "head", params: (chars: 4), inputs: {"in": ["a/text"]}),
    (name: "b", stage: "join", params: (text: "b"), inputs: {"in": ["cut"]}),
    (name: "other", stage: "join", params: (text: "x")),
"#;

fn chain() -> TestSpace {
    let space = TestSpace::new(CHAIN);
    space.write("word", "world");
    assert_eq!(space.make().expect(0).ran(), ["a", "b", "cut", "other"]);
    space
}

#[test]
fn nothing_changed_nothing_runs() {
    let space = chain();
    let again = space.make().expect(0);
    assert_eq!(again.ran(), [""; 0]);
    assert_eq!(again.err, "nothing to do: 4 steps fresh\n");
}

#[test]
fn comments_spacing_names_and_needs_change_nothing() {
    let space = chain();
    space.steps(&format!("// a comment\n{}", CHAIN.replace("chars: 4", "chars :  4")));
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    space.steps(&CHAIN.replace("\"other\", stage", "\"renamed\", needs: (cpu: 2), stage"));
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
}

#[test]
fn a_changed_param_runs_the_step_and_its_readers() {
    let space = chain();
    space.steps(&CHAIN.replace("\"b\")", "\"c\")"));
    assert_eq!(space.make().expect(0).ran(), ["b"]);
    space.steps(&CHAIN.replace("hello", "jello"));
    assert_eq!(space.make().expect(0).ran(), ["a", "b", "cut"]);
    space.steps(CHAIN);
    assert_eq!(space.make().expect(0).ran(), [""; 0], "the earlier result is still known");
}

#[test]
fn the_same_output_ends_the_chain() {
    let space = chain();
    space.write("word", "there");
    let run = space.make().expect(0);
    assert_eq!(run.ran(), ["a", "cut"], "the first four characters are as before");
    assert!(run.err.contains("cut done in") && run.err.contains("same output as before"), "{}", run.err);
}

#[test]
fn a_change_outside_of_the_read_part_runs_nothing() {
    let steps = r#"
        (name: "a", stage: "join", params: (text: "TEXT"), inputs: {"in": ["./one", "./two"]}),
        (name: "first", stage: "join", inputs: {"in": ["a/parts/0"]}),
        (name: "all", stage: "join", inputs: {"in": ["a/parts"]}),
    "#;
    let space = TestSpace::new(steps);
    space.write("one", "1");
    space.write("two", "2");
    space.run(&["make", "first", "all"]).expect(0);
    space.write("two", "3");
    assert_eq!(space.run(&["make", "first", "all"]).expect(0).ran(), ["a", "all"]);
}

#[test]
fn a_touched_file_runs_nothing_and_a_folder_counts_by_content() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", inputs: {"in": ["./data"]}),"#);
    space.write("data/x", "1");
    space.write("data/y", "2");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    space.write("data/x", "1");
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    space.write("data/z", "3");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
}

#[test]
fn only_steps_that_a_target_needs_run() {
    let space = TestSpace::new(CHAIN);
    space.write("word", "world");
    assert_eq!(space.run(&["make", "cut"]).expect(0).ran(), ["a", "cut"]);
}

#[test]
fn a_forced_step_runs_and_its_readers_only_if_it_wrote_something_else() {
    let space = chain();
    assert_eq!(space.run(&["make", "--force", "a"]).expect(0).ran(), ["a"]);
    let steps = r#"
        (name: "dice", stage: "trouble", params: (how: "random")),
        (name: "b", stage: "join", inputs: {"in": ["dice"]}),
    "#;
    space.steps(steps);
    assert_eq!(space.make().expect(0).ran(), ["b", "dice"]);
    assert_eq!(space.run(&["make", "--force", "dice"]).expect(0).ran(), ["b", "dice"]);
}

#[test]
fn a_dry_run_runs_nothing() {
    let space = TestSpace::new(CHAIN);
    space.write("word", "world");
    let run = space.run(&["make", "--dry-run"]).expect(0);
    assert!(run.out.contains("stale    a"), "{}", run.out);
    assert!(run.out.contains("waiting  b      for a"), "{}", run.out);
    assert!(!space.path("cache").exists());
}

#[test]
fn independent_steps_run_at_the_same_time() {
    let steps: String = (0..4)
        .map(|i| format!("(name: \"s{i}\", stage: \"join\", params: (text: \"{i}\", ms: 400)),\n"))
        .collect();
    let space = TestSpace::new(&steps);
    space.run(&["make", "-j", "4"]).expect(0);
    let records: Vec<_> = (0..4).map(|i| space.record(&format!("s{i}"))).collect();
    let last_start = records.iter().map(|record| record.started_ms).max().unwrap();
    let first_end =
        records.iter().map(|record| record.started_ms + (record.seconds * 1000.0) as u64).min().unwrap();
    assert!(last_start < first_end, "all four overlapped");
}

#[test]
fn a_step_gets_the_threads_it_needs_and_no_more_than_there_are() {
    let space = TestSpace::new(
        r#"(name: "one", stage: "join", params: (text: "1")),
           (name: "many", stage: "join", params: (text: "2"), needs: (cpu: 64, gpu: 1)),"#,
    );
    space.run(&["make", "-j", "3"]).expect(0);
    let log = |step: &str| space.read(&format!("cache/{}", space.record(step).log));
    assert_eq!(log("one"), "joined on cpu with 1 threads (1)\n");
    assert_eq!(log("many"), "joined on cpu with 3 threads (3)\n");
}
