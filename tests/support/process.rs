//! The program as a process: what a run of it came to, which steps it has running, how it is ended from outside.

use std::fs;
use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What a run of the program came to.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    /// The steps that ran, sorted.
    pub fn ran(&self) -> Vec<&str> {
        let mut steps: Vec<&str> = self
            .err
            .lines()
            .filter_map(|line| line.split_once("] ")?.1.split_once(" done in"))
            .map(|(step, _)| step)
            .collect();
        steps.sort_unstable();
        steps
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

pub fn finished(output: Output) -> Run {
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// A process that runs a step.
#[derive(Debug, PartialEq, Eq)]
pub struct StepProcess {
    pub pid: i32,
    /// The step's name; empty when the process has ended so far that its job is gone.
    pub step: String,
}

/// The processes, other than zombies, that run steps with results in `cache`.
pub fn step_processes(cache: &Path) -> Vec<StepProcess> {
    let mut found = Vec::new();
    for item in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = item.file_name().to_string_lossy().parse() else { continue };
        let command = fs::read(item.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let [_, "step", job] = command.trim_end_matches('\0').split('\0').collect::<Vec<_>>()[..] else {
            continue;
        };
        if Path::new(job).starts_with(cache) {
            let job: serde_json::Value =
                serde_json::from_slice(&fs::read(job).unwrap_or_default()).unwrap_or_default();
            let step = job["task"]["step"].as_str().unwrap_or_default().to_owned();
            found.push(StepProcess { pid, step });
        }
    }
    found
}

#[track_caller]
pub fn wait_until(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !test() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
