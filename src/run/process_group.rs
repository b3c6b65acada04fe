//! The process group of a step that runs as a process: its signals, the wait for its end, and the end of all that it has
//! left running. It does not know what the process does.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use super::descendants::{Descendants, Mark};
use super::executor::Running;

/// The process group of a child, until it is reaped.
pub(super) struct Group(pub Arc<Mutex<Option<Pid>>>);

impl Group {
    fn signal(&self, signal: Signal) {
        let group = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(pid) = *group {
            // It may have ended this moment.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Running for Group {
    fn stop(&self) {
        self.signal(Signal::TERM);
    }
    fn kill(&self) {
        self.signal(Signal::KILL);
    }
}

/// The process number of a child.
///
/// # Errors
/// When the system gave one out of range.
pub(super) fn pid(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the system gave a process number out of range"))
}

/// Waits for the child, then ends all that it has left running: it could hold the pipe open, or write into a result.
pub(super) fn wait(
    mut child: Child,
    pid: Pid,
    group: &Mutex<Option<Pid>>,
    descendants: &Descendants,
    mark: Mark,
) -> io::Result<ExitStatus> {
    // Not reaped yet, the child keeps its number, so the group below is certainly its own.
    descendants.wait_for(pid, mark);
    let mut group = group.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let _ = kill_process_group(pid, Signal::KILL);
    *group = None;
    descendants.remove(pid);
    let status = child.wait()?;
    descendants.end(mark).map_err(io::Error::other)?;
    Ok(status)
}
