//! `accept`: what a person may accept, how it is stored and shown, and when it is an error.

use serde_json::Value;

use super::process::{Run, finished};
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "one"), inputs: {"in": ["./file"]}),
    (name: "b", stage: "join", inputs: {"in": ["a"]}),
"#;

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    space.make().expect(0);
    space
}

/// The program after a raise of VERSION of its stage `join`.
fn later(space: &TestSpace, args: &[&str]) -> Run {
    finished(space.command(args).env("TOY_RAISED", "1").env("USER", "ada").output().unwrap())
}

#[test]
fn a_raised_version_is_accepted_and_shown_everywhere() {
    let space = built();
    let status = later(&space, &["status"]).expect(0).out;
    assert!(status.contains("stale    a  its stage changed: version 1 -> version 2"), "{status}");
    later(&space, &["accept", "a", "b", "--because", "only a comment moved"]).expect(0);
    let run = later(&space, &["make"]).expect(0);
    assert!(run.err.contains("nothing to do"), "{}", run.err);
    assert_eq!(later(&space, &["status"]).expect(0).out, "2 steps: 2 fresh (2 accepted)\n");
    let status = later(&space, &["status", "-v"]).expect(0).out;
    assert!(status.contains("fresh    a  accepted just now by ada@"), "{status}");
    assert!(status.contains(": only a comment moved\n"), "{status}");
    assert!(status.ends_with("2 steps: 2 fresh (2 accepted)\n"), "{status}");
    let why = later(&space, &["why", "a"]).expect(0).out;
    assert!(why.contains("accepted just now by ada@") && why.contains("it did not run though"), "{why}");
    assert!(why.contains("its stage changed: version 1 -> version 2"), "{why}");
    let show = later(&space, &["show", "a"]).expect(0).out;
    assert!(show.contains("accepted just now by ada@"), "{show}");
    assert!(show.contains("from     the result of key "), "{show}");
    let shown: Value = serde_json::from_str(&later(&space, &["show", "a", "--json"]).expect(0).out).unwrap();
    assert_eq!(shown["result"]["record"]["accepted"]["because"], "only a comment moved");
    // An accepted result can be checked: `--force` runs the step, and its record is a real one again.
    later(&space, &["make", "--force", "a"]).expect(0);
    assert!(!later(&space, &["show", "a"]).expect(0).out.contains("accepted"), "a real run replaces it");
}

#[test]
fn changed_params_and_inputs_are_accepted_only_if_they_are_named() {
    let space = built();
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    space.write("file", "g");
    let accept = |args: &[&str]| space.run(&[&["accept", "a", "--because", "same"], args].concat());
    let run = accept(&[]).expect(2);
    assert!(
        run.err.contains("step `a` is not accepted: param text (\"one\" -> \"two\") changed too"),
        "{}",
        run.err
    );
    assert!(run.err.contains("add --param text"), "{}", run.err);
    let run = accept(&["--param", "text"]).expect(2);
    assert!(run.err.contains("input in changed too") && run.err.contains("add --input in"), "{}", run.err);
    let run = accept(&["--param", "text", "--param", "ms", "--input", "in"]).expect(2);
    assert!(run.err.contains("param ms did not change"), "{}", run.err);
    let before = space.trees();
    accept(&["--param", "text", "--input", "in"]).expect(0);
    assert_eq!(space.trees(), before, "the new key has the old tree");
    assert!(space.make().expect(0).err.contains("nothing to do"));
}

#[test]
fn each_of_several_steps_is_accepted_with_its_own_changes() {
    let space = built();
    space.write("file", "g");
    let before = space.trees();
    // Both have another VERSION, but only `a` has other inputs.
    let run = later(&space, &["accept", "a", "b", "--because", "same", "--input", "in"]).expect(0);
    assert!(run.err.contains("`b`: input in did not change; the rest is accepted"), "{}", run.err);
    assert!(!run.err.contains("`a`:") && !run.err.contains("warning"), "{}", run.err);
    assert_eq!(space.trees(), before);
    assert!(later(&space, &["make"]).expect(0).err.contains("nothing to do"));
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    let args = ["accept", "a", "b", "--because", "same", "--param", "text", "--param", "ms"];
    let run = later(&space, &args).expect(0);
    assert!(run.err.contains("warning: param ms changed in none of these steps"), "{}", run.err);
}

#[test]
fn nothing_is_accepted_without_an_earlier_result_or_a_reason() {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    let run = space.run(&["accept", "a", "--because", "x"]).expect(2);
    assert!(run.err.contains("it has no earlier result to accept"), "{}", run.err);
    let run = space.run(&["accept", "b", "--because", "x"]).expect(2);
    assert!(run.err.contains("until `a` has run"), "{}", run.err);
    space.make().expect(0);
    let run = space.run(&["accept", "a", "--because", "x"]).expect(0);
    assert!(run.err.contains("`a` is fresh: there is nothing to accept"), "{}", run.err);
    let tree = space.trees()["b"].clone();
    std::fs::remove_dir_all(space.path("cache/trees").join(tree)).unwrap();
    let run = later(&space, &["accept", "a", "b", "--because", "x"]).expect(2);
    assert!(
        run.err.contains("step `b` is not accepted: the bytes of its last result are not in the cache"),
        "{}",
        run.err
    );
    let run = space.run(&["accept", "a", "--because", " "]).expect(2);
    assert!(run.err.contains("--because is empty"), "{}", run.err);
    space.run(&["accept", "a"]).expect(2);
    let run = space.run(&["accept", "c", "--because", "x"]).expect(2);
    assert!(run.err.contains("there is no step `c`"), "{}", run.err);
}
