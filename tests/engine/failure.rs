//! Failures: what the user reads, and what stays unchanged.

use super::process::signal;
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "good", stage: "join", params: (text: "1"), publish: "."),
    (name: "bad", stage: "trouble", params: (how: "fail")),
    (name: "below", stage: "join", inputs: {"in": ["bad"]}),
    (name: "free", stage: "join", params: (text: "free"), inputs: {"in": ["good"]}),
"#;

#[test]
fn a_failure_names_its_log_and_leaves_reports_and_results_alone() {
    let space = TestSpace::new(&STEPS.replace("\"trouble\", params: (how: \"fail\")", "\"join\""));
    space.make().expect(0);
    assert_eq!(space.read("reports/mini/text"), "1");
    space.steps(&STEPS.replace("\"1\"", "\"2\""));
    let run = space.make().expect(1);
    assert!(run.err.contains("error: step `bad` failed: as requested"), "{}", run.err);
    assert_eq!(space.read("reports/mini/text"), "1", "an old report of a whole run stays");
    let log = run.err.lines().find_map(|line| line.strip_prefix("hint: its log is ")).unwrap();
    assert!(space.read(log).contains("error: as requested"));
    assert!(space.cached("work").is_empty());
}

#[test]
fn keep_going_runs_what_does_not_depend_on_the_failure() {
    let space = TestSpace::new(STEPS);
    let run = space.run(&["make", "-k"]).expect(1);
    assert_eq!(run.ran(), ["free", "good"]);
    assert!(run.err.contains("1 not reached"), "{}", run.err);
}

fn trouble(how: &str) -> super::process::Run {
    let space = TestSpace::new(&format!("(name: \"bad\", stage: \"trouble\", params: (how: \"{how}\")),"));
    let run = space.make();
    assert!(space.cached("work").is_empty(), "nothing half-written is left");
    assert!(space.records() == 0);
    run
}

#[test]
fn a_panic_is_a_failure_of_the_step() {
    let run = trouble("panic").expect(1);
    assert!(run.err.contains("the stage `trouble` panicked: as requested"), "{}", run.err);
}

#[test]
fn a_crash_names_the_signal() {
    let run = trouble("abort").expect(1);
    assert!(
        run.err.contains("step `bad` failed: its process was killed by signal 6 (SIGABRT"),
        "{}",
        run.err
    );
}

#[test]
fn a_manual_step_has_its_own_exit_code() {
    let run = trouble("human").expect(3);
    assert!(run.err.contains("step `bad` needs you: place the archive in data/"), "{}", run.err);
}

#[test]
fn a_missing_file_is_reported_with_step_and_line() {
    let space = TestSpace::new("(name: \"a\", stage: \"head\", inputs: {\"in\": [\"./nothing.csv\"]}),");
    let run = space.make().expect(2);
    assert!(run.err.contains("pipeline.ron:3") && run.err.contains("nothing.csv"), "{}", run.err);
    assert!(run.err.contains("`a`") && run.err.contains("hint: "), "{}", run.err);
}

#[test]
fn an_unknown_target_or_step_suggests_the_nearest_name() {
    let space = TestSpace::new(STEPS);
    let run = space.run(&["make", "godo"]).expect(2);
    assert!(run.err.contains("there is no target or step `godo`"), "{}", run.err);
    assert!(run.err.contains("did you mean `good`?"), "{}", run.err);
    let run = space.run(&["why", "belov"]).expect(2);
    assert!(run.err.contains("did you mean `below`?"), "{}", run.err);
}

#[test]
fn a_missing_output_is_reported_by_name() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "join"), (name: "b", stage: "join", inputs: {"in": ["a/table"]}),"#,
    );
    let run = space.make().expect(1);
    assert!(run.err.contains("step `b` failed: it reads a/table, but `a` wrote no `table`"), "{}", run.err);
}

#[test]
fn scratch_survives_a_failed_attempt_of_the_same_key() {
    let space = TestSpace::new("(name: \"a\", stage: \"trouble\", params: (how: \"resume\")),");
    space.make().expect(1);
    space.make().expect(0);
    assert!(space.cached("scratch").is_empty(), "and goes when the step has ended well");
}

#[test]
fn a_wrong_pipeline_is_reported_with_its_position() {
    let space = TestSpace::new("(name: \"a\", stage: \"jion\"),");
    let run = space.make().expect(2);
    assert!(run.err.contains("pipeline.ron:3:") && run.err.contains("`join`"), "{}", run.err);
}

#[test]
fn a_file_that_is_not_a_pipeline_gives_a_short_error() {
    let space = TestSpace::new(STEPS);
    let run = space.run(&["list", "--file", "elsewhere.ron"]).expect(2);
    assert!(run.err.starts_with("error: elsewhere.ron: cannot be read: "), "{}", run.err);
    assert!(run.err.contains("\nhint: run `repro` in the folder of the project"), "{}", run.err);
    // A file without an end.
    let run = space.run(&["list", "--file", "/dev/zero"]).expect(2);
    assert!(run.err.starts_with("error: /dev/zero: has more than 64 MiB"), "{}", run.err);
    for (text, place) in [(String::new(), "1:1"), (format!("\"{}\"", "x".repeat(100_000)), "1:1")] {
        space.write("pipeline.ron", &text);
        let run = space.run(&["list"]).expect(2);
        assert!(run.err.starts_with(&format!("error: pipeline.ron:{place}: ")), "{}", run.err);
        assert!(run.err.len() < 500, "{}", run.err);
    }
}

#[test]
fn a_byte_order_mark_is_allowed() {
    let space = TestSpace::new("(name: \"a\", stage: \"join\"),");
    let text = space.read("pipeline.ron");
    space.write("pipeline.ron", &format!("\u{feff}{text}"));
    space.make().expect(0);
    space.write("pipeline.ron", &format!("\u{feff}{}", text.replace("\"join\"", "\"jion\"")));
    assert!(space.make().expect(2).err.starts_with("error: pipeline.ron:3:20: "), "places stay right");
}

#[test]
fn a_pipe_in_place_of_a_file_is_an_error_and_not_read() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let space = TestSpace::new("(name: \"a\", stage: \"head\", inputs: {\"in\": [\"./pipe\"]}),");
    mknodat(CWD, space.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let run = space.make().expect(2);
    assert!(run.err.contains("it is neither a file nor a folder"), "{}", run.err);
}

#[test]
fn an_unreadable_cache_does_not_count_as_empty() {
    let space = TestSpace::new(STEPS);
    space.write("cache", "a file");
    let run = space.run(&["status"]).expect(1);
    assert!(run.err.contains("cache: cannot read: ") && run.err.contains("\nhint: "), "{}", run.err);
}

#[test]
fn a_missing_file_is_reported_with_the_nearest_name() {
    let space = TestSpace::new(r#"(name: "a", stage: "head", inputs: {"in": ["./data/wrods.txt"]}),"#);
    let text = || space.make().expect(2).err;
    assert!(text().contains("there is no folder ./data"), "{}", text());
    space.write("data/words.txt", "1");
    assert!(text().contains("did you mean `words.txt`?"), "{}", text());
    std::os::unix::fs::symlink("nowhere", space.path("data/wrods.txt")).unwrap();
    assert!(text().contains("it is a link to nowhere"), "{}", text());
}

#[test]
fn unwritable_reports_lose_no_results() {
    let space = TestSpace::new("(name: \"a\", stage: \"join\", publish: \".\"),");
    space.write("reports", "a file");
    let run = space.make().expect(1);
    assert!(run.err.contains("reports/mini: cannot create the folder: "), "{}", run.err);
    assert!(run.err.contains("\nhint: move away what is at that path"), "{}", run.err);
    std::fs::remove_file(space.path("reports")).unwrap();
    assert_eq!(space.make().expect(0).ran(), [""; 0]);
    assert!(space.path("reports/mini/text").exists());
}

#[test]
fn a_closed_output_pipe_does_not_stop_a_run() {
    let space = TestSpace::new("(name: \"a\", stage: \"join\"),");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = space.command(&["make"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(space.records(), 1);
}

#[test]
fn a_folder_whose_name_is_not_unicode_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let space = TestSpace::new("(name: \"a\", stage: \"join\"),");
    let folder = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let run = space.command(&["make", "--cache"]).arg(folder).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(text.contains("the name of this folder is not UTF-8\nhint: "), "{text}");
}

#[test]
fn a_failure_is_shown_until_the_step_succeeds() {
    let steps = |command: &str| format!("(name: \"a\", stage: \"command\", params: ({command})),");
    let fails = steps("shell: \"echo broken >&2; test -e /proc/self/cwd/nothing\"");
    let space = TestSpace::new(&fails);
    space.make().expect(1);
    let status = |space: &TestSpace| space.run(&["status"]).expect(0).out;
    let text = status(&space);
    assert!(
        text.starts_with("stale    a  failed just now: exit code 1, log cache/logs/")
            && text.contains(".log\n"),
        "{text}"
    );
    let why = space.run(&["why", "a"]).expect(0).out;
    assert!(why.contains("\n  it failed just now: exit code 1, log cache/logs/"), "{why}");
    let json: serde_json::Value =
        serde_json::from_str(&space.run(&["status", "--json"]).expect(0).out).unwrap();
    assert_eq!(json[0]["failed"]["problem"], "it ended with exit code 1:\n  broken");
    // With other params it is another key, which has not failed.
    space.steps(&steps("shell: \"true\""));
    assert!(!status(&space).contains("failed"), "{}", status(&space));
    space.make().expect(0);
    space.steps(&fails);
    assert!(status(&space).contains("failed just now"), "{}", status(&space));
}

#[test]
fn a_success_of_the_same_key_clears_a_failure() {
    let space = TestSpace::new(r#"(name: "a", stage: "trouble", params: (how: "resume")),"#);
    let run = space.make().expect(1);
    assert!(run.err.contains("first attempt"), "{}", run.err);
    let status = space.run(&["status"]).expect(0).out;
    assert!(status.starts_with("stale    a  failed just now: first attempt, log cache/logs/"), "{status}");
    space.make().expect(0);
    assert!(space.run(&["status", "-v"]).expect(0).out.starts_with("fresh    a\n"));
    let key = space.record("a").key_text.key();
    let store = repro::store::ContentStore::open(&space.path("cache")).unwrap();
    assert_eq!(store.failure("mini", "a", &key), None);
    // What was interrupted has not failed.
    space.steps(r#"(name: "a", stage: "trouble", params: (how: "stubborn")),"#);
    let mut child = space.spawn(&["make"]);
    while space.cached("work").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    signal(&child, rustix::process::Signal::INT);
    child.wait().unwrap();
    let status = space.run(&["status"]).expect(0).out;
    assert!(!status.contains("failed"), "{status}");
}

/// `--on-end` and `--on-failure` get what came of the run, and change neither it nor the exit code.
#[test]
fn a_line_of_the_user_runs_after_a_make_with_its_summary() {
    let space = TestSpace::new(
        r#"(name: "good", stage: "command", params: (run: ["true"])),
           (name: "bad", stage: "command", params: (shell: "echo lost >&2; exit 3")),"#,
    );
    let make = |targets: &[&str]| {
        let options =
            ["make", "--on-end", "cat > end.json; echo said", "--on-failure", "cat > failure.json; exit 9"];
        space.run(&[&options[..], targets].concat())
    };
    let summary = |file: &str| serde_json::from_str::<serde_json::Value>(&space.read(file)).unwrap();
    let run = make(&["good"]).expect(0);
    assert!(run.out.is_empty() && run.err.contains("said"), "{run:?}");
    let end = summary("end.json");
    assert_eq!(
        (&end["ok"], &end["ran"], &end["targets"]),
        (&true.into(), &1.into(), &serde_json::json!(["good"]))
    );
    assert!(!space.path("failure.json").exists());
    let run = make(&["good", "bad"]).expect(1);
    assert!(
        run.err.contains("warning: --on-failure `cat > failure.json; exit 9`: it ended with"),
        "{}",
        run.err
    );
    let failure = summary("failure.json");
    assert_eq!((&failure["ok"], &failure["failed"]), (&false.into(), &serde_json::json!(["bad"])));
    assert_eq!(failure["failures"][0]["problem"], "it ended with exit code 3:\n  lost");
    assert_eq!(summary("end.json"), failure);
    // A run that cannot begin is a failure too.
    make(&["god"]).expect(2);
    assert!(summary("failure.json")["error"].as_str().unwrap().contains("there is no target or step `god`"));
}
