//! A rehearsal of a profile, and the doctor, end to end.

use serde_json::Value;

use super::support::TestSpace;

/// A pipeline whose profile `trial` rehearses `real`; `more` is added to `trial`.
fn pipeline(more: &str) -> String {
    format!(
        r#"(
            default_profile: "real",
            profiles: [
                (name: "real", about: "the real thing",
                 sources: [
                    (name: "outside", stage: "join", inputs: {{"in": "./placed.txt"}}),
                    (name: "other", stage: "join", params: (text: "o")),
                 ],
                 defaults: {{"join": (text: "real")}}),
                (name: "trial", about: "a trial",
                 rehearses: (profile: "real", leaves_out: {{"aside": "no step reads it"}}, cannot: ["the network"],
                             real: {{"work": (work: 1000, teraflop: 0.5)}}),
                 sources: [(name: "outside", stage: "join", params: (text: "made up"))]{more}),
            ],
            steps: [
                (name: "work", stage: "join", inputs: {{"in": ["outside", "other"]}}, publish: "made"),
                (name: "aside", stage: "join", params: (text: "aside")),
            ],
            targets: {{"all": ["work"]}},
        )"#
    )
}

#[test]
fn a_rehearsal_runs_the_same_steps_on_its_own_sources_in_its_own_cache() {
    let space = TestSpace::new("");
    space.write("pipeline.ron", &pipeline(""));
    let done = space.run(&["rehearse", "--profile", "real", "--gpu", "a100", "--gpu", "7"]).expect(0);
    assert_eq!(done.ran(), ["other", "outside", "work"]);
    // The stand-in; the rest as in the rehearsed profile.
    assert_eq!(space.read("reports/trial/made/text"), "real(text=made up )(text=o )");
    assert!(!space.path("cache/state").exists(), "the profile's own cache is untouched");
    assert!(space.path("cache/rehearsal/state").exists());
    for words in
        ["| work ", "| yes ", "a100 (19.5", "7 (7", "the step `aside`: no step reads it", "- the network"]
    {
        assert!(done.out.contains(words), "{words}\n{}", done.out);
    }
    // The second time nothing runs, and the report is the same. Without --profile, the only one is taken.
    let again = space.run(&["rehearse", "--json"]).expect(0);
    assert!(again.ran().is_empty());
    let said: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(said["profile"], "real");
    let work = said["steps"].as_array().unwrap().iter().find(|step| step["step"] == "work").unwrap();
    assert_eq!((&work["outcome"], &work["units"]), (&"works".into(), &1.into()));
    assert_eq!((&work["real"]["units"], &work["real"]["teraflop"]), (&1000.into(), &500.0.into()));
    assert_eq!(said["real"][0]["target"], "all");
    assert_eq!(said["real"][0]["here"]["steps"], 3);
    // No step ran on a GPU: nothing is known of this machine's.
    assert_eq!(said["real"][0]["seconds_with_measured_gpu"], Value::Null);
}

#[test]
fn failed_and_unreached_steps_are_reported() {
    let space = TestSpace::new("");
    let made_up = r#"stage: "join", params: (text: "made up")"#;
    let failing = pipeline("").replace(made_up, r#"stage: "trouble", params: (how: "fail")"#);
    space.write("pipeline.ron", &failing);
    let text = space.run(&["rehearse"]).expect(1);
    for words in ["| **no** ", "| not reached ", "1 step done, 1 not reached, 1 failed"] {
        assert!(text.out.contains(words), "{words}\n{}", text.out);
    }
}

#[test]
fn a_rehearsal_of_an_unknown_name_is_an_error_with_a_position() {
    let space = TestSpace::new("");
    space.write(
        "pipeline.ron",
        &pipeline("").replace(r#"profile: "real", leaves"#, r#"profile: "rael", leaves"#),
    );
    let text = space.run(&["list", "--profile", "trial"]).expect(2).err;
    assert!(text.contains("no profile `rael` to rehearse") && text.contains("`real`"), "{text}");
    space.write("pipeline.ron", &pipeline("").replace(r#""work": (work"#, r#""wrok": (work"#));
    let text = space.run(&["list", "--profile", "trial"]).expect(2).err;
    assert!(text.contains("names `wrok`") && text.contains("`work`"), "{text}");
    space.steps(r#"(name: "a", stage: "join")"#);
    let text = space.run(&["rehearse"]).expect(2).err;
    assert!(text.contains("no profile rehearses `mini`"), "{text}");
    let text = space.run(&["rehearse", "--gpu", "abacus"]).expect(2).err;
    assert!(text.contains("the speed of `abacus` is not known"), "{text}");
}

#[test]
fn the_doctor_reports_the_status_of_each_subject_and_changes_nothing() {
    let space = TestSpace::new(r#"(name: "a", stage: "join")"#);
    let text = space.run(&["doctor", "--json"]);
    let found: Vec<Value> = serde_json::from_str(&text.out).unwrap();
    let whats: Vec<&str> = found.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    for what in [
        "disk",
        "memory",
        "cores",
        "toy kernels",
        "build",
        "cache",
        "clock",
        "file system",
        "outside",
        "credentials",
    ] {
        assert!(whats.contains(&what), "{what} of {whats:?}");
    }
    let problems = found.iter().filter(|finding| finding["standing"] == "problem").count();
    assert_eq!(text.code, Some(if problems == 0 { 0 } else { 3 }), "{}", text.err);
    assert!(found.iter().all(|finding| finding["standing"] == "good" || finding["advice"].is_string()));
    let left: Vec<_> =
        std::fs::read_dir(space.path("")).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert_eq!(left, ["pipeline.ron"], "nothing is left behind");

    space.write("cache/VERSION", "99\n");
    let text = space.run(&["doctor"]).expect(3);
    assert!(text.out.contains("PROBLEM  cache") && text.out.contains("-> "), "{}", text.out);
}
