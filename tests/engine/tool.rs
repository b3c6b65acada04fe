//! Subcommands that come with the stages.

use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "one")),
    (name: "b", stage: "join", inputs: {"in": ["a/text"]}),
    (name: "empty", stage: "join"),
"#;

#[test]
fn a_tool_reads_results_and_names_the_command_that_builds_missing_ones() {
    let space = TestSpace::new(STEPS);
    let refused = space.run(&["read", "a"]).expect(1);
    assert_eq!(refused.err, "error: read: step `a` is not up to date; run `repro make a` first\n");
    space.make().expect(0);
    assert_eq!(space.run(&["read", "a", "b", "--between", ": "]).expect(0).out, "a: one\nb: (one)\n");
    assert_eq!(space.run(&["read", "a", "--json"]).expect(0).out, "{\"steps\": 3}\n");
    space.run(&["read", "a", "--check"]).expect(0);
    space.run(&["read", "empty", "--check"]).expect(4);
}

#[test]
fn a_suggested_command_names_the_project_that_was_meant() {
    let space = TestSpace::new(STEPS);
    std::fs::rename(space.path("pipeline.ron"), space.path("other one.ron")).unwrap();
    let options = ["--file", "other one.ron", "--cache", "kept"];
    let given = "--file 'other one.ron' --cache kept";
    let run = |words: &[&str]| space.run(&[words, &options].concat());
    let refused = run(&["read", "a"]).expect(1);
    assert_eq!(
        refused.err,
        format!("error: read: step `a` is not up to date; run `repro make a {given}` first\n")
    );
    // Before the subcommand, short, with `=`: the same.
    let refused = space.run(&["-f", "other one.ron", "--cache=kept", "read", "a"]).expect(1);
    assert!(refused.err.contains(&format!("`repro make a {given}`")), "{}", refused.err);
    // The command does what it says.
    run(&["make", "a"]).expect(0);
    run(&["read", "a"]).expect(0);
}

#[test]
fn an_unknown_argument_of_a_tool_ends_with_code_2() {
    let space = TestSpace::new(STEPS);
    for wrong in [&["read"][..], &["read", "a", "--loud"], &["read", "nonsense"], &["read", "aa"]] {
        let run = space.run(wrong).expect(2);
        assert!(run.out.is_empty() && run.err.contains("error: "), "{wrong:?}: {}", run.err);
    }
    let help = space.run(&["--help"]).expect(0).out;
    assert!(
        help.lines()
            .any(|line| line.trim().starts_with("read ")
                && line.ends_with("Prints the texts that steps wrote")),
        "{help}"
    );
    let help = space.run(&["read", "-h"]).expect(0).out;
    for words in ["<STEPS>...", "--between <TEXT>"] {
        assert!(help.contains(words), "{words}\n{help}");
    }
}
