//! A small process beside a run that ends what the run has started when the run itself is gone, however it went
//! (`kill -9` too). It is this same program, called as `guard`. The end of its standard input means that the run is
//! gone; a file that the run keeps up to date, its standard output, then says which process groups to end.
//!
//! A process cannot ask the system to be ended with its parent on behalf of the programs it starts, and those start
//! others. A group is the whole of them. The file is there so that the guard sleeps until the end: telling it of
//! each start and end through its input would wake it twice for each step.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use super::descendants;

/// Bytes of a place in the file: the number of a group, or 0.
const PLACE: usize = size_of::<i32>();

/// The run's line to its guard.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Mutex<Watched>>);

#[derive(Debug)]
struct Watched {
    /// By place in the file: the group that stands there.
    places: Vec<Option<Pid>>,
    file: File,
    process: Option<Pid>,
    /// Closed by the system when this process is gone.
    _line: ChildStdin,
}

impl Guard {
    /// Starts the guard: `program guard`.
    ///
    /// `first_mark` is the run's first one for its [descendants](super::descendants).
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
        // What ends the group of the run, Ctrl-C say, must not end its guard.
        let mut child = command.process_group(0).spawn()?;
        let line = child.stdin.take().ok_or_else(|| io::Error::other("the guard has no standard input"))?;
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // It ends with its input, that is with this process.
        std::thread::spawn(move || child.wait());
        Ok(Self(Arc::new(Mutex::new(Watched { places: Vec::new(), file, process, _line: line }))))
    }

    /// Its process.
    pub fn process(&self) -> Option<Pid> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).process
    }

    /// From now on the group `group` is ended when the run is gone.
    pub fn watch(&self, group: Pid) {
        self.replace(None, Some(group));
    }

    /// The group has ended.
    pub fn leave(&self, group: Pid) {
        self.replace(Some(group), None);
    }

    fn replace(&self, old: Option<Pid>, new: Option<Pid>) {
        let mut watched = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = watched.places.iter().position(|place| *place == old).unwrap_or_else(|| {
            watched.places.push(None);
            watched.places.len() - 1
        });
        watched.places[place] = new;
        let number = new.map_or(0, |group| group.as_raw_nonzero().get());
        // Without a guard the run goes on; only its own violent end would leave something behind.
        let _ = watched.file.write_all_at(&number.to_ne_bytes(), (place * PLACE) as u64);
    }
}

/// On Linux one that needs no disk, which may be full or read-only.
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

/// The guard's side: waits until `line` ends, then ends the groups that stand in `watched`, and what has left them.
///
/// # Errors
/// When one of the two cannot be read.
pub fn guard(line: &mut impl Read, watched: &File, first_mark: u64) -> io::Result<()> {
    io::copy(line, &mut io::sink())?;
    let mut bytes = vec![0; usize::try_from(watched.metadata()?.len()).unwrap_or_default()];
    watched.read_exact_at(&mut bytes, 0)?;
    let numbers = bytes.as_chunks::<PLACE>().0.iter().map(|place| i32::from_ne_bytes(*place));
    let groups: Vec<Pid> = numbers.filter(|group| *group > 1).filter_map(Pid::from_raw).collect();
    for group in &groups {
        // It may have ended this moment.
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
    fn what_still_stands_in_the_file_at_the_end_is_ended_and_nothing_else() {
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
