//! Watches the jobs of a run, in a thread of its own: submits them, reads at their desks what they report, looks at
//! the queue in one call for all, cancels them. What a job leaves at its desk counts; the queue is asked only
//! whether a job that has left no end is still there to leave one.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::job_files;
use super::queue::{self, Entry, NotSubmitted, Submission};
use crate::run::executor::{Outcome, Report, Reporter};
use crate::store::{JobLock, TryLock, has_ended};

/// How often the desks are looked at.
const TICK: Duration = Duration::from_millis(400);
/// How long a job may be gone from the queue before its end is seen: a network file system may show it late.
const LATE: Duration = Duration::from_secs(5);
/// How long jobs are submitted before somebody looks at the others again.
const SUBMITTING: Duration = Duration::from_secs(2);
/// How often a step is submitted whose jobs are lost without its doing.
const MOST_LOST: usize = 3;

/// What the executor wants of the watch.
pub(super) enum Order {
    Watch(Box<Job>),
    /// Cancel the job of that name; at once, or politely.
    Stop {
        name: String,
        at_once: bool,
    },
}

/// How far a job is, as far as this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is to be submitted.
    New,
    /// It may be in the queue, as an earlier process or an unanswered call may have submitted it.
    Unsure,
    /// It is in the queue, or was.
    Submitted,
}

/// How strongly a job was sent to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Cancel {
    #[default]
    No,
    Terminate,
    Kill,
}

/// A job that is watched.
pub(super) struct Job {
    job_dir: PathBuf,
    submission: Submission,
    reporter: Reporter,
    stage: Stage,
    id: Option<String>,
    place: String,
    /// Up to where its reports were read.
    read: u64,
    gone: Option<Instant>,
    lost: usize,
    requested: Cancel,
    sent: Cancel,
}

impl Job {
    /// A job for the task at a desk; `left` says that the task lay there already.
    pub fn new(job_dir: PathBuf, submission: Submission, reporter: Reporter, left: bool) -> Self {
        let stage = if left { Stage::Unsure } else { Stage::New };
        Self {
            job_dir,
            submission,
            reporter,
            stage,
            id: None,
            place: String::new(),
            read: 0,
            gone: None,
            lost: 0,
            requested: Cancel::No,
            sent: Cancel::No,
        }
    }

    /// Tells how it ended; with that it is watched no more.
    fn end(&self, outcome: Outcome) -> bool {
        self.reporter.send(Report::Ended(outcome));
        false
    }

    fn called(&self) -> String {
        self.id.as_ref().map_or_else(|| "its job".to_owned(), |id| format!("its job {id}"))
    }

    fn tell_place(&mut self, entry: &Entry) {
        let Entry { id, state, place } = entry;
        let place = match state.as_str() {
            "PENDING" => format!("job {id} waits {place}"),
            "RUNNING" => format!("job {id} runs on {place}"),
            other => format!("job {id} is {}", other.to_lowercase()),
        };
        if place != self.place {
            self.reporter.send(Report::Placed(place.clone()));
            self.place = place;
        }
    }
}

/// All that are watched.
pub(super) struct Watch {
    /// In the order in which they are submitted.
    jobs: Vec<Job>,
    poll: Duration,
    /// When the queue is looked at next.
    next: Instant,
    /// Whether it was sent that Slurm does not answer.
    outage: bool,
}

impl Watch {
    pub fn new(poll: Duration) -> Self {
        Self { jobs: Vec::new(), poll, next: Instant::now(), outage: false }
    }

    /// Watches until nobody gives orders any more.
    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = match self.jobs.is_empty() {
                true => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => orders.recv_timeout(TICK),
            };
            match order {
                Ok(order) => {
                    std::iter::once(order).chain(orders.try_iter()).for_each(|order| self.take(order))
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.submit();
            self.read_desks();
            if Instant::now() >= self.next {
                self.look();
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Watch(job) => {
                if job.stage == Stage::Unsure {
                    self.next = Instant::now();
                }
                self.jobs.push(*job);
            }
            Order::Stop { name, at_once } => {
                if let Some(job) = self.jobs.iter_mut().find(|job| job.submission.name == name) {
                    job.requested = if at_once { Cancel::Kill } else { Cancel::Terminate };
                    self.next = Instant::now();
                }
            }
        }
    }

    fn submit(&mut self) {
        let since = Instant::now();
        let outage = &mut self.outage;
        self.jobs.retain_mut(|job| {
            if job.stage != Stage::New {
                return true;
            }
            if job.requested != Cancel::No {
                return job.end(Outcome::Cancelled);
            }
            if since.elapsed() > SUBMITTING {
                return true;
            }
            match queue::submit(&job.submission) {
                Ok(id) => {
                    job.reporter.send(Report::Placed(format!("job {id} submitted")));
                    (job.id, job.stage, job.gone) = (Some(id), Stage::Submitted, None);
                    true
                }
                Err(NotSubmitted::Refused(problem)) => {
                    job.end(Outcome::Failed(format!("sbatch refused its job: {problem}")))
                }
                Err(NotSubmitted::Unsure(problem)) => {
                    job.stage = Stage::Unsure;
                    if !std::mem::replace(outage, true) {
                        job.reporter.send(Report::Warned(format!("{problem}; submitted once Slurm answers")));
                    }
                    true
                }
            }
        });
    }

    /// Passes on what the jobs left at their desks.
    fn read_desks(&mut self) {
        self.jobs.retain_mut(|job| {
            // Asked before reading, so that nothing reported before the end is missed.
            let has_ended = has_ended(&job.job_dir);
            job_files::new_reports(&job.job_dir, &mut job.read)
                .into_iter()
                .for_each(|report| job.reporter.send(report));
            // One that cannot be read yet is read the next time.
            let Some(Ok(ended)) = has_ended.then(|| job_files::end(&job.job_dir)) else { return true };
            job.reporter.send(Report::Ran(ended.execution));
            job.end(ended.outcome)
        });
    }

    /// Looks at the queue.
    fn look(&mut self) {
        let queue = match queue::list() {
            Ok(queue) => queue,
            Err(problem) => return self.no_answer(&problem),
        };
        self.outage = false;
        let mut cancelled = [Vec::new(), Vec::new()];
        self.jobs.retain_mut(|job| {
            if let Some(entries) = queue.get(&job.submission.name) {
                (job.stage, job.gone) = (Stage::Submitted, None);
                // The newest, of several that unanswered calls may have submitted.
                if let Some(entry) = entries.last() {
                    job.id = Some(entry.id.clone());
                    job.tell_place(entry);
                }
                if job.requested > job.sent {
                    let ids = entries.iter().map(|entry| entry.id.clone());
                    cancelled[usize::from(job.requested == Cancel::Kill)].extend(ids);
                }
            } else if job.stage != Stage::New
                && let Some(outcome) = missed(job)
            {
                return job.end(outcome);
            }
            true
        });
        self.cancel(&cancelled);
        let stopping = self.jobs.iter().any(|job| job.requested != Cancel::No);
        self.next = Instant::now() + if stopping { TICK } else { self.poll };
    }

    /// Says once that Slurm does not answer. Who is to end at once ends: the desk stays for a job that works there.
    fn no_answer(&mut self, problem: &str) {
        self.next = Instant::now() + self.poll;
        let Some(job) = self.jobs.first() else { return };
        if !std::mem::replace(&mut self.outage, true) {
            job.reporter
                .send(Report::Warned(format!("the queue cannot be read: {problem}; looking until it can")));
        }
        self.leave();
    }

    fn cancel(&mut self, ids: &[Vec<String>; 2]) {
        let done = queue::cancel(&ids[0], false).and_then(|()| queue::cancel(&ids[1], true));
        match done {
            Ok(()) => self.jobs.iter_mut().for_each(|job| job.sent = job.requested),
            Err(problem) => {
                if let Some(job) = self.jobs.iter().find(|job| job.requested > job.sent) {
                    job.reporter.send(Report::Warned(format!("scancel: {problem}")));
                }
                self.leave();
            }
        }
    }

    /// Ends the watch over jobs that are to end at once and cannot be cancelled.
    fn leave(&mut self) {
        self.jobs.retain(|job| job.requested != Cancel::Kill || job.end(Outcome::Cancelled));
    }
}

/// What to make of a job that is not in the queue: how its step ended, or `None` while that is open.
fn missed(job: &mut Job) -> Option<Outcome> {
    let since = *job.gone.get_or_insert_with(Instant::now);
    let is_late = job.stage == Stage::Submitted && job.requested == Cancel::No && since.elapsed() < LATE;
    // Whoever works at the desk is alive, whatever the queue says.
    if is_late || has_ended(&job.job_dir) || matches!(JobLock::try_take(&job.job_dir), Ok(TryLock::Held)) {
        return None;
    }
    if job.requested != Cancel::No {
        return Some(Outcome::Cancelled);
    }
    if job.stage == Stage::Unsure {
        job.stage = Stage::New;
        return None;
    }
    let state = job.id.as_deref().and_then(queue::last_state);
    let (called, words) = (job.called(), job_files::last_words(&job.job_dir));
    let problem = match state.as_deref() {
        None
        | Some("NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL" | "PENDING" | "REQUEUED" | queue::INTERRUPTED)
            if job.lost < MOST_LOST =>
        {
            job.lost += 1;
            job.stage = Stage::New;
            let how = state.as_deref().unwrap_or("Slurm knows no more of it");
            job.reporter.send(Report::Warned(format!("{called} was lost ({how}); submitted again")));
            return None;
        }
        None => format!("{called} is gone from the queue, {MOST_LOST} times in a row{words}"),
        Some("CANCELLED") => format!("{called} was cancelled, not by this run{words}"),
        Some("TIMEOUT" | "DEADLINE") => format!(
            "{called} ran out of time; the next make goes on from its scratch, with more `time` if the site file says so"
        ),
        Some("OUT_OF_MEMORY") => {
            format!("{called} ran out of memory; say in `needs` how much the step takes")
        }
        Some(state) => format!("{called} ended as {state} and left no result{words}"),
    };
    Some(Outcome::Failed(problem))
}
