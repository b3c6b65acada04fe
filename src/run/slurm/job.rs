//! The side of a job that does the work, on a node: takes the desk's token, runs the task as a local run would, and
//! leaves at the desk what it reports and how it ended. It asks nothing of Slurm but what stands in the environment.
//!
//! A job that is told to end (cancelled, preempted, out of time) leaves no end behind: what it was to do is still to
//! be done, by the same job when Slurm starts it again, or by another; its scratch stays for that.

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

/// How long a step that ended badly may have ended before this process heard that both were told to.
const SAME_MOMENT: Duration = Duration::from_millis(500);

/// Does the work at a desk; returns how it ended, or `None` when there was nothing to do any more.
///
/// # Errors
/// When the desk cannot be used.
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
    let mut pen = job_files::reports(job_dir)?;
    let executor = Subprocess::this_program()?;
    let outcome = match executor.start(task, Reporter::new(sender, NodeIndex::new(0))) {
        Ok(running) => follow(&*running, &messages, &mut pen),
        Err(error) => Some(Outcome::Failed(format!("its process cannot be started: {error}"))),
    };
    let Some(outcome) = outcome else { return Ok(Some(Outcome::Cancelled)) };
    let execution = Execution { machine, started_ms, seconds: since.elapsed().as_secs_f64() };
    job_files::put_end(job_dir, &Ended { outcome: outcome.clone(), execution })?;
    Ok(Some(outcome))
}

/// Passes on what a step says until it ends; `None` when it was told to end and did not finish.
fn follow(running: &dyn Running, messages: &Receiver<Message>, pen: &mut fs::File) -> Option<Outcome> {
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
                let told_to = stopped || matches!(messages.recv_timeout(SAME_MOMENT), Ok(Message::Stop));
                return (!told_to).then_some(outcome);
            }
            // A step does not fail because nobody hears how far it is.
            Message::Step { report, .. } => drop(job_files::put_report(pen, &report)),
        }
    }
}

/// The task on this machine, its folders as a step wants to find them: an attempt before may have died here.
fn prepared(job_dir: &Path, mut task: Task) -> io::Result<Task> {
    // They are removed: what the file says must not lead elsewhere.
    if [&task.out, &task.folder].iter().any(|folder| folder.parent() != Some(job_dir)) {
        return Err(io::Error::other("the task names folders that are not the job's own"));
    }
    for folder in [&task.out, &task.folder] {
        files::remove(folder)?;
        fs::create_dir_all(folder)?;
    }
    let wants_gpu = task.needs.has_gpu();
    // Where Slurm does not confine a job it may see the GPUs of others.
    task.gpus = if wants_gpu { machine::allowed_gpus() } else { Some(Vec::new()) };
    task.host.device = device(wants_gpu).to_owned();
    Ok(task)
}

/// A line for the token.
fn who(started_ms: u64) -> String {
    let job = std::env::var("SLURM_JOB_ID").unwrap_or_else(|_| "?".to_owned());
    let start = std::env::var("SLURM_RESTART_COUNT").map_or(1, |count| count.parse().unwrap_or(0) + 1);
    format!("job {job}, start {start}, on {} since {started_ms}", machine::name())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
