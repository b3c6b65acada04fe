//! Steps as jobs of a real Slurm, with failures. This test runs only on request, because it needs root and Slurm:
//! `cargo test --release --workspace --test slurm`.

mod cluster;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "../engine/support.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;

use cluster::{Cluster, events, executions, step, wait_for_begun, waiting_step};
use process::{finished, signal, wait_until};
use support::TestSpace;

const TOYS: &str = r#"
    (name: "a", stage: "join", params: (text: "a")),
    (for: {"n": [1, 2, 3]}, name: "b{n}", stage: "join", params: (text: "n{n}", ms: 50), inputs: {"in": ["a"]}, needs: (cpu: 2)),
    (name: "words", stage: "command", inputs: {"texts": ["b{1,2,3}/text"]},
     params: (shell: "cat {input.texts} > {out}/all; echo said >&2", outputs: ["all"])),
    (name: "end", stage: "join", inputs: {"in": ["words", "b2"]}, publish: "end"),
"#;

/// A project whose steps know its folder.
fn space_of(cluster: &Cluster, steps: impl Fn(&str) -> String) -> TestSpace {
    let space = cluster.space("");
    let folder = space.path("").canonicalize().unwrap().display().to_string();
    space.steps(&steps(folder.trim_end_matches('/')));
    space
}

fn ran(space: &TestSpace) -> String {
    space.read("ran")
}

#[test]
fn a_run_on_the_cluster_equals_a_local_one_in_every_digest() {
    let cluster = Cluster::start();
    let (here, there) = (TestSpace::new(TOYS), cluster.space(TOYS));
    here.make().expect(0);
    let run = cluster.make(&there, &["--json", "-j", "4"]).expect(0);
    assert_eq!(here.trees(), there.trees());
    assert_eq!(here.read("reports/mini/end/text"), there.read("reports/mini/end/text"));
    assert!(
        there.read("reports/mini/end/text").contains("all=n1"),
        "{}",
        there.read("reports/mini/end/text")
    );
    assert!(events(&run.out, "started").iter().all(|event| event["device"] == "slurm"));
    let placed = events(&run.out, "placed");
    assert!(placed.iter().any(|event| event["place"] == "job 1 submitted"), "{placed:?}");
    // The output of a step arrives here: its log, its values, its progress.
    assert!(there.run(&["log", "b1"]).expect(0).out.contains("joined on cpu with 2 threads (2)"));
    assert_eq!(there.run(&["log", "words"]).expect(0).out, "said\n");
    assert!(
        events(&run.out, "scalar").iter().any(|event| event["step"] == "b1" && event["name"] == "length")
    );
    assert_eq!(there.cached("jobs"), [""; 0], "nothing is left");
    assert_eq!(there.cached("work"), [""; 0]);
    assert!(cluster.make(&there, &[]).expect(0).err.contains("nothing to do"));
    assert!(there.make().expect(0).err.contains("nothing to do"), "locally as well");
}

#[test]
fn a_cancelled_job_fails_and_the_next_make_continues_from_its_scratch() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| step(folder, "long", 60.0, ""));
    let make = cluster.spawn(&space);
    wait_for_begun(&space, 1);
    wait_until("the command began", || space.path("ran").exists());
    cluster.ask(&format!("scancel {}", cluster.jobs()[0]));
    let run = finished(make.wait_with_output().unwrap()).expect(1);
    assert!(
        run.err.contains("step `long` failed: its job 1 was cancelled from outside this run"),
        "{}",
        run.err
    );
    assert_eq!(space.cached("jobs"), [""; 0]);
    let log = {
        cluster.make(&space, &[]).expect(0);
        space.run(&["log", "long"]).expect(0).out
    };
    assert_eq!((ran(&space).as_str(), log.as_str()), ("begin long\nbegin long\nend long\n", "goes on\n"));
}

#[test]
fn a_failed_step_fails_as_in_a_local_run() {
    let cluster = Cluster::start();
    let space =
        cluster.space(r#"(name: "three", stage: "command", params: (shell: "echo so it is >&2; exit 3")),"#);
    let run = cluster.make(&space, &[]).expect(1);
    assert!(
        run.err.contains("\n[1/1] three failed: it ended with exit code 3:\n  so it is\n"),
        "{}",
        run.err
    );
    assert!(run.err.contains("hint: its log is "), "{}", run.err);
    space.steps(r#"(name: "person", stage: "trouble", params: (how: "human")),"#);
    assert!(cluster.make(&space, &[]).expect(3).err.contains("place the archive in data/"));
    space.steps(r#"(name: "abort", stage: "trouble", params: (how: "abort")),"#);
    assert!(cluster.make(&space, &[]).expect(1).err.contains("killed by signal 6"));
    assert_eq!(space.cached("jobs"), [""; 0]);
}

#[test]
fn an_error_of_slurm_is_passed_on() {
    let cluster = Cluster::start();
    let space = cluster.space(r#"(name: "a", stage: "join", needs: (memory: "900 GiB")),"#);
    let run = cluster.make(&space, &[]).expect(1);
    assert!(
        run.err.contains("step `a` failed: `sbatch` rejected its job: ") && run.err.contains("Memory"),
        "{}",
        run.err
    );
    space.write("site.ron", "(steps: [(\"join\", (partition: \"none\"))])");
    let run = cluster.make(&space, &[]).expect(1);
    assert!(run.err.contains("invalid partition specified: none"), "{}", run.err);
    space.write("site.ron", "(partitions: [])");
    let run = cluster.make(&space, &[]).expect(2);
    assert!(run.err.contains("site.ron:1:2: ") && run.err.contains("partitions"), "{}", run.err);
    let run = finished(
        cluster.command(&space, &[]).env("PATH", "/nowhere").arg("--slurm-site=/dev/null").output().unwrap(),
    );
    assert_eq!(run.code, Some(2), "{}", run.err);
}

#[test]
fn local_steps_of_the_site_file_run_here() {
    let cluster = Cluster::start();
    let space = cluster.space(TOYS);
    space.write("site.ron", "(job: (memory: \"50 MiB\"), here: [\"command\", \"b*\"], poll: 1)");
    let run = cluster.make(&space, &["--json"]).expect(0);
    let sent = events(&run.out, "placed");
    let sent = |step: &str| sent.iter().any(|event| event["step"] == step);
    assert_eq!(["a", "b1", "words", "end"].map(sent), [true, false, false, true]);
}

#[test]
fn a_restart_of_the_controller_loses_nothing() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| {
        let second = step(folder, "second", 0.1, "");
        step(folder, "first", 6.0, "") + &second.replace("params:", "inputs: {\"in\": [\"first\"]}, params:")
    });
    let make = cluster.spawn(&space);
    wait_until("the command began", || space.path("ran").exists());
    cluster.kill_controller();
    // Longer than the time between two looks at the queue.
    std::thread::sleep(Duration::from_secs(3));
    cluster.start_controller(false);
    finished(make.wait_with_output().unwrap()).expect(0);
    assert_eq!(ran(&space), "begin first\nend first\nbegin second\nend second\n");
}

#[test]
fn a_job_that_the_controller_has_forgotten_is_submitted_again() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| step(folder, "long", 60.0, ""));
    let make = cluster.spawn(&space);
    wait_until("the command began", || space.path("ran").exists());
    cluster.kill_controller();
    cluster.start_controller(true);
    let run = finished(make.wait_with_output().unwrap()).expect(0);
    assert!(run.err.contains("its job 1 was lost (unknown to Slurm); submitting it again"), "{}", run.err);
    assert_eq!(ran(&space), "begin long\nbegin long\nend long\n");
}

#[test]
fn jobs_of_a_killed_run_are_found_whether_they_wait_run_or_have_ended() {
    let cluster = Cluster::start();
    // The first two take both GPUs each: one runs, one waits. The third ends while no run watches.
    let space = space_of(&cluster, |folder| {
        waiting_step(folder, "one", "gpu: 2")
            + &step(folder, "two", 1.0, "gpu: 2")
            + &step(folder, "three", 1.0, "")
    });
    let mut make = cluster.spawn(&space);
    wait_until("all are submitted", || cluster.jobs().len() == 3);
    wait_for_begun(&space, 2);
    make.kill().unwrap();
    make.wait().unwrap();
    // It does not run here while its job runs there.
    let run = space.run(&["make", "one", "two", "--keep-going"]).expect(1);
    let refused = run.err.matches("a job that an earlier run submitted still runs this step").count();
    assert!(refused >= 1 && run.err.contains("use `--executor slurm`"), "{}", run.err);
    wait_until("the third ended", || ran(&space).contains("end three"));
    space.write("go", "");
    cluster.make(&space, &[]).expect(0);
    let mut lines: Vec<String> = ran(&space).lines().map(ToOwned::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["begin one", "begin three", "begin two", "end one", "end three", "end two"]);
    wait_until("no job is left", || cluster.jobs().is_empty());
    assert_eq!(space.cached("jobs"), [""; 0]);
}

#[test]
fn a_job_without_an_answer_or_with_two_submissions_runs_once() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| step(folder, "once", 1.5, ""));
    // A replacement for `sbatch` that submits twice and prints that there was no answer.
    let real = cluster.ask("which sbatch");
    let fake = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec {real} --version\ncat > \"$0.script\"\n\
         {real} \"$@\" < \"$0.script\" > /dev/null\n{real} \"$@\" < \"$0.script\" > /dev/null\n\
         echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1\n",
        real = real.trim()
    );
    space.write("bin/sbatch", &fake);
    std::fs::set_permissions(space.path("bin/sbatch"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", space.path("bin").display(), std::env::var("PATH").unwrap());
    let run = finished(cluster.command(&space, &[]).env("PATH", path).output().unwrap()).expect(0);
    assert!(run.err.contains("Socket timed out"), "{}", run.err);
    wait_until("no job is left", || cluster.jobs().is_empty());
    assert_eq!(ran(&space), "begin once\nend once\n");
}

#[test]
fn a_job_that_slurm_restarts_continues_from_its_scratch() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| step(folder, "long", 60.0, ""));
    let make = cluster.spawn(&space);
    wait_until("the command began", || space.path("ran").exists());
    cluster.ask("scontrol requeue 1");
    cluster.start_again("1");
    finished(make.wait_with_output().unwrap()).expect(0);
    assert_eq!(ran(&space), "begin long\nbegin long\nend long\n");
}

#[test]
fn a_failed_node_loses_only_work_that_is_not_in_scratch() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| step(folder, "long", 60.0, ""));
    let make = cluster.spawn(&space);
    wait_until("the command began", || space.path("ran").exists());
    let node = cluster.ask("hostname -s");
    cluster.ask(&format!("scontrol update nodename={} state=down reason=test", node.trim()));
    cluster.start_again("1");
    finished(make.wait_with_output().unwrap()).expect(0);
    assert_eq!(ran(&space), "begin long\nbegin long\nend long\n");
}

#[test]
fn the_two_gpus_are_never_oversubscribed_by_the_records() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| {
        let one = |n| step(folder, &format!("g{n}"), 0.7, "gpu: 1");
        (0..6).map(one).collect::<String>()
            + &step(folder, "both", 0.5, "gpu: 2")
            + &step(folder, "none", 0.2, "")
    });
    cluster.make(&space, &[]).expect(0);
    let executions = executions(&space);
    let gpus = |name: &str| executions.iter().find(|(step, ..)| step == name).unwrap().1.clone();
    assert_eq!((gpus("both"), gpus("none")), (vec!["0".to_owned(), "1".to_owned()], vec![]));
    let mut together = 0;
    for (at, (step, own, from, to)) in executions.iter().enumerate() {
        for (other, others, begin, end) in &executions[at + 1..] {
            let overlap = from < end && begin < to;
            let shared = own.iter().any(|gpu| others.contains(gpu));
            assert!(!(overlap && shared), "{step} and {other} had one GPU at one time: {executions:?}");
            together += usize::from(overlap && !own.is_empty() && !others.is_empty());
        }
    }
    assert!(together > 0, "two ran side by side: {executions:?}");
}

#[test]
fn ctrl_c_cancels_the_jobs() {
    let cluster = Cluster::start();
    let space = space_of(&cluster, |folder| {
        step(folder, "one", 60.0, "gpu: 2") + &step(folder, "two", 60.0, "gpu: 2")
    });
    let make = cluster.spawn(&space);
    wait_until("both are submitted", || cluster.jobs().len() == 2);
    wait_until("one began", || space.path("ran").exists());
    signal(&make, Signal::INT);
    finished(make.wait_with_output().unwrap()).expect(130);
    wait_until("no job is left", || cluster.jobs().is_empty());
    assert_eq!((ran(&space).lines().count(), space.cached("jobs").len()), (1, 0));
}
