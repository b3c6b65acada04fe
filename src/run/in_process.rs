//! Runs steps as threads of this process: for tests, and where a process per step costs too much. A step that
//! does not ask whether it is cancelled cannot be stopped here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stage_api::{Registry, Stage};

use super::child::perform;
use super::executor::{Executor, Report, Reporter, Running, Task};
use super::metrics_poller::{MetricsPoller, PolledCommand};
use crate::command::Command;

/// Steps as threads.
pub struct InProcess {
    registry: Arc<Registry>,
    metrics: MetricsPoller,
}

impl InProcess {
    /// Runs the stages of `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, metrics: MetricsPoller::default() }
    }
}

impl Executor for InProcess {
    fn start(&self, task: Task, reporter: Reporter) -> io::Result<Box<dyn Running>> {
        let registry = Arc::clone(&self.registry);
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        let is_command = task.stage == <Command as Stage>::NAME;
        let metrics = is_command.then(|| self.metrics.add(&task, &reporter));
        std::thread::Builder::new().name(task.step.clone()).spawn(move || {
            let outcome = perform(&registry, &task, flag, &|report| reporter.send(report));
            metrics.into_iter().for_each(PolledCommand::finish);
            reporter.send(Report::Ended(outcome));
        })?;
        Ok(Box::new(Thread { cancelled }))
    }
}

struct Thread {
    cancelled: Arc<AtomicBool>,
}

impl Running for Thread {
    fn stop(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
    fn kill(&self) {
        self.stop();
    }
}
