//! The side of a job that runs the step, on a node. It takes the job lock, runs the task as a local run would, and
//! writes reports and the outcome to the job directory. It asks Slurm for nothing beyond the environment.
//!
//! A job that is asked to end (cancelled, preempted, out of time) writes no outcome, because its step is not done.
//! The same job, if Slurm starts it again, or another one repeats the step with its scratch folder.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use petgraph::graph::NodeIndex;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::job_files::{self, Ended};
use crate::record::Machine;
use crate::run::executor::{Execution, Executor, Message, Outcome, Report, Reporter, Running, Task};
use crate::run::machine;
use crate::run::resources::device;
use crate::run::subprocess::Subprocess;
use crate::store::{JobLock, files};

/// A step that fails this shortly before a stop request has probably received that request too.
const STOP_WINDOW: Duration = Duration::from_millis(500);

/// Runs the task of a job directory. Returns the outcome, or `None` if there was no work left.
///
/// # Errors
/// When the job directory is not usable.
pub fn work_at(job_dir: &Path) -> io::Result<Option<Outcome>> {
    let Some(mut job_lock) = JobLock::wait(job_dir)? else { return Ok(None) };
    let started_ms = now_ms();
    job_lock.note(&who(started_ms))?;
    job_lock.share()?;
    let task = prepared(job_dir, job_files::task(job_dir)?)?;
    let machine = Machine {
        name: machine::name(),
        device: task.host.device.clone(),
        threads: task.host.threads,
        gpus: task.gpus.clone().unwrap_or_default(),
    };
    let (sender, messages) = channel();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn({
        let sender = sender.clone();
        move || signals.forever().all(|_| sender.send(Message::Stop).is_ok())
    });
    let since = Instant::now();
    let mut writer = job_files::reports(job_dir)?;
    let executor = Subprocess::this_program()?;
    let outcome = match executor.start(task, Reporter::new(sender, NodeIndex::new(0))) {
        Ok(running) => follow(&*running, &messages, &mut writer),
        Err(error) => Some(Outcome::Failed(format!("cannot start its process: {error}"))),
    };
    let Some(outcome) = outcome else { return Ok(Some(Outcome::Cancelled)) };
    let execution = Execution { machine, started_ms, seconds: since.elapsed().as_secs_f64() };
    job_files::put_end(job_dir, &Ended { outcome: outcome.clone(), execution })?;
    Ok(Some(outcome))
}

/// Writes the reports of a step until it ends; `None` if it was asked to stop and did not finish.
fn follow(running: &dyn Running, messages: &Receiver<Message>, writer: &mut fs::File) -> Option<Outcome> {
    let mut stopped = false;
    loop {
        match messages.recv().ok()? {
            Message::Stop if stopped => running.kill(),
            Message::Stop => {
                stopped = true;
                running.stop();
            }
            Message::Step { report: Report::Ended(Outcome::Done), .. } => return Some(Outcome::Done),
            Message::Step { report: Report::Ended(outcome), .. } => {
                let was_requested =
                    stopped || matches!(messages.recv_timeout(STOP_WINDOW), Ok(Message::Stop));
                return (!was_requested).then_some(outcome);
            }
            // A step does not fail because a report cannot be written.
            Message::Step { report, .. } => drop(job_files::put_report(writer, &report)),
        }
    }
}

/// The task for this machine, with empty folders: an earlier attempt may have died here.
fn prepared(job_dir: &Path, mut task: Task) -> io::Result<Task> {
    // These folders are removed, so paths from the file must not lead outside.
    if [&task.out, &task.folder].iter().any(|folder| folder.parent() != Some(job_dir)) {
        return Err(io::Error::other("the task file names folders outside of the job directory"));
    }
    for folder in [&task.out, &task.folder] {
        files::remove(folder)?;
        fs::create_dir_all(folder)?;
    }
    let wants_gpu = task.needs.has_gpu();
    // Without limits by Slurm, the job may see the GPUs of other jobs.
    task.gpus = if wants_gpu { machine::allowed_gpus() } else { Some(Vec::new()) };
    task.host.device = device(wants_gpu).to_owned();
    Ok(task)
}

/// A line for the job lock.
fn who(started_ms: u64) -> String {
    let job = std::env::var("SLURM_JOB_ID").unwrap_or_else(|_| "?".to_owned());
    let start = std::env::var("SLURM_RESTART_COUNT").map_or(1, |count| count.parse().unwrap_or(0) + 1);
    format!("job {job}, start {start}, on {} since {started_ms}", machine::name())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
