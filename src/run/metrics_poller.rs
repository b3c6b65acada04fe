//! Reads what running commands measure, a few times a second and once more at their end, and passes it on as the values of
//! a stage are: to the file next to the log and to the run.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::child::StepProgress;
use super::executor::{Reporter, Task};
use crate::command::Metrics;

/// How often metrics are read.
const EVERY: Duration = Duration::from_millis(200);

/// Reads what is new; at the end, what is left.
type Read = Box<dyn FnMut(bool) + Send>;

/// The running commands of an executor.
#[derive(Clone, Default)]
pub(super) struct MetricsPoller(Arc<Mutex<Polled>>);

#[derive(Default)]
struct Polled {
    commands: Vec<Weak<Mutex<Read>>>,
    has_thread: bool,
}

/// A running command.
pub(super) struct PolledCommand(Arc<Mutex<Read>>);

impl MetricsPoller {
    /// Reads the metrics of a command from now on.
    pub fn add(&self, task: &Task, reporter: &Reporter) -> PolledCommand {
        let mut metrics = Metrics::new(&task.folder, &task.out);
        let (log, reporter) = (task.log.clone(), reporter.clone());
        let mut progress: Option<StepProgress<'static>> = None;
        let read: Read = Box::new(move |is_end| {
            let new = metrics.read(is_end);
            if progress.is_none() && !new.is_empty() {
                let reporter = reporter.clone();
                let send = Box::new(move |report| reporter.send(report));
                // A step does not fail because its values could not be kept.
                progress = StepProgress::open(&log, Arc::default(), send).ok();
            }
            if let Some(progress) = &progress {
                new.iter().for_each(|measured| measured.report(progress));
            }
        });
        let command = Arc::new(Mutex::new(read));
        let mut polled = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        polled.commands.push(Arc::downgrade(&command));
        if !polled.has_thread {
            let of_thread = Arc::downgrade(&self.0);
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            // Without a thread, metrics are read at the end of each command.
            polled.has_thread = thread.spawn(move || poll(&of_thread)).is_ok();
        }
        PolledCommand(command)
    }
}

impl PolledCommand {
    /// Reads the rest, when the command has ended.
    pub fn finish(self) {
        read(&self.0, true);
    }
}

/// Reads until the executor is gone.
fn poll(polled: &Weak<Mutex<Polled>>) {
    loop {
        std::thread::sleep(EVERY);
        let Some(polled) = polled.upgrade() else { return };
        let mut polled = polled.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        polled.commands.retain(|command| command.strong_count() > 0);
        let running: Vec<_> = polled.commands.iter().filter_map(Weak::upgrade).collect();
        // Commands may start while files are read.
        drop(polled);
        running.iter().for_each(|command| read(command, false));
    }
}

fn read(command: &Mutex<Read>, is_end: bool) {
    let mut read = command.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    read(is_end);
}
