//! Ended from outside: the whole run at any moment, one step, or politely.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{finished, signal, step_processes, wait_until};
use super::project::{Project, made};

/// A number in `0..below` that looks random and is the same in each run of the tests.
fn random(name: &str, below: u64) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i])) % below
}

#[test]
fn kill_9_at_a_random_moment_changes_nothing_in_the_end() {
    let made = made();
    let (steps, whole) = (made.project.records(), made.time);
    let mut disturbed = 0;
    for attempt in 0..10u64 {
        // In the tenth of the run that is this attempt's, at a random moment: after so many steps, a while into
        // the next ones.
        let moment = random(&format!("moment {attempt}"), 1000);
        let done = (attempt as usize * 1000 + moment as usize) * steps / 10_000;
        let project = Project::new();
        let mut child = project.spawn(&["make", "all", "-j", "2"]);
        wait_until("so many steps are done", || project.records() >= done);
        std::thread::sleep(whole * random(&format!("while {attempt}"), 100) as u32 / 1000);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("no step outlives the run", || step_processes(&project.path("cache")).is_empty());
        disturbed += u32::from(project.records() < steps);

        let run = project.run(&["make", "all", "-j", "2"]).expect(0);
        assert!(run.ran().len() <= steps - done, "what was finished is kept");
        assert_eq!(project.trees(), made.project.trees(), "attempt {attempt}");
        assert_eq!(project.reports(), made.project.reports(), "attempt {attempt}");
        assert_eq!(project.cached("work"), 0, "nothing half-written is left");
    }
    assert!(disturbed >= 8, "the kills came too late to mean anything: {disturbed}");
}

/// A run that takes longer than anybody waits.
const LONG: &str = r#""hmd-fc-train": (updates: 1000000, evaluate_every: 1000000),"#;

/// The process of the long run, once it is there.
fn long_step(project: &Project) -> i32 {
    let mut pid = None;
    wait_until("the long step began", || {
        let steps = step_processes(&project.path("cache"));
        pid = steps.iter().find(|process| process.step == "hmd-fc-train").map(|process| process.pid);
        pid.is_some()
    });
    // Time for it to get to its work.
    std::thread::sleep(Duration::from_millis(200));
    pid.unwrap()
}

#[test]
fn the_crash_of_a_step_ends_that_step_alone() {
    let made = made();
    let project = made.project.copy();
    project.defaults(LONG);
    project.defaults(r#""mmh-fc-train": (lr: 0.5),"#);
    let child = project.spawn(&["make", "all", "--keep-going"]);
    kill_process(Pid::from_raw(long_step(&project)).unwrap(), Signal::KILL).unwrap();
    let run = finished(child.wait_with_output().unwrap()).expect(1);
    assert_eq!(run.ran(), ["mmh-fc", "mmh-fc-on-hmd", "mmh-fc-train"]);
    let told = "error: step `hmd-fc-train` failed: its process was killed by signal 9 (SIGKILL";
    assert!(run.err.contains(told), "{}", run.err);
    assert_eq!(project.cached("work"), 0);
    assert_eq!(project.reports(), made.project.reports(), "reports of a whole run stay");
}

#[test]
fn ctrl_c_ends_everything_and_keeps_what_was_finished() {
    let made = made();
    let project = made.project.copy();
    project.defaults(LONG);
    let child = project.spawn(&["make", "all"]);
    long_step(&project);
    let since = Instant::now();
    signal(&child, Signal::INT);
    let run = finished(child.wait_with_output().unwrap()).expect(130);
    assert!(since.elapsed() < Duration::from_secs(3), "the stage listens and need not be killed");
    assert!(run.err.contains("stopped; what was finished is kept in "), "{}", run.err);
    assert_eq!(step_processes(&project.path("cache")), []);
    assert_eq!(project.cached("work"), 0);
    project.write(&made.project.text());
    let again = project.run(&["make", "all"]).expect(0);
    assert!(again.err.starts_with("nothing to do: "), "{}", again.err);
}
