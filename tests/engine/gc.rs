//! What `gc` removes and what it never touches; what `verify` reports and compares.

use super::process::{finished, wait_until};
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "one")),
    (name: "b", stage: "join", params: (text: "b"), inputs: {"in": ["a"]}),
"#;

/// A project whose first step ran with three params; the pipeline has the last of them.
fn built() -> TestSpace {
    let space = TestSpace::new(STEPS);
    for text in ["one", "two", "three"] {
        space.steps(&STEPS.replace("one", text));
        space.make().expect(0);
    }
    space
}

#[test]
fn results_of_the_pipeline_stay_and_others_are_shown_and_removed() {
    let space = built();
    let shown = space.run(&["gc", "--dry-run"]).expect(0);
    assert_eq!(shown.out.lines().filter(|line| line.contains("result of ")).count(), 4, "{}", shown.out);
    assert!(
        shown.err.contains("4 items would go with ") && shown.err.contains("; 2 results stay"),
        "{}",
        shown.err
    );
    assert_eq!(space.cached("trees").len(), 6, "nothing went");
    let done = space.run(&["gc"]).expect(0);
    assert_eq!(done.out, shown.out);
    assert_eq!(space.cached("trees").len(), 2);
    assert!(space.make().expect(0).err.contains("nothing to do"));
    // Records stay: a removed result is known, and is built again when it is needed.
    space.steps(&STEPS.replace("one", "two").replace("\"b\")", "\"c\")"));
    assert_eq!(space.make().expect(0).ran(), ["a", "b"]);
}

#[test]
fn results_of_another_pipeline_with_the_same_cache_stay_while_it_can_be_read() {
    let (here, there) = (TestSpace::new(STEPS), TestSpace::new(&STEPS.replace("one", "other")));
    let cache = here.path("cache").display().to_string();
    let run = |space: &TestSpace, args: &[&str]| space.run(&[args, &["--cache", &cache]].concat());
    run(&here, &["make"]).expect(0);
    run(&there, &["make"]).expect(0);
    let results = |text: &str| text.lines().filter(|line| line.contains("result of ")).count();
    assert_eq!(results(&run(&here, &["gc"]).expect(0).out), 0);
    assert!(run(&there, &["make"]).expect(0).err.contains("nothing to do"));
    // A result that it no longer needs is removed, whichever pipeline runs `gc`.
    there.steps(&STEPS.replace("one", "third"));
    run(&there, &["make"]).expect(0);
    assert_eq!(results(&run(&here, &["gc"]).expect(0).out), 2);
    assert_eq!(here.cached("trees").len(), 4);
    // A pipeline that cannot be read stops `gc`.
    std::fs::rename(there.path("pipeline.ron"), there.path("away")).unwrap();
    for args in [&["gc"][..], &["gc", "--dry-run"]] {
        let refused = run(&here, args).expect(2);
        assert!(
            refused.err.contains("has used this cache too") && refused.err.contains("gc --force"),
            "{}",
            refused.err
        );
    }
    assert_eq!(here.cached("trees").len(), 4);
    assert_eq!(results(&run(&here, &["gc", "--force"]).expect(0).out), 2);
    assert_eq!(results(&run(&here, &["gc"]).expect(0).out), 0, "it is forgotten");
}

#[test]
fn limits_keep_more() {
    let space = built();
    let goes = |args: &[&str]| {
        let run = space.run(&[&["gc", "--dry-run"], args].concat()).expect(0);
        run.out.lines().filter(|line| line.contains("result of ")).count()
    };
    assert_eq!(goes(&["--keep", "1h"]), 0);
    assert_eq!(goes(&["--keep", "2"]), 2);
    assert_eq!(goes(&["--keep", "0s"]), 4);
    assert_eq!(goes(&["--max-size", "1GB"]), 0);
    assert_eq!(goes(&["--max-size", "1B"]), 4);
    let oldest = space.run(&["gc", "--max-size", "70B", "--json"]).expect(0).out;
    let oldest: serde_json::Value = serde_json::from_str(&oldest).unwrap();
    assert!(oldest["kept_bytes"].as_u64().unwrap() <= 70, "{oldest}");
    assert!(space.make().expect(0).err.contains("nothing to do"));
    assert!(space.run(&["gc", "--keep", "soon"]).expect(2).err.contains("a duration like"));
}

#[test]
fn a_step_whose_key_is_unknown_keeps_its_last_result() {
    let space = built();
    space.steps(&STEPS.replace("one", "four"));
    // `a` must run. The inputs of `b` are unknown, so its last result may be valid.
    space.run(&["gc"]).expect(0);
    let kept = space.run(&["gc", "--dry-run"]).expect(0);
    assert!(kept.err.contains("0 items") && kept.err.contains("1 result stays"), "{}", kept.err);
}

#[test]
fn results_of_other_profiles_stay_and_a_wrong_pipeline_removes_nothing() {
    let profile = |name: &str, text: &str| {
        format!("(name: \"{name}\", about: \"\", sources: [], defaults: {{\"join\": (text: \"{text}\")}})")
    };
    let space = TestSpace::new("");
    let file = |steps: &str| {
        let profiles = [profile("mini", "m"), profile("paper", "p")].join(", ");
        space.write(
            "pipeline.ron",
            &format!("(default_profile: \"mini\", profiles: [{profiles}], steps: [{steps}], targets: {{}})"),
        );
    };
    file("(name: \"a\", stage: \"join\")");
    space.make().expect(0);
    space.run(&["make", "--profile", "paper"]).expect(0);
    assert!(space.run(&["gc"]).expect(0).err.contains("2 results stay"));
    file("(name: \"a\", stage: \"jion\")");
    space.run(&["gc"]).expect(2);
    assert_eq!(space.cached("trees").len(), 2);
}

#[test]
fn it_waits_for_a_run_and_removes_none_of_its_results() {
    let steps = STEPS.replace("\"one\"", "\"slow\", ms: 700");
    let space = TestSpace::new(&steps);
    let run = space.spawn(&["make"]);
    wait_until("it runs", || !space.cached("work").is_empty());
    let collected = space.run(&["gc"]).expect(0);
    assert!(
        collected.err.contains("waiting for ") && collected.err.contains("2 results stay"),
        "{}",
        collected.err
    );
    finished(run.wait_with_output().unwrap()).expect(0);
    assert!(space.make().expect(0).err.contains("nothing to do"));
}

#[test]
fn the_folders_of_dead_runs_are_removed() {
    let space = built();
    for name in ["work", "scratch", "logs"] {
        let key = "0".repeat(64);
        space
            .write(&format!("cache/{name}/{key}{}", if name == "logs" { ".log" } else { "-x/file" }), "left");
    }
    let run = space.run(&["gc"]).expect(0);
    for what in ["folder of a dead run", "scratch of an attempt", "log without a record"] {
        assert!(run.out.contains(what), "{what}: {}", run.out);
    }
    assert!(space.cached("work").is_empty() && space.cached("scratch").is_empty());
}

#[test]
fn verify_accepts_a_step() {
    let space = built();
    let file = space.path(&format!("cache/trees/{}/text", space.record("a").tree));
    std::fs::remove_file(&file).unwrap();
    assert!(space.run(&["verify", "b"]).expect(0).err.contains("all are what they were"));
    let run = space.run(&["verify", "a", "--json"]).expect(1);
    let answer: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(answer["damaged"][0]["problems"][0], "text is missing");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    assert!(space.run(&["verify", "x"]).expect(2).err.contains("there is no step `x`"));
}

#[test]
fn a_rerun_compares_and_its_verdict_is_stored() {
    let space = TestSpace::new(
        r#"
        (name: "same", stage: "join", params: (text: "1")),
        (name: "other", stage: "trouble", params: (how: "random")),
        (name: "near", stage: "command", params: (shell: "echo 1.0000$(date +%N) > {out}/x"), tolerance: 1e-2),
        "#,
    );
    assert!(space.run(&["verify", "--rerun", "same"]).expect(2).err.contains("it is not fresh"));
    space.make().expect(0);
    let trees = space.trees();
    assert!(space.run(&["verify", "--rerun", "same"]).expect(0).out.starts_with("same: the same bytes"));
    let run = space.run(&["verify", "--rerun", "near", "other"]).expect(1);
    assert!(run.out.contains("near: the same to within 1e-2 when run again"), "{}", run.out);
    assert!(run.out.contains("other: something else when run again"), "{}", run.out);
    assert!(run.out.contains("text has different bytes"), "{}", run.out);
    assert!(space.run(&["why", "near"]).expect(0).out.contains("the same to within 1e-2"));
    assert_eq!(space.trees(), trees, "nothing of the second run is kept");
    assert!(space.make().expect(0).err.contains("nothing to do"));
    space.run(&["verify", "--rerun"]).expect(2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_in_a_sandbox_reads_its_declared_files() {
    let step = |sandbox: &str, more: &str| {
        format!(
            r#"(name: "a", stage: "command", inputs: {{"in": ["./data"]}},
                params: (shell: "cat {{input.in}} SECRET > {{out}}/x", sandbox: {sandbox}{more})),"#
        )
    };
    let space = TestSpace::new("");
    space.write("data", "d");
    space.write("secret", "s");
    let secret = space.path("secret").canonicalize().unwrap().display().to_string();
    let steps = |text: String| space.steps(&text.replace("SECRET", &secret));
    steps(step("report", ""));
    let run = space.make().expect(0);
    let read = "warning: step `a`: it read 1 file of the project that is not among its inputs: secret\n";
    assert!(run.err.contains(read), "{}", run.err);
    assert!(!run.err.contains("it read /usr") && run.err.matches("it read").count() == 1, "{}", run.err);
    steps(step("strict", ""));
    let run = space.make().expect(1);
    let denied = "it was denied 1 file of the project that is not among its inputs: secret\n";
    assert!(run.err.contains("those of `sandbox_read`"), "{}", run.err);
    assert_eq!(run.err.matches(denied).count(), 1, "{}", run.err);
    steps(step("strict", &format!(", sandbox_read: [\"{secret}\"]")));
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    assert_eq!(space.read(&format!("cache/trees/{}/x", space.record("a").tree)), "ds");
    steps(step("lenient", ""));
    assert!(space.make().expect(2).err.contains("lenient"));
}
