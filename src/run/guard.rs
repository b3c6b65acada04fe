//! A small process beside a run that ends what the run has started when the run itself is gone, however it went
//! (`kill -9` too). It is this same program, called as `guard`, and reads the process groups to watch from its
//! standard input: the end of that input means that the run is gone.
//!
//! A process cannot ask the system to be ended with its parent on behalf of the programs it starts, and those start
//! others. A group is the whole of them.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

/// The run's line to its guard.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Mutex<ChildStdin>>);

impl Guard {
    /// Starts the guard: `program guard`.
    pub fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("repro").arg("guard").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends the group of the run, Ctrl-C say, must not end its guard.
        let mut child = command.process_group(0).spawn()?;
        let line = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        // It ends with its input, that is with this process.
        std::thread::spawn(move || child.wait());
        Ok(Self(Arc::new(Mutex::new(line))))
    }

    /// From now on the group `group` is ended when the run is gone.
    pub fn watch(&self, group: Pid) {
        self.tell('+', group);
    }

    /// The group has ended.
    pub fn leave(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, sign: char, group: Pid) {
        let mut line = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Without a guard the run goes on; only its own violent end would leave something behind.
        let _ = line.write_all(format!("{sign}{}\n", group.as_raw_nonzero()).as_bytes());
    }
}

/// The guard's side: reads what to watch until the input ends, then ends what is still there.
///
/// # Errors
/// When the input cannot be read.
pub fn guard(input: impl BufRead) -> io::Result<()> {
    let mut groups = BTreeSet::new();
    for line in input.lines() {
        let line = line?;
        let Some((sign, number)) = line.split_at_checked(1) else { continue };
        let Ok(number) = number.parse::<i32>() else { continue };
        match sign {
            "+" => drop(groups.insert(number)),
            _ => drop(groups.remove(&number)),
        }
    }
    for group in groups.into_iter().filter(|group| *group > 1).filter_map(Pid::from_raw) {
        // It may have ended this moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
    Ok(())
}
