//! Ended from outside: by Ctrl-C, and by `kill -9` at any moment.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::process::{self, StepProcess, finished, signal, wait_until};
use super::support::TestSpace;

fn step_processes(space: &TestSpace) -> Vec<StepProcess> {
    process::step_processes(&space.path("cache"))
}

const LONG: &str = r#"
    (name: "a", stage: "join", params: (text: "a")),
    (name: "long", stage: "join", params: (text: "long", ms: 60000), inputs: {"in": ["a"]}),
"#;

#[test]
fn ctrl_c_stops_the_steps_and_keeps_finished_results() {
    let space = TestSpace::new(LONG);
    let child = space.spawn(&["make"]);
    wait_until("the long step began", || space.records() == 1 && !step_processes(&space).is_empty());
    let since = Instant::now();
    signal(&child, Signal::INT);
    let run = finished(child.wait_with_output().unwrap()).expect(130);
    assert!(since.elapsed() < Duration::from_secs(10));
    assert!(run.err.contains("stopped; what was finished is kept"), "{}", run.err);
    assert_eq!(step_processes(&space), []);
    assert!(space.cached("work").is_empty());
    space.steps(&LONG.replace("60000", "1"));
    assert_eq!(space.make().expect(0).ran(), ["long"]);
}

#[test]
fn a_step_that_ignores_ctrl_c_is_killed_by_the_second_one() {
    let space = TestSpace::new("(name: \"deaf\", stage: \"trouble\", params: (how: \"stubborn\")),");
    let child = space.spawn(&["make"]);
    wait_until("the step began", || !step_processes(&space).is_empty());
    // Time for it to install its signal handler.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(step_processes(&space).len(), 1, "it does not listen");
    let since = Instant::now();
    signal(&child, Signal::INT);
    finished(child.wait_with_output().unwrap()).expect(130);
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(step_processes(&space), []);
}

#[test]
fn kill_9_at_any_moment_leaves_nothing_wrong_behind() {
    let steps: String = (0..12)
        .map(|i| {
            let input = if i < 2 { String::new() } else { format!("\"s{}\", \"s{}\"", i - 1, i - 2) };
            format!(
                "(name: \"s{i}\", stage: \"join\", params: (text: \"{i}\", ms: 8), inputs: {{\"in\": [{input}]}}, \
                 publish: \"{i}\"),\n"
            )
        })
        .collect::<String>()
        .replace(", inputs: {\"in\": []}", "");
    let undisturbed = TestSpace::new(&steps);
    let since = Instant::now();
    undisturbed.make().expect(0);
    let whole = since.elapsed();
    let mut disturbed = 0;
    for attempt in 0..10u32 {
        let space = TestSpace::new(&steps);
        let mut child = space.spawn(&["make"]);
        std::thread::sleep(whole * (2 * attempt + 1) / 20);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("no step outlives the run", || step_processes(&space).is_empty());
        disturbed += usize::from(space.records() < 12);
        space.make().expect(0);
        assert_eq!(space.trees(), undisturbed.trees(), "attempt {attempt}");
        assert!(space.cached("work").is_empty());
        assert_eq!(space.read("reports/mini/11/text"), undisturbed.read("reports/mini/11/text"));
        assert!(space.make().expect(0).err.contains("nothing to do"));
    }
    assert!(disturbed >= 3, "the kills came too late to mean anything: {disturbed}");
}
