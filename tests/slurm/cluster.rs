//! A private Slurm for a test: one node with two fake GPUs on loopback, started by `up.sh` in a new folder and
//! stopped with the test. Without Slurm the test fails and names what to install.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Run, finished, wait_until};
use super::support::TestSpace;

/// A short interval and little memory, so that many jobs run at once. Slurm starts `three` before an earlier job that
/// waits for GPUs only if it ends before those may be free.
const SITE: &str =
    "(job: (memory: \"50 MiB\", time: \"10:00\"), steps: [(\"three\", (time: \"2:00\"))], poll: 1)";

pub struct Cluster {
    folder: TempDir,
}

impl Cluster {
    pub fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 16 + STARTED.fetch_add(1, Ordering::SeqCst);
        let port = 20_000 + number % 5_000 * 2;
        let cluster = Self { folder: tempfile::tempdir().unwrap() };
        let up = cluster.script("up.sh", &[]).env("SLURM_TEST_PORT", port.to_string()).output();
        let up = finished(up.unwrap());
        assert_eq!(
            up.code,
            Some(0),
            "Slurm does not start: {}\nThe test needs root, and the packages slurmctld, slurmd, slurm-client and munge: \
             apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge",
            up.err
        );
        cluster
    }

    fn script(&self, name: &str, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm").join(name);
        let mut command = Command::new("sh");
        command.arg(script).arg(self.folder.path()).args(args);
        // The daemons must not hold the pipes of the test open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn conf(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }

    /// Starts the controller again, with its saved state or without.
    pub fn start_controller(&self, forgets: bool) {
        let args = if forgets { &["controller", "-c"][..] } else { &["controller"] };
        assert!(self.script("up.sh", args).stderr(Stdio::null()).status().unwrap().success());
    }

    /// Starts a requeued job at once; Slurm would wait for minutes.
    pub fn start_again(&self, job: &str) {
        let state = || self.ask(&format!("squeue --noheader --format=%T --jobs={job}"));
        wait_until("it is back in the queue", || state().trim() == "PENDING");
        self.ask(&format!("scontrol update jobid={job} starttime=now"));
    }

    /// Kills the controller.
    pub fn kill_controller(&self) {
        let file = self.folder.path().join("run/slurmctld.pid");
        let pid = std::fs::read_to_string(file).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    /// The output of a command of Slurm.
    pub fn ask(&self, command: &str) -> String {
        let mut words = command.split(' ');
        let mut process = Command::new(words.next().unwrap());
        let run = finished(process.args(words).env("SLURM_CONF", self.conf()).output().unwrap());
        assert_eq!(run.code, Some(0), "{command}: {}", run.err);
        run.out
    }

    /// The IDs of the running and waiting jobs.
    pub fn jobs(&self) -> Vec<String> {
        self.ask("squeue --noheader --format=%i").lines().map(|line| line.trim().to_owned()).collect()
    }

    /// A project for this cluster.
    pub fn space(&self, steps: &str) -> TestSpace {
        let space = TestSpace::new(steps);
        space.write("site.ron", SITE);
        space
    }

    pub fn command(&self, space: &TestSpace, args: &[&str]) -> Command {
        let args = [&["make", "--executor", "slurm", "--slurm-site", "site.ron"], args].concat();
        let mut command = space.command(&args);
        command.env("SLURM_CONF", self.conf());
        command
    }

    pub fn make(&self, space: &TestSpace, args: &[&str]) -> Run {
        finished(self.command(space, args).output().unwrap())
    }

    pub fn spawn(&self, space: &TestSpace) -> Child {
        self.command(space, &[]).spawn().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.script("down.sh", &[]).stderr(Stdio::null()).status();
    }
}

/// The lines of the job locks of all started jobs whose directories exist.
pub fn begun(space: &TestSpace) -> Vec<String> {
    let job_dirs = space.cached("jobs").into_iter();
    job_dirs.flat_map(|job_dir| repro::store::notes(&space.path("cache/jobs").join(job_dir))).collect()
}

/// Waits until this many jobs have started.
#[track_caller]
pub fn wait_for_begun(space: &TestSpace, number: usize) {
    wait_until("the jobs began", || begun(space).len() == number);
}

/// A step that writes to the file `ran` of the project when it starts and ends. The first attempt takes `seconds`.
/// Later ones find a file of the first in their scratch folder and end at once.
pub fn step(space: &str, name: &str, seconds: f64, needs: &str) -> String {
    format!(
        "(name: \"{name}\", stage: \"command\", needs: ({needs}), params: (shell: \"echo begin {name} >> {space}/ran; \
         if ! mkdir {{scratch}}/begun 2> /dev/null; then echo goes on; else sleep {seconds}; fi; \
         echo {name} > {{out}}/text; echo end {name} >> {space}/ran\")),\n"
    )
}

/// Like [`step`], but the first attempt ends when there is a file `go` in the project.
pub fn waiting_step(space: &str, name: &str, needs: &str) -> String {
    step(space, name, 0.1, needs)
        .replace("sleep 0.1", &format!("until [ -e {space}/go ]; do sleep 0.1; done"))
}

/// When and on which GPUs each step ran, from the records: name, GPUs, start and end in milliseconds.
pub fn executions(space: &TestSpace) -> Vec<(String, Vec<String>, u64, u64)> {
    let store = repro::store::ContentStore::open(&space.path("cache")).unwrap();
    let of = |record: repro::record::RunRecord| {
        let end = record.started_ms + (record.seconds * 1000.0) as u64;
        (record.step, record.machine.gpus, record.started_ms, end)
    };
    store.records().into_iter().map(of).collect()
}

/// The JSON lines of a run with that `event`.
pub fn events(out: &str, event: &str) -> Vec<Value> {
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}
