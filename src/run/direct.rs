//! Runs a `command` step as a process of this one, without a process of the program in between: for many short
//! commands that is most of what they cost.

use std::io;
use std::sync::{Arc, Mutex};

use super::descendants::Descendants;
use super::executor::{Outcome, Report, Reporter, Running, Task};
use super::guard::Guard;
use super::metrics_poller::MetricsPoller;
use super::process_group::{Group, pid, wait};
use crate::command::runtime::Runtime;
use crate::command::{self, CommandParams, Place};

/// Starts the command of `task`.
pub(super) fn start(
    task: Task,
    params: CommandParams,
    reporter: Reporter,
    guard: Guard,
    descendants: Descendants,
    metrics: &MetricsPoller,
) -> io::Result<Box<dyn Running>> {
    let mut process = command::launch(&params, &place(&task))?;
    if let Some(gpus) = task.visible_gpus() {
        process.env("CUDA_VISIBLE_DEVICES", gpus);
    }
    let (mark, child) = descendants.marked(|| process.spawn());
    let child = child.map_err(|error| io::Error::other(command::not_started(&params, &error)))?;
    let pid = pid(&child)?;
    descendants.add(pid);
    guard.watch(pid);
    let metrics = metrics.add(&task, &reporter);
    let group = Arc::new(Mutex::new(Some(pid)));
    let watched = Arc::clone(&group);
    let waiter = std::thread::Builder::new().stack_size(128 << 10);
    waiter.spawn(move || {
        let status = wait(child, pid, &watched, &descendants, mark);
        guard.leave(pid);
        metrics.finish();
        let ended = match status {
            Err(error) => Outcome::Failed(format!("it has not ended as a whole: {error}")),
            Ok(status) => Outcome::of(command::check_end(&params, &place(&task), status)),
        };
        reporter.send(Report::Ended(ended));
    })?;
    Ok(Box::new(Group(group)))
}

fn place(task: &Task) -> Place<'_> {
    Place {
        inputs: &task.inputs,
        out: &task.out,
        scratch: &task.scratch,
        folder: &task.folder,
        log: &task.log,
        threads: task.host.threads,
        runtime: &Runtime::Host,
    }
}
