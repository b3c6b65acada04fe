//! The side of a step that does the work: runs one stage on one task, turns whatever happens (a panic too) into
//! an outcome, and passes on what the stage says. It does not know in which process it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use stage_api::{AllowedEnv, Job, Progress, Registry, Unit};

use super::executor::{Outcome, Report, Task};
use super::machine;

/// No more than twenty progress reports a second: a stage may call for every item.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// A task as it is handed to a child process.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct JobFile {
    /// What to run.
    pub task: Task,
    /// The parent process; the child ends when it is gone.
    pub parent: u32,
}

/// The job of a step that is running now with its results in `store`, if there is one. A folder that a killed run
/// left behind is none: the process that started it is gone.
pub fn running_job(store: &Path, step: &str) -> Option<JobFile> {
    let folders = std::fs::read_dir(store.join("work")).ok()?;
    folders.flatten().find_map(|folder| {
        let job: JobFile =
            serde_json::from_slice(&std::fs::read(folder.path().join("job.json")).ok()?).ok()?;
        let parent = rustix::process::Pid::from_raw(i32::try_from(job.parent).ok()?)?;
        let is_there = !matches!(rustix::process::test_kill_process(parent), Err(rustix::io::Errno::SRCH));
        (job.task.step == step && is_there).then_some(job)
    })
}

/// Runs the job in `file`; reports go to `events` as JSON lines, the last one being how it ended.
///
/// # Errors
/// When the job file cannot be read or the events cannot be written (the parent is gone).
pub fn run_job(registry: &Registry, file: &Path, events: impl Write + Send) -> io::Result<Outcome> {
    let job: JobFile = serde_json::from_slice(&std::fs::read(file)?)?;
    die_with(job.parent)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&cancelled))?;
    let events = Mutex::new(events);
    let send = |report: Report| -> io::Result<()> {
        let line = serde_json::to_string(&report)? + "\n";
        let mut events = events.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        events.write_all(line.as_bytes())?;
        events.flush()
    };
    // A listener that went away will also take this process with it; no need to fail here.
    let outcome = perform(registry, &job.task, cancelled, &|report| drop(send(report)));
    if let Some(peak) = machine::peak_memory() {
        send(Report::Memory(peak))?;
    }
    send(Report::Ended(outcome.clone()))?;
    Ok(outcome)
}

/// Asks the kernel to end this process when its parent ends, so that `kill -9` of a run leaves nothing behind.
#[cfg(target_os = "linux")]
fn die_with(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let is_there = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    // The parent may have ended before the request.
    if is_there { Ok(()) } else { Err(io::Error::other("the process that started this one is gone")) }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: u32) -> io::Result<()> {
    Ok(())
}

/// Runs a task in this thread.
pub fn perform(
    registry: &Registry,
    task: &Task,
    cancelled: Arc<AtomicBool>,
    send: &(dyn Fn(Report) + Sync),
) -> Outcome {
    let progress = match StepProgress::open(&task.log, cancelled, Box::new(send)) {
        Ok(progress) => progress,
        Err(error) => return Outcome::Failed(format!("{}: cannot be written: {error}", task.log.display())),
    };
    // On another machine than the one that started the run, say.
    if let Err(error) = registry.check_host() {
        return Outcome::Failed(error.message);
    }
    let Some(stage) = registry.get(&task.stage) else {
        return Outcome::Failed(format!("this program has no stage `{}`", task.stage));
    };
    if let Err(error) = std::fs::create_dir_all(&task.scratch) {
        return Outcome::Failed(format!("{}: cannot be created: {error}", task.scratch.display()));
    }
    let job = Job {
        inputs: &task.inputs,
        out: &task.out,
        scratch: &task.scratch,
        host: &task.host,
        allowed_env: &AllowedEnv::select(stage.allowed_env(), std::env::vars_os()),
        progress: &progress,
    };
    // Nothing of the stage is used after a panic: its folder is thrown away.
    let outcome = match catch_unwind(AssertUnwindSafe(|| stage.load(&task.params)?.run(&job))) {
        Ok(result) => Outcome::of(result),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Outcome::Failed(format!("the stage `{}` panicked: {text}", task.stage))
        }
    };
    match &outcome {
        Outcome::Failed(problem) => progress.note(&format!("error: {problem}")),
        Outcome::NeedsHuman(what) => progress.note(&format!("needs a person: {what}")),
        Outcome::Done | Outcome::Cancelled => {}
    }
    outcome
}

/// Notes go to the log, scalars to the file next to it and to the parent.
pub(super) struct StepProgress<'a> {
    send: SendReport<'a>,
    cancelled: Arc<AtomicBool>,
    log: Mutex<File>,
    scalars: Mutex<Option<File>>,
    scalar_file: std::path::PathBuf,
    reported_at: Mutex<Option<Instant>>,
}

/// Passes on a report.
type SendReport<'a> = Box<dyn Fn(Report) + Send + Sync + 'a>;

impl<'a> StepProgress<'a> {
    /// Progress with this log.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub fn open(log: &Path, cancelled: Arc<AtomicBool>, send: SendReport<'a>) -> io::Result<Self> {
        Ok(Self {
            send,
            cancelled,
            log: Mutex::new(append(log)?),
            scalars: Mutex::new(None),
            scalar_file: log.with_extension("jsonl"),
            reported_at: Mutex::new(None),
        })
    }
}

/// Opens a file for more text. A command may have put a link in its place, or a pipe, which would wait for a reader.
fn append(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    OpenOptions::new().create(true).append(true).custom_flags(flags as i32).open(path)
}

impl Progress for StepProgress<'_> {
    fn advance(&self, done: u64, total: u64, unit: Unit) {
        let Ok(mut reported_at) = self.reported_at.lock() else { return };
        if done == total || reported_at.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
            *reported_at = Some(Instant::now());
            (self.send)(Report::Progress { done, total, unit });
        }
    }

    fn scalar(&self, name: &str, step: u64, value: f64) {
        let report = Report::Scalar {
            name: name.to_owned(),
            step,
            value: Some(value).filter(|value| value.is_finite()),
        };
        if let (Ok(mut file), Ok(line)) = (self.scalars.lock(), serde_json::to_string(&report)) {
            if file.is_none() {
                *file = append(&self.scalar_file).ok();
            }
            // A step does not fail because a value for its log could not be kept.
            if let Some(file) = file.as_mut() {
                let _ = file.write_all((line + "\n").as_bytes());
            }
        }
        (self.send)(report);
    }

    fn note(&self, text: &str) {
        if let Ok(mut log) = self.log.lock() {
            let _ = log.write_all(format!("{text}\n").as_bytes());
        }
    }

    fn warn(&self, text: &str) {
        self.note(&format!("warning: {text}"));
        (self.send)(Report::Warned(text.to_owned()));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
