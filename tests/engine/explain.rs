//! `why`, `status`, `list` and `graph`: their output for people.

use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "words", stage: "join", params: (text: "one"), inputs: {"in": ["./file"]}),
    (name: "middle", stage: "join", inputs: {"in": ["words/text"]}),
    (name: "end", stage: "join", params: (text: "end"), inputs: {"in": ["middle"]}),
"#;

fn why(space: &TestSpace, step: &str) -> String {
    space.run(&["why", step]).expect(0).out
}

/// The first digits of the digest of a file with this text.
fn short(text: &str) -> String {
    repro::digest::Digest::of_bytes(text.as_bytes()).to_string()[..12].to_owned()
}

fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("file", "f");
    assert!(why(&space, "words").contains("words must run:\n  no earlier run of it is known"));
    space.make().expect(0);
    space
}

#[test]
fn a_fresh_step_shows_when_it_ran() {
    let space = built();
    let text = why(&space, "end");
    assert!(text.starts_with("end is fresh: key "), "{text}");
    assert!(text.contains("ran just now, took") && text.contains("no earlier run of it is known"), "{text}");
}

#[test]
fn a_changed_param_is_named_with_both_values() {
    let space = built();
    space.steps(&STEPS.replace("\"end\")", "\"fin\", style: (loud: true))"));
    assert_eq!(
        why(&space, "end"),
        "end must run:\n  param text: \"end\" -> \"fin\"\n  param style.loud: false -> true\n"
    );
}

#[test]
fn a_changed_file_is_named() {
    let space = built();
    space.write("file", "g");
    let (old, new) = (short("f"), short("g"));
    assert_eq!(
        why(&space, "words"),
        format!("words must run:\n  input in (./file) changed: {old} -> {new}\n")
    );
}

#[test]
fn a_changed_file_in_a_folder_of_the_project_is_named() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", inputs: {"in": ["./data"]}),"#);
    space.write("data/one", "1");
    space.write("data/two", "2");
    space.make().expect(0);
    space.write("data/two", "3");
    space.write("data/three", "3");
    let expected = "a must run:\n  input in (./data) changed: three added, two changed\n";
    assert_eq!(why(&space, "a"), expected);
}

#[test]
fn a_waiting_step_names_the_step_whose_change_it_waits_for() {
    let space = built();
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    assert_eq!(
        why(&space, "end"),
        "end may have to run: it waits for steps above it\n  \
         `words` must run first:\n    param text: \"one\" -> \"two\"\n"
    );
    let status = space.run(&["status"]).expect(0).out;
    assert!(status.contains("stale    words   param text: \"one\" -> \"two\"\n"), "{status}");
    assert!(status.contains("waiting  end     for words\n"), "{status}");
    assert!(status.ends_with("3 steps: 0 fresh, 1 stale, 2 waiting\n"), "{status}");
}

#[test]
fn an_input_is_followed_to_the_param_that_changed_it() {
    let space = built();
    space.steps(&STEPS.replace("\"one\"", "\"two\""));
    space.run(&["make", "middle"]).expect(0);
    let (old, new) = (short("one(f)"), short("two(f)"));
    let expected = format!(
        "end must run:\n  \
         input in (middle) changed: parts/0 changed, text changed\n    \
         because `middle` ran again:\n      \
         input in (words/text) changed: {old} -> {new}\n        \
         because `words` ran again:\n          \
         param text: \"one\" -> \"two\"\n"
    );
    assert_eq!(why(&space, "end"), expected);
    space.make().expect(0);
    assert!(why(&space, "end").contains("because `words` ran again:"), "the reason stays afterwards");
}

#[test]
fn json_has_the_same_content() {
    let space = built();
    space.steps(&STEPS.replace("\"end\")", "\"fin\")"));
    let text = space.run(&["why", "end", "--json"]).expect(0).out;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["state"], "stale");
    assert_eq!(value["causes"][0]["name"], "text");
    assert_eq!(value["causes"][0]["new"], "\"fin\"");
    let events = space.run(&["make", "--json"]).expect(0).out;
    let events: Vec<serde_json::Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["event"] == "finished" && event["step"] == "end"));
    for command in ["status", "list", "graph"] {
        let text = space.run(&[command, "--json"]).expect(0).out;
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{command}: {text}");
    }
}

#[test]
fn list_and_graph_show_the_pipeline() {
    let space = built();
    let list = space.run(&["list"]).expect(0).out;
    assert!(list.contains("profile mini: toys") && list.contains("  words   join\n"), "{list}");
    let stages = space.run(&["list", "--stages"]).expect(0).out;
    assert!(stages.contains("head         keeps the beginning of a text\n"), "{stages}");
    let graph = space.run(&["graph"]).expect(0).out;
    assert!(graph.contains("middle (join) fresh\n  in <- words/text\n"), "{graph}");
    assert!(space.run(&["graph", "--format", "dot"]).expect(0).out.contains("s0 -> s1;"));
    assert!(space.run(&["graph", "--format", "mermaid"]).expect(0).out.contains("s1 --> s2\n"));
}
