//! Programs as steps: what they see, what they must write, what reruns after a change of a tool, and how they end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::process::{finished, wait_until};
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "strip", stage: "command", inputs: {"text": "./source"},
     params: (run: ["sed", "/^#/d", "{input.text}"], stdout: "text")),
    (name: "count", stage: "command", inputs: {"text": "strip/text"},
     params: (shell: "wc -l < {input.text} > {out}/lines && echo counted >&2", outputs: ["lines"])),
"#;

fn space() -> TestSpace {
    let space = TestSpace::new(STEPS);
    space.write("source", "# a comment\none\ntwo\n");
    space
}

fn output(space: &TestSpace, step: &str, file: &str) -> String {
    space.read(&format!("cache/trees/{}/{file}", space.record(step).tree))
}

#[test]
fn a_program_and_a_shell_line_read_inputs_and_write_outputs() {
    let space = space();
    assert_eq!(space.make().expect(0).ran(), ["count", "strip"]);
    assert_eq!(output(&space, "strip", "text"), "one\ntwo\n");
    assert_eq!(output(&space, "count", "lines").trim(), "2");
    assert_eq!(space.read(&format!("cache/{}", space.record("count").log)), "counted\n");
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
}

#[test]
fn a_source_that_gives_the_same_output_runs_exactly_one_step() {
    let space = space();
    space.make().expect(0);
    space.write("source", "# another comment\none\ntwo\n");
    assert_eq!(space.make().expect(0).ran(), ["strip"]);
    space.write("source", "# another comment\none\ntwo\nthree\n");
    assert_eq!(space.make().expect(0).ran(), ["count", "strip"]);
}

#[test]
fn a_command_sees_only_what_it_declares() {
    let steps = r#"(name: "env", stage: "command", params: (run: ["env"], stdout: "env",
        set_env: {"MODE": "{threads}"}, pass_env: ["COUNTED"], pass_env_uncounted: ["TOKEN"])),
        (name: "ls", stage: "command", params: (shell: "ls -A; cat pipeline.ron || true", stdout: "list")),"#;
    let space = TestSpace::new(steps);
    let run = |counted: &str, token: &str| {
        let mut command = space.command(&["make"]);
        command.env("COUNTED", counted).env("TOKEN", token).env("OTHER", "x").env("LANG", "de_DE");
        finished(command.output().unwrap()).expect(0)
    };
    run("1", "a");
    let env = output(&space, "env", "env");
    let mut names: Vec<&str> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !["HOME", "TMPDIR"].contains(name));
    names.sort_unstable();
    let expected = [
        "COUNTED",
        "MODE",
        "OMP_NUM_THREADS",
        "PATH",
        "PYTHONDONTWRITEBYTECODE",
        "RAYON_NUM_THREADS",
        "REPRO_METRICS",
        "TOKEN",
    ];
    assert_eq!(names, expected);
    assert!(env.contains("MODE=1\n"), "{env}");
    assert_eq!(output(&space, "ls", "list"), "", "it begins in a folder of its own");
    assert_eq!(run("1", "b").ran(), [""; 0], "a token is not part of the key");
    assert_eq!(run("2", "b").ran(), ["env"]);
    let why = space.command(&["why", "env"]).env("COUNTED", "3").output().unwrap();
    let why = finished(why).expect(0).out;
    assert!(why.contains("environment variable COUNTED has another value"), "{why}");
}

#[test]
fn another_version_of_a_tool_reruns_its_steps() {
    let space = TestSpace::new("");
    let tool = |version: &str| {
        // A new file, as an installation creates one.
        space.write("new", &format!("#!/bin/sh\necho tool {version}\n"));
        fs::set_permissions(space.path("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(space.path("new"), space.path("tool")).unwrap();
    };
    tool("1.0");
    let steps = format!(
        r#"(name: "a", stage: "command", params: (run: ["true"], version: ["{}", "--version"])),
           (name: "b", stage: "join", params: (text: "b")),"#,
        space.path("tool").display()
    );
    space.steps(&steps);
    assert_eq!(space.make().expect(0).ran(), ["a", "b"]);
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    tool("1.0");
    assert_eq!(space.make().expect(0).ran(), [""; 0], "installed again, it says the same");
    tool("1.1");
    let why = space.run(&["why", "a"]).expect(0).out;
    assert!(why.contains("version") && why.contains("tool 1.0") && why.contains("tool 1.1"), "{why}");
    assert_eq!(space.make().expect(0).ran(), ["a"]);
    fs::remove_file(space.path("tool")).unwrap();
    let run = space.run(&["make", "-k"]).expect(1);
    assert!(
        run.err.contains("step `a` failed: its version command") && run.err.contains("there is no program"),
        "{}",
        run.err
    );
}

/// A launcher that stays the same while its program changes, as `python` does when its packages change.
#[test]
fn a_version_that_changes_behind_its_program_is_noticed_when_something_runs() {
    let space = TestSpace::new("");
    space.write("number", "1");
    let steps = |text: &str| {
        format!(
            r#"(name: "a", stage: "command", params: (run: ["true"], version: ["cat", "{}"])),
           (name: "b", stage: "join", params: (text: "{text}")),"#,
            space.path("number").display()
        )
    };
    space.steps(&steps("1"));
    space.make().expect(0);
    space.write("number", "2");
    space.steps(&steps("2"));
    assert_eq!(space.make().expect(0).ran(), ["a", "b"]);
}

#[test]
fn an_error_shows_the_end_of_the_log() {
    let fails = |params: &str, expected: &str| {
        let space = TestSpace::new(&format!("(name: \"a\", stage: \"command\", params: ({params})),"));
        let run = space.make().expect(1);
        assert!(run.err.contains(expected), "{params}: {}", run.err);
        assert_eq!(space.records(), 0);
        assert!(space.cached("work").is_empty());
    };
    fails(r#"shell: "echo no such column >&2; exit 3""#, "it ended with exit code 3:\n  no such column");
    fails(r#"shell: "kill -9 $$""#, "it was killed by signal 9");
    fails(r#"run: ["no-such-program"]"#, "cannot start `no-such-program`");
    fails(r#"run: ["true"], outputs: ["x"]"#, "it did not write `x`, which is one of its outputs");
    fails(
        r#"shell: "touch {out}/x {out}/y", outputs: ["x"]"#,
        "it wrote `y`, which is not one of its outputs",
    );
}

#[test]
fn invalid_params_and_inputs_are_errors_with_a_position() {
    let refused = |step: &str, expected: &str| {
        let space = TestSpace::new(step);
        let run = space.make().expect(2);
        assert!(run.err.contains(expected) && run.err.contains("pipeline.ron:3:"), "{step}: {}", run.err);
    };
    refused(r#"(name: "a", stage: "command"),"#, "it needs `run:");
    refused(r#"(name: "a", stage: "command", params: (run: ["x"], shell: "x")),"#, "not both");
    refused(
        r#"(name: "a", stage: "command", inputs: {"text": "./pipeline.ron"}, params: (run: ["cat", "{input.txt}"])),"#,
        "`{input.txt}` does not name an input of the step; its inputs are text",
    );
}

#[test]
fn several_inputs_of_one_port_are_one_word_each() {
    let steps = r#"
        (name: "a", stage: "command", params: (run: ["echo", "a b"], stdout: "x")),
        (name: "b", stage: "command", params: (run: ["echo", "b"], stdout: "x")),
        (name: "ab", stage: "command", inputs: {"parts": ["a/x", "b/x"]}, params: (run: ["cat", "{input.parts}"], stdout: "x")),
    "#;
    let space = TestSpace::new(steps);
    space.make().expect(0);
    assert_eq!(output(&space, "ab", "x"), "a b\nb\n");
}

/// Processes with the command line `sleep <seconds>`.
pub fn sleepers(seconds: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|item| fs::read(item.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == seconds.as_bytes())).count()
}

#[test]
fn a_command_and_its_children_end_with_the_run() {
    for (seconds, kill) in [("61.25", true), ("62.25", false)] {
        let steps = format!(
            r#"(name: "a", stage: "command", params: (shell: "sleep {seconds} & sleep {seconds}")),"#
        );
        let space = TestSpace::new(&steps);
        let mut child = space.spawn(&["make"]);
        wait_until("both sleep", || sleepers(seconds) >= 2);
        // The guard gets the group right after the start.
        std::thread::sleep(Duration::from_millis(100));
        if kill {
            child.kill().unwrap();
        } else {
            super::process::signal(&child, rustix::process::Signal::INT);
        }
        let status = child.wait().unwrap();
        assert_eq!(status.code(), if kill { None } else { Some(130) });
        wait_until("none of it is left", || sleepers(seconds) == 0);
    }
}

/// Python looks for modules in the folder that holds the script: the command's own, where only its inputs are.
#[test]
fn a_script_imports_declared_files_of_the_project_only() {
    let steps = |inputs: &str| {
        format!(
            r#"(name: "train", stage: "command", inputs: {{"script": "./scripts/train.py"{inputs}}},
                params: (run: ["python3", "{{input.script}}"], stdout: "value")),"#
        )
    };
    let space = TestSpace::new(&steps(""));
    space.write("scripts/train.py", "import helper, lib.deep\nprint(helper.VALUE + lib.deep.VALUE)\n");
    space.write("scripts/helper.py", "VALUE = 1\n");
    space.write("scripts/lib/deep.py", "VALUE = 10\n");
    let run = space.make().expect(1);
    assert!(
        run.err
            .contains("./scripts/helper.py is a file of the project, but no input of the step; declare it"),
        "{}",
        run.err
    );
    space.steps(&steps(r#", "helper": "./scripts/helper.py", "lib": "./scripts/lib""#));
    space.make().expect(0);
    assert_eq!(output(&space, "train", "value"), "11\n");
    space.write("scripts/helper.py", "VALUE = 2\n");
    assert_eq!(space.make().expect(0).ran(), ["train"]);
    assert_eq!(output(&space, "train", "value"), "12\n");
    space.write("scripts/lib/deep.py", "VALUE = 20\n");
    assert_eq!(space.make().expect(0).ran(), ["train"]);
    assert_eq!(output(&space, "train", "value"), "22\n");
    let written: Vec<_> = fs::read_dir(space.path("scripts/lib")).unwrap().flatten().collect();
    assert_eq!(written.len(), 1, "no bytecode is written into the project: {written:?}");
}

#[test]
fn a_command_starts_where_its_files_of_the_project_are() {
    let steps = r#"(name: "a", stage: "command", inputs: {"text": "./data/text", "folder": "./more"},
        params: (shell: "find -L . -type f | sort; mv {input.text} {out}/moved", stdout: "list")),"#;
    let space = TestSpace::new(steps);
    space.write("data/text", "1");
    space.write("data/other", "2");
    space.write("more/text", "3");
    space.make().expect(0);
    assert_eq!(output(&space, "a", "list"), "./data/text\n./more/text\n");
    assert_eq!(space.read("data/text"), "1", "a command moves a copy");
}

#[test]
fn a_changed_argument_is_named_and_reruns_the_step() {
    let steps = |lr: &str| {
        format!(
            r#"(name: "train", stage: "command", for: {{"seed": [1, 2]}}, params: (shell: "echo {{args.lr}} {{args.seed}}",
                args: {{"lr": {lr}, "seed": "{{seed}}"}}, stdout: "x")),"#
        )
        .replace("\"train\"", "\"train-{seed}\"")
    };
    let space = TestSpace::new(&steps("0.1"));
    space.make().expect(0);
    assert_eq!(output(&space, "train-2", "x"), "0.1 2\n");
    space.steps(&steps("1e-2"));
    let why = space.run(&["why", "train-2"]).expect(0).out;
    assert_eq!(why, "train-2 must run:\n  param args.lr: \"0.1\" -> \"1e-2\"\n");
    space.make().expect(0);
    assert_eq!(output(&space, "train-1", "x"), "1e-2 1\n");
}

/// Values of a command are in its log, in curves and in the events of a run; a line that is not JSON is named.
#[test]
fn metrics_of_a_command_are_shown_as_those_of_a_stage() {
    for sandbox in ["off", "report", "strict"] {
        let steps = format!(
            r#"(name: "train", stage: "command", params: (sandbox: "{sandbox}", shell: "for i in 1 2 3 4 5 6; do printf '{{\"step\": %d, \"total\": 6, \"loss\": 0.%d}}\\n' $i $i >> $REPRO_METRICS; done; echo loss=1 >> $REPRO_METRICS; mkdir -p dvclive/plots/metrics; printf 'step\\tacc\\n1\\t0.5\\n' > dvclive/plots/metrics/acc.tsv; echo 1 > {{out}}/x")),"#
        );
        let space = TestSpace::new(&steps);
        let run = space.run(&["make", "--json"]).expect(0);
        assert!(run.out.contains("line 7 of REPRO_METRICS: it is not JSON"), "{sandbox}: {}", run.out);
        assert!(run.out.contains("\"done\":6,\"total\":6"), "{sandbox}: {}", run.out);
        let log = space.run(&["log", "train"]).expect(0).out;
        assert!(log.lines().any(|line| line.split_whitespace().eq(["update", "loss", "acc"])), "{log}");
        assert!(log.lines().any(|line| line.split_whitespace().eq(["6", "0.6000"])), "{log}");
        assert!(space.run(&["watch", "train"]).expect(0).out.contains("loss: 0.6000 at 6"));
        // What it measured is no part of its result.
        assert_eq!(space.read(&format!("cache/trees/{}/x", space.record("train").tree)), "1\n");
        assert_eq!(space.record("train").outputs.len(), 1);
    }
}
