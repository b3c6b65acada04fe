//! Ended from outside: by Ctrl-C, politely; by `kill -9`, at any moment.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{TestSpace, finished};

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Processes, other than zombies, that were started to run a step of this project.
fn step_processes(space: &TestSpace) -> Vec<String> {
    let cache = space.path("cache").to_string_lossy().into_owned();
    let mut found = Vec::new();
    for item in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(item.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(" step ") && command.contains(&cache) {
            found.push(command);
        }
    }
    found
}

fn wait_until(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !test() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LONG: &str = r#"
    (name: "a", stage: "join", params: (text: "a")),
    (name: "long", stage: "join", params: (text: "long", ms: 60000), inputs: {"in": ["a"]}),
"#;

#[test]
fn ctrl_c_stops_the_steps_and_keeps_what_was_finished() {
    let space = TestSpace::new(LONG);
    let child = space.spawn(&["make"]);
    wait_until("the long step began", || {
        space.cached("records").len() == 1 && !step_processes(&space).is_empty()
    });
    let since = Instant::now();
    signal(&child, Signal::INT);
    let run = finished(child.wait_with_output().unwrap()).expect(130);
    assert!(since.elapsed() < Duration::from_secs(10));
    assert!(run.err.contains("stopped; what was finished is kept"), "{}", run.err);
    assert_eq!(step_processes(&space), [""; 0]);
    assert!(space.cached("work").is_empty());
    space.steps(&LONG.replace("60000", "1"));
    assert_eq!(space.make().expect(0).ran(), ["long"]);
}

#[test]
fn a_step_that_does_not_listen_is_killed_by_the_second_ctrl_c() {
    let space = TestSpace::new("(name: \"deaf\", stage: \"trouble\", params: (how: \"stubborn\")),");
    let child = space.spawn(&["make"]);
    wait_until("the step began", || !step_processes(&space).is_empty());
    // Time for it to have taken over the handling of the signal.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(step_processes(&space).len(), 1, "it does not listen");
    let since = Instant::now();
    signal(&child, Signal::INT);
    finished(child.wait_with_output().unwrap()).expect(130);
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(step_processes(&space), [""; 0]);
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
        disturbed += usize::from(space.cached("records").len() < 12);
        space.make().expect(0);
        assert_eq!(space.trees(), undisturbed.trees(), "attempt {attempt}");
        assert!(space.cached("work").is_empty());
        assert_eq!(space.read("reports/mini/11/text"), undisturbed.read("reports/mini/11/text"));
        assert!(space.make().expect(0).err.contains("nothing to do"));
    }
    assert!(disturbed >= 3, "the kills came too late to mean anything: {disturbed}");
}
