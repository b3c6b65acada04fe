//! A small process that ends the processes of a run when the run itself ends, in any way (`kill -9` too). It is this
//! same program, called as `guard`. The end of its standard input means that the run has ended. A file that the run
//! updates, its standard output, then lists the process groups to end.
//!
//! The system can end a process with its parent, but not the programs that this process starts. A process group
//! includes them. The file lets the guard sleep until the end: messages for each start and end would wake it twice
//! per step.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use super::descendants;

/// The size of an entry of the file: the number of a group, or 0.
const ENTRY_BYTES: usize = size_of::<i32>();

/// The run's side of its guard.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Mutex<Watched>>);

#[derive(Debug)]
struct Watched {
    /// The group in each entry of the file.
    entries: Vec<Option<Pid>>,
    file: File,
    process: Option<Pid>,
    /// The system closes it when this process ends.
    _line: ChildStdin,
}

impl Guard {
    /// Starts the guard with `program guard`.
    ///
    /// `first_mark` is the first mark of the run for its [descendants](super::descendants).
    pub fn start(program: &Path, first_mark: u64) -> io::Result<Self> {
        let file = file_without_name()?;
        let mut command = Command::new(program);
        command
            .arg0("repro")
            .arg("guard")
            .arg(first_mark.to_string())
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(Stdio::null());
        // A signal to the group of the run, such as Ctrl-C, must not end the guard.
        let mut child = command.process_group(0).spawn()?;
        let line = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // It ends with its standard input, which this process holds.
        std::thread::spawn(move || child.wait());
        Ok(Self(Arc::new(Mutex::new(Watched { entries: Vec::new(), file, process, _line: line }))))
    }

    /// The process of the guard.
    pub fn process(&self) -> Option<Pid> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).process
    }

    /// From now on the guard ends `group` when the run ends.
    pub fn watch(&self, group: Pid) {
        self.replace(None, Some(group));
    }

    /// Removes a group that has ended.
    pub fn leave(&self, group: Pid) {
        self.replace(Some(group), None);
    }

    fn replace(&self, old: Option<Pid>, new: Option<Pid>) {
        let mut watched = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = watched.entries.iter().position(|entry| *entry == old).unwrap_or_else(|| {
            watched.entries.push(None);
            watched.entries.len() - 1
        });
        watched.entries[entry] = new;
        let number = new.map_or(0, |group| group.as_raw_nonzero().get());
        // Without a guard the run continues; only a violent end of the run could leave processes behind.
        let _ = watched.file.write_all_at(&number.to_ne_bytes(), (entry * ENTRY_BYTES) as u64);
    }
}

/// In memory on Linux, because a disk may be full or read-only.
fn file_without_name() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        Ok(rustix::fs::memfd_create("repro-groups", rustix::fs::MemfdFlags::CLOEXEC)?.into())
    }
    #[cfg(not(target_os = "linux"))]
    {
        tempfile::tempfile()
    }
}

/// The guard's side: waits until `line` ends, then ends the groups in `watched` and the processes that have left
/// them.
///
/// # Errors
/// When one of the two cannot be read.
pub fn guard(line: &mut impl Read, watched: &File, first_mark: u64) -> io::Result<()> {
    io::copy(line, &mut io::sink())?;
    let mut bytes = vec![0; usize::try_from(watched.metadata()?.len()).unwrap_or_default()];
    watched.read_exact_at(&mut bytes, 0)?;
    let numbers = bytes.as_chunks::<ENTRY_BYTES>().0.iter().map(|entry| i32::from_ne_bytes(*entry));
    let groups: Vec<Pid> = numbers.filter(|group| *group > 1).filter_map(Pid::from_raw).collect();
    for group in &groups {
        // It may just have ended.
        let _ = kill_process_group(*group, Signal::KILL);
    }
    if !groups.is_empty() {
        descendants::end_all(first_mark);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exactly_the_groups_in_the_file_are_ended() {
        let sleeping = || Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut watched, mut left) = (sleeping(), sleeping());
        let file = file_without_name().unwrap();
        let number = |group: u32| i32::try_from(group).unwrap().to_ne_bytes();
        let text = [0i32.to_ne_bytes(), number(watched.id()), (-1i32).to_ne_bytes(), [1, 0, 0, 0]].concat();
        file.write_all_at(&text, 0).unwrap();
        guard(&mut io::empty(), &file, u64::MAX).unwrap();
        assert_eq!(watched.wait().unwrap().signal(), Some(9));
        assert!(left.try_wait().unwrap().is_none(), "it was not watched");
        left.kill().unwrap();
        left.wait().unwrap();
    }
}
