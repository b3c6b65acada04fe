//! The cache: missing and damaged parts, and concurrent runs.

use std::fs;

use super::process::finished;
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "join", params: (text: "a")),
    (name: "b", stage: "join", params: (text: "b"), inputs: {"in": ["a"]}),
    (name: "c", stage: "join", params: (text: "c"), inputs: {"in": ["b"]}),
"#;

#[test]
fn a_damaged_record_counts_as_missing_and_is_reported() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let trees = space.trees();
    let log = space.path("cache/state");
    let mut bytes = fs::read(&log).unwrap();
    let at = String::from_utf8_lossy(&bytes).find(r#""step":"b""#).unwrap();
    bytes[at + 30] ^= 1;
    fs::write(&log, bytes).unwrap();
    let run = space.make().expect(0);
    assert_eq!(run.ran(), ["b"]);
    assert!(run.err.contains("a record of `b` is damaged (byte "), "{}", run.err);
    assert_eq!(space.trees(), trees);
    assert_eq!(space.make().expect(0).err, "nothing to do: 3 steps fresh\n", "the damage is gone");
}

#[test]
fn a_truncated_log_loses_only_the_last_step() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let (trees, log) = (space.trees(), space.path("cache/state"));
    let text = space.read("cache/state");
    let last = text.find("\"step\":\"c\"").unwrap();
    fs::write(&log, &text[..last]).unwrap();
    let run = space.make().expect(0);
    assert_eq!(run.ran(), ["c"]);
    assert!(!run.err.contains("damaged"), "{}", run.err);
    assert_eq!(space.trees(), trees);
}

/// As a power cut leaves short steps: the line that marks them as synced is missing, and so are some bytes.
#[test]
fn a_result_lost_in_a_power_cut_is_noticed_and_runs_again() {
    for took in ["zeros", "nothing left", "the folder", "nothing"] {
        let space = TestSpace::new(STEPS);
        space.make().expect(0);
        let trees = space.trees();
        let log: String = space
            .read("cache/state")
            .lines()
            .filter(|line| !line.contains(" synced "))
            .fold(String::new(), |log, line| log + line + "\n");
        fs::write(space.path("cache/state"), log).unwrap();
        let tree = space.path(&format!("cache/trees/{}", trees["b"]));
        let text = tree.join("text");
        let size = fs::read(&text).unwrap().len();
        match took {
            "zeros" => {
                fs::remove_file(&text).unwrap();
                fs::write(&text, vec![0; size]).unwrap();
            }
            "nothing left" => {
                fs::remove_file(&text).unwrap();
                fs::write(&text, "").unwrap();
            }
            "the folder" => fs::remove_dir_all(&tree).unwrap(),
            _ => {}
        }
        let run = space.make().expect(0);
        let expected: &[&str] = if took == "nothing" { &[] } else { &["b"] };
        assert_eq!(run.ran(), expected, "{took}: {}", run.err);
        assert_eq!(
            run.err.contains("the output of `b` is incomplete on the disk"),
            took != "nothing",
            "{}",
            run.err
        );
        assert_eq!(space.trees(), trees, "{took}");
        assert_eq!(fs::read(&text).unwrap().len(), size, "{took}");
        assert!(space.make().expect(0).err.contains("nothing to do"));
    }
}

#[test]
fn a_log_full_of_superseded_entries_is_rewritten_with_the_same_content() {
    let space = TestSpace::new(STEPS);
    space.make().expect(0);
    let (trees, log) = (space.trees(), space.read("cache/state"));
    // The same executions again and again, as after `--force`.
    fs::write(space.path("cache/state"), log.repeat(1_500_000 / log.len())).unwrap();
    space.run(&["make", "--force", "c"]).expect(0);
    assert!(fs::metadata(space.path("cache/state")).unwrap().len() < 10_000);
    assert_eq!(space.trees(), trees);
    assert!(space.make().expect(0).err.contains("nothing to do"));
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
    assert_eq!(space.make().expect(0).ran(), ["c"], "no step that must run reads `a`");
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
fn a_cache_of_another_version_is_an_error() {
    let space = TestSpace::new(STEPS);
    space.write("cache/VERSION", "999\n");
    let run = space.make().expect(1);
    assert!(run.err.contains("another version of this program (999"), "{}", run.err);
    assert!(run.err.contains("hint: "), "{}", run.err);
}

#[test]
fn two_concurrent_runs_share_the_work() {
    let space = TestSpace::new(&STEPS.replace("\"a\")", "\"a\", ms: 600)"));
    let first = space.spawn(&["make"]);
    while space.cached("work").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = space.make().expect(0);
    let first = finished(first.wait_with_output().unwrap()).expect(0);
    let mut ran = [first.ran(), second.ran()].concat();
    ran.sort();
    assert_eq!(ran, ["a", "b", "c"], "each step ran once: {} {}", first.err, second.err);
    assert!(second.err.contains("a is being run by process "), "{}", second.err);
    assert!(space.cached("claims").is_empty());
}

#[test]
fn eight_concurrent_runs_run_each_step_once_and_in_parallel() {
    let steps: String = (0..12)
        .map(|i| format!("(name: \"s{i}\", stage: \"join\", params: (text: \"{i}\", ms: 60)),\n"))
        .collect();
    let end = r#"(name: "end", stage: "join", publish: ".", inputs: {"in": ["s0", "s5", "s11"]}),"#;
    let space = TestSpace::new(&format!("{steps}{end}"));
    let runs: Vec<_> = (0..8).map(|_| space.spawn(&["make", "-j", "1"])).collect();
    let runs: Vec<_> =
        runs.into_iter().map(|run| finished(run.wait_with_output().unwrap()).expect(0)).collect();
    let mut ran: Vec<String> = runs.iter().flat_map(|run| run.ran()).map(|step| step.to_owned()).collect();
    ran.sort();
    ran.dedup();
    assert_eq!(ran.len(), 13);
    assert_eq!(runs.iter().map(|run| run.ran().len()).sum::<usize>(), 13, "a step ran twice");
    assert!(runs.iter().filter(|run| !run.ran().is_empty()).count() > 1, "only one run did the work");
    assert_eq!(space.records(), 13);
    assert!(space.cached("work").is_empty() && space.cached("claims").is_empty());
    assert!(space.path("reports/mini/text").exists());
}

#[test]
fn a_run_that_must_not_wait_does_what_it_can_and_names_the_other_run() {
    let space = TestSpace::new(&STEPS.replace("\"a\")", "\"a\", ms: 1500)"));
    let first = space.spawn(&["make"]);
    while space.cached("work").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = space.run(&["make", "--no-wait"]).expect(1);
    assert!(second.err.contains("error: step `a` is being run by process "), "{}", second.err);
    assert!(second.err.contains("toy make`, for "), "{}", second.err);
    finished(first.wait_with_output().unwrap()).expect(0);
    assert!(space.run(&["make", "--no-wait"]).expect(0).err.contains("nothing to do"));
}

#[test]
fn a_step_of_a_killed_run_is_taken_over() {
    let space = TestSpace::new(&STEPS.replace("\"a\")", "\"a\", ms: 900)"));
    let mut first = space.spawn(&["make"]);
    while space.cached("work").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = space.spawn(&["make"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    first.kill().unwrap();
    first.wait().unwrap();
    let second = finished(second.wait_with_output().unwrap()).expect(0);
    assert_eq!(second.ran(), ["a", "b", "c"]);
    assert!(space.make().expect(0).err.contains("nothing to do"));
    assert!(space.cached("work").is_empty() && space.cached("claims").is_empty());
}

#[test]
fn the_same_inputs_give_the_same_trees_in_another_folder() {
    let (one, two) = (TestSpace::new(STEPS), TestSpace::new(STEPS));
    one.make().expect(0);
    two.run(&["make", "-j", "1"]).expect(0);
    assert_eq!(one.trees(), two.trees());
}

#[test]
fn a_folder_with_other_files_is_not_a_cache_and_stays_unchanged() {
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
fn two_steps_with_one_key_run_once() {
    let twin = r#"(name: "twin", stage: "join", params: (text: "a")),"#;
    for jobs in ["1", "2"] {
        let space = TestSpace::new(&format!("{STEPS}{twin}"));
        let run = space.run(&["make", "-j", jobs, "a", "twin"]).expect(0);
        assert_eq!(run.ran().len(), 1, "{}", run.err);
        assert!(space.run(&["make", "a", "twin"]).expect(0).err.contains("nothing to do"));
    }
}

#[test]
fn a_closed_event_reader_does_not_stop_a_run() {
    let space = TestSpace::new(STEPS);
    let mut child = space.command(&["make", "c"]).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(space.trees().len(), 3);
}

/// Found by the oracle: the result of a step was damaged, and the other step with the same bytes was not planned
/// again.
#[test]
fn damaged_bytes_that_two_steps_wrote_are_read_through_neither() {
    let steps = r#"
        (name: "a", stage: "join", params: (text: "same", ms: 0)),
        (name: "b", stage: "join", params: (text: "same", ms: 1)),
        (name: "of-a", stage: "join", params: (text: "1"), inputs: {"in": ["a"]}),
        (name: "of-b", stage: "join", params: (text: "1"), inputs: {"in": ["b", "of-a"]}),
    "#;
    let space = TestSpace::new(steps);
    space.make().expect(0);
    let tree = space.record("a").tree;
    assert_eq!(tree, space.record("b").tree);
    let file = space.path(&format!("cache/trees/{tree}/text"));
    fs::remove_file(&file).unwrap();
    fs::write(&file, "sane").unwrap();
    let changed = steps.replace("\"1\"", "\"2\"");
    space.steps(&changed);
    let run = space.make().expect(0);
    assert!(run.err.contains("is damaged; it runs again"), "{}", run.err);
    let clean = TestSpace::new(&changed);
    clean.make().expect(0);
    assert_eq!(space.trees(), clean.trees());
}

/// Found by kills at random instants.
#[test]
fn the_next_publish_removes_what_a_killed_one_left() {
    let space = TestSpace::new(r#"(name: "a", stage: "join", params: (text: "x"), publish: "a"),"#);
    space.make().expect(0);
    fs::remove_file(space.path("reports/mini/a/text")).unwrap();
    space.write("reports/mini/.unfinished/text", "ha");
    space.make().expect(0);
    let names = fs::read_dir(space.path("reports/mini")).unwrap().flatten();
    assert_eq!(names.map(|item| item.file_name()).collect::<Vec<_>>(), ["a"]);
}

/// Found by eight concurrent runs: another process had created the cache but not yet written its VERSION.
#[test]
fn a_cache_that_another_process_just_created_is_not_a_foreign_folder() {
    let space = TestSpace::new(r#"(name: "a", stage: "join"),"#);
    space.write("cache/CACHEDIR.TAG", "Signature");
    space.write("cache/.tmpX1y2Z3", "");
    space.write("cache/lock", "");
    space.make().expect(0);
    let space = TestSpace::new(r#"(name: "a", stage: "join"),"#);
    space.write("cache/thesis.tex", "");
    assert!(space.make().expect(2).err.contains("is not a cache of this program: it holds `thesis.tex`"));
}
