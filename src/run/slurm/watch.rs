//! Watches the jobs of a run on its own thread: submits them, reads their reports, looks at the queue with one call
//! for all, and cancels them. The files in the job directory decide. The queue only shows whether a job without an
//! outcome still exists.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::job_files;
use super::queue::{self, Entry, NotSubmitted, Submission};
use crate::run::executor::{Outcome, Report, Reporter};
use crate::store::{JobLock, TryLock, has_ended};

/// The time between two looks at the job directories.
const READ_INTERVAL: Duration = Duration::from_millis(400);
/// A job may be missing from the queue for this long before it counts as lost: a network file system may show its
/// outcome late.
const OUTCOME_DELAY: Duration = Duration::from_secs(5);
/// After this long, submitting pauses for the other jobs.
const SUBMIT_INTERVAL: Duration = Duration::from_secs(2);
/// A step is submitted again this many times if its job is lost through no fault of its own.
const MAX_LOST: usize = 3;

/// An order of the executor.
pub(super) enum Order {
    Watch(Box<Job>),
    /// Cancels the job of that name; `at_once` kills it.
    Stop {
        name: String,
        at_once: bool,
    },
}

/// The state of a job, as far as this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not submitted yet.
    New,
    /// Possibly in the queue, submitted by an earlier process or a call without an answer.
    Unsure,
    /// In the queue, now or earlier.
    Submitted,
}

/// How a job is asked to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Cancel {
    #[default]
    No,
    Terminate,
    Kill,
}

/// A watched job.
pub(super) struct Job {
    job_dir: PathBuf,
    submission: Submission,
    reporter: Reporter,
    stage: Stage,
    id: Option<String>,
    place: String,
    /// The number of bytes of its reports that were read.
    read: u64,
    gone: Option<Instant>,
    lost: usize,
    requested: Cancel,
    sent: Cancel,
}

impl Job {
    /// A job for the task in a job directory; `left` means that the task was there already.
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

    /// Reports the outcome. Returns `false`, which removes the job from the watched ones.
    fn end(&self, outcome: Outcome) -> bool {
        self.reporter.send(Report::Ended(outcome));
        false
    }

    fn called(&self) -> String {
        self.id.as_ref().map_or_else(|| "its job".to_owned(), |id| format!("its job {id}"))
    }

    fn report_place(&mut self, entry: &Entry) {
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

/// All watched jobs.
pub(super) struct Watch {
    /// In the order of submission.
    jobs: Vec<Job>,
    poll: Duration,
    /// The time of the next look at the queue.
    next: Instant,
    /// Whether the warning that Slurm does not answer was sent.
    outage: bool,
}

impl Watch {
    pub fn new(poll: Duration) -> Self {
        Self { jobs: Vec::new(), poll, next: Instant::now(), outage: false }
    }

    /// Watches until the executor is dropped.
    pub fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let order = match self.jobs.is_empty() {
                true => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => orders.recv_timeout(READ_INTERVAL),
            };
            match order {
                Ok(order) => {
                    std::iter::once(order).chain(orders.try_iter()).for_each(|order| self.take(order))
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.submit();
            self.read_job_dirs();
            if Instant::now() >= self.next {
                self.read_queue();
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
            if since.elapsed() > SUBMIT_INTERVAL {
                return true;
            }
            match queue::submit(&job.submission) {
                Ok(id) => {
                    job.reporter.send(Report::Placed(format!("job {id} submitted")));
                    (job.id, job.stage, job.gone) = (Some(id), Stage::Submitted, None);
                    true
                }
                Err(NotSubmitted::Refused(problem)) => {
                    job.end(Outcome::Failed(format!("`sbatch` rejected its job: {problem}")))
                }
                Err(NotSubmitted::Unsure(problem)) => {
                    job.stage = Stage::Unsure;
                    if !std::mem::replace(outage, true) {
                        job.reporter.send(Report::Warned(format!(
                            "{problem}; the job is submitted when Slurm answers"
                        )));
                    }
                    true
                }
            }
        });
    }

    /// Forwards the reports in the job directories.
    fn read_job_dirs(&mut self) {
        self.jobs.retain_mut(|job| {
            // Checked before reading, so that no report before the end is missed.
            let has_ended = has_ended(&job.job_dir);
            job_files::new_reports(&job.job_dir, &mut job.read)
                .into_iter()
                .for_each(|report| job.reporter.send(report));
            // An unreadable outcome is read the next time.
            let Some(Ok(ended)) = has_ended.then(|| job_files::end(&job.job_dir)) else { return true };
            job.reporter.send(Report::Ran(ended.execution));
            job.end(ended.outcome)
        });
    }

    /// Looks at the queue.
    fn read_queue(&mut self) {
        let queue = match queue::list() {
            Ok(queue) => queue,
            Err(problem) => return self.no_answer(&problem),
        };
        self.outage = false;
        let mut cancelled = [Vec::new(), Vec::new()];
        self.jobs.retain_mut(|job| {
            if let Some(entries) = queue.get(&job.submission.name) {
                (job.stage, job.gone) = (Stage::Submitted, None);
                // The newest one, because calls without an answer may have submitted several.
                if let Some(entry) = entries.last() {
                    job.id = Some(entry.id.clone());
                    job.report_place(entry);
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
        self.next = Instant::now() + if stopping { READ_INTERVAL } else { self.poll };
    }

    /// Warns once that Slurm does not answer. Jobs that must be killed count as cancelled; their directories stay.
    fn no_answer(&mut self, problem: &str) {
        self.next = Instant::now() + self.poll;
        let Some(job) = self.jobs.first() else { return };
        if !std::mem::replace(&mut self.outage, true) {
            job.reporter.send(Report::Warned(format!("cannot read the queue: {problem}; retrying")));
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

    /// Stops watching jobs that must be killed and cannot be cancelled.
    fn leave(&mut self) {
        self.jobs.retain(|job| job.requested != Cancel::Kill || job.end(Outcome::Cancelled));
    }
}

/// The outcome of a job that is not in the queue; `None` while it is open.
fn missed(job: &mut Job) -> Option<Outcome> {
    let since = *job.gone.get_or_insert_with(Instant::now);
    let is_late =
        job.stage == Stage::Submitted && job.requested == Cancel::No && since.elapsed() < OUTCOME_DELAY;
    // The owner of the job lock is alive, whatever the queue shows.
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
    let state = match state.as_deref() {
        Some("FAILED") if job_files::has_lost_its_node(&job.job_dir) => Some("NODE_FAIL".to_owned()),
        _ => state,
    };
    let (called, words) = (job.called(), job_files::last_words(&job.job_dir));
    let problem = match state.as_deref() {
        None
        | Some("NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL" | "PENDING" | "REQUEUED" | queue::INTERRUPTED)
            if job.lost < MAX_LOST =>
        {
            job.lost += 1;
            job.stage = Stage::New;
            let how = state.as_deref().unwrap_or("unknown to Slurm");
            job.reporter.send(Report::Warned(format!("{called} was lost ({how}); submitting it again")));
            return None;
        }
        None => format!("{called} disappeared from the queue, after {MAX_LOST} lost jobs{words}"),
        Some("CANCELLED") => format!("{called} was cancelled from outside this run{words}"),
        Some("TIMEOUT" | "DEADLINE") => format!(
            "{called} ran out of time; run `repro make` again, with more `time` in the site file if necessary"
        ),
        Some("OUT_OF_MEMORY") => {
            format!("{called} ran out of memory; set the `memory` of the step in `needs`")
        }
        Some(state) => format!("{called} ended with state {state} and without an outcome{words}"),
    };
    Some(Outcome::Failed(problem))
}
