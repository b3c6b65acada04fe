//! Ends all processes that a step has started and left running, including those in their own session: they could
//! still write into a stored result.
//!
//! This process adopts the orphans of its children (`PR_SET_CHILD_SUBREAPER`). A mark that every process inherits
//! shows the step of an orphan: the limit on file locks, which Linux keeps but has not enforced since 2.4.25. So no
//! process in between is necessary, and a step that leaves nothing costs one read of `/proc`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

/// This many steps of a run have different marks.
const MAX_MARKS: u64 = 1 << 20;
/// How long killed processes may take to end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The marks of the steps of this run.
#[derive(Debug, Clone)]
pub(super) struct Descendants(Arc<Mutex<Started>>);

#[derive(Debug)]
struct Started {
    /// The mark of the first step, and the number of steps so far.
    first: u64,
    steps: u64,
    /// The processes that this one has started and waits for.
    own: HashSet<Pid>,
    /// The list of this process's children.
    children: Option<File>,
}

/// The mark that the processes of one step share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Descendants {
    /// From now on this process adopts orphans.
    pub fn adopt() -> Self {
        system::adopt_orphans();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        // Unique for each run: it contains the process ID and the time.
        let run = u64::from(std::process::id()) << 20 | (now >> 10 & 0xf_ffff);
        let first = 1 << 62 | (run << 20 & !(3 << 62));
        Self(Arc::new(Mutex::new(Started {
            first,
            steps: 0,
            own: HashSet::new(),
            children: File::open(children_file(getpid())).ok(),
        })))
    }

    /// The mark of the first step of this run.
    pub fn first(&self) -> u64 {
        self.started().first
    }

    /// Starts a process of a step with `start`. It and its children get a new mark.
    pub fn marked<T>(&self, start: impl FnOnce() -> T) -> (Mark, T) {
        let mark = {
            let mut started = self.started();
            started.steps += 1;
            Mark(started.first + started.steps % MAX_MARKS)
        };
        (mark, system::with_mark(mark.0, start))
    }

    /// Blocks until a process of this one has ended, without reaping it. Meanwhile it reaps orphans of its step,
    /// because a long step may leave many.
    pub fn wait_for(&self, main: Pid, mark: Mark) {
        system::wait_for(main, || {
            reap(&self.orphans(mark));
        });
    }

    /// Registers a process that this one waits for.
    pub fn add(&self, process: Pid) {
        self.started().own.insert(process);
    }

    /// Unregisters a process that has ended and is about to be reaped; after that its number may be reused.
    pub fn remove(&self, process: Pid) {
        self.started().own.remove(&process);
    }

    /// Ends the remaining processes of a step whose own process was reaped.
    ///
    /// # Errors
    /// A message, if one of them still exists after some seconds.
    pub fn end(&self, mark: Mark) -> Result<(), String> {
        let since = Instant::now();
        loop {
            let left = self.orphans(mark);
            let Some(first) = left.first() else { return Ok(()) };
            if since.elapsed() > EXIT_TIMEOUT {
                return Err(format!("process {first}, which it left running, does not end"));
            }
            let mut stopped = Vec::new();
            left.iter().for_each(|orphan| stop_with_children(*orphan, &mut stopped));
            for process in stopped {
                let _ = kill_process(process, Signal::KILL);
            }
            if !reap(&left) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// The children of this process that it did not start and that have the mark of a step.
    fn orphans(&self, mark: Mark) -> Vec<Pid> {
        let mut children = {
            let started = self.started();
            let listed = started.children.as_ref().and_then(|file| read_again(file).ok());
            let mut children = numbers(&listed.unwrap_or_default());
            children.retain(|child| !started.own.contains(child));
            children
        };
        children.retain(|child| mark_of(*child) == Some(mark.0));
        children
    }

    fn started(&self) -> std::sync::MutexGuard<'_, Started> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends every process that has a mark of the run whose first mark is `first`.
pub(super) fn end_all(first: u64) {
    let since = Instant::now();
    let is_of_run =
        |process: &Pid| mark_of(*process).is_some_and(|mark| mark >= first && mark - first < MAX_MARKS);
    while since.elapsed() < EXIT_TIMEOUT {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let left: Vec<Pid> =
            processes.filter_map(|item| number(item.file_name().to_str()?)).filter(is_of_run).collect();
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = kill_process(process, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_without_reaping(process: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(process), options) {}
}

/// Reaps those that have ended. Returns whether there were any.
fn reap(processes: &[Pid]) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let ended =
        processes.iter().filter(|process| matches!(waitid(WaitId::Pid(**process), options), Ok(Some(_))));
    ended.count() > 0
}

/// Stops a process and its children, and lists them. All are stopped before one is killed: a shell that waits for a
/// program would continue with its next line and might write. A run within a step has its own marks, so children
/// count whatever their mark.
fn stop_with_children(process: Pid, stopped: &mut Vec<Pid>) {
    let _ = kill_process(process, Signal::STOP);
    stopped.push(process);
    let children = fs::read_to_string(children_file(process)).unwrap_or_default();
    numbers(&children).into_iter().for_each(|child| stop_with_children(child, stopped));
}

/// Lists the children of a process. The system gives orphans to its first thread.
fn children_file(process: Pid) -> String {
    let number = process.as_raw_nonzero();
    format!("/proc/{number}/task/{number}/children")
}

fn numbers(listed: &str) -> Vec<Pid> {
    listed.split_whitespace().filter_map(number).collect()
}

/// Reads a file of `/proc` from its start, so the text is current.
fn read_again(file: &File) -> io::Result<String> {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match file.read_at(&mut part, text.len() as u64)? {
            0 => return String::from_utf8(text).map_err(io::Error::other),
            length => text.extend_from_slice(&part[..length]),
        }
    }
}

fn mark_of(process: Pid) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.as_raw_nonzero())).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn number(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok().filter(|number| *number > 1)?)
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{
        Pid, PidfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_open, set_child_subreaper, setrlimit,
    };

    /// The time between two reaps of orphans of a running step.
    const REAP_EVERY: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

    pub fn adopt_orphans() {
        // If the system refuses, orphans go to its first process, and the guard ends them with the run.
        let _ = set_child_subreaper(Some(getpid()));
    }

    /// The limit applies to the whole process for the moment, so one thread starts all steps.
    pub fn with_mark<T>(mark: u64, start: impl FnOnce() -> T) -> T {
        let before = getrlimit(Resource::Locks);
        let _ = setrlimit(Resource::Locks, Rlimit { current: Some(mark), maximum: before.maximum });
        let result = start();
        let _ = setrlimit(Resource::Locks, before);
        result
    }

    pub fn wait_for(process: Pid, mut meanwhile: impl FnMut()) {
        if let Ok(descriptor) = pidfd_open(process, PidfdFlags::empty()) {
            let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
            while matches!(poll(&mut polled, Some(&REAP_EVERY)), Ok(0) | Err(Errno::INTR)) {
                meanwhile();
            }
        }
        // It has ended, or the kernel has no such descriptors.
        super::wait_without_reaping(process);
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use rustix::process::Pid;

    pub fn adopt_orphans() {}

    pub fn with_mark<T>(_mark: u64, start: impl FnOnce() -> T) -> T {
        start()
    }

    pub fn wait_for(process: Pid, _meanwhile: impl FnMut()) {
        super::wait_without_reaping(process);
    }
}
