//! Watches a program and its children with ptrace: which files it opened or ran, and which it was denied.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Allowed, Ended, SYSTEM_FOLDERS, devices};

/// The system calls that open files, with the indexes of two arguments: the folder that the path is relative to, if
/// there is one, and the path.
const OPENING: &[(i64, Option<usize>, usize)] = &[
    (libc::SYS_openat, Some(0), 1),
    (libc::SYS_openat2, Some(0), 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, None, 0),
];
/// The same for the system calls that run a file.
const RUNNING: &[(i64, Option<usize>, usize)] =
    &[(libc::SYS_execve, None, 0), (libc::SYS_execveat, Some(0), 1)];
/// Size limit of a path, in bytes (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// Runs the program and watches every system call. Opened files are read from `/proc` while the program is stopped.
pub(super) fn report(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
    let (status, watch) = watched(command, allowed, true)?;
    Ok(Ended { status, undeclared: watch.undeclared.into_iter().collect() })
}

/// Runs the program and watches every system call. If ptrace is not permitted, it runs unwatched, or is an error if
/// `is_required`.
pub(super) fn watched(
    command: &mut Command,
    allowed: &Allowed,
    is_required: bool,
) -> io::Result<(ExitStatus, Watch)> {
    let is_watched = Arc::new(AtomicBool::new(true));
    let wants_trace = Arc::clone(&is_watched);
    #[allow(unsafe_code, reason = "between fork and exec only an async-signal-safe system call runs")]
    // SAFETY: an atomic is read and `traceme` is a single system call; nothing is allocated, no lock taken.
    unsafe {
        command.pre_exec(move || match wants_trace.load(Ordering::Relaxed) {
            true => ptrace::traceme().map_err(io::Error::from),
            false => Ok(()),
        });
    }
    let mut watch = Watch {
        allowed: Paths::new(allowed),
        calls: BTreeMap::new(),
        written: BTreeSet::new(),
        undeclared: BTreeSet::new(),
        refused: BTreeSet::new(),
    };
    let child = match command.spawn() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && is_required => {
            return Err(io::Error::other(
                "cannot watch the step with ptrace (operation not permitted); `sandbox: \"strict\"` needs no ptrace",
            ));
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            is_watched.store(false, Ordering::Relaxed);
            return Ok((command.status()?, watch));
        }
        child => child?,
    };
    let status = watch.follow(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))?;
    Ok((status, watch))
}

/// What was observed of a program.
pub(super) struct Watch {
    allowed: Paths,
    /// Tasks that are in a system call, with its number and arguments.
    calls: BTreeMap<Pid, (i64, [u64; 6])>,
    /// Files that it opened to write: its own output is not an input.
    written: BTreeSet<PathBuf>,
    undeclared: BTreeSet<PathBuf>,
    /// Files that it was denied.
    pub(super) refused: BTreeSet<PathBuf>,
}

impl Watch {
    /// Follows `main` and its children until `main` has ended.
    fn follow(&mut self, main: Pid) -> io::Result<ExitStatus> {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        // Only its own children: other threads wait for theirs.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        waitpid(main, Some(flags))?;
        ptrace::setoptions(main, options)?;
        self.executed(main);
        ptrace::syscall(main, None)?;
        loop {
            let (task, pass_on) = match waitpid(None, Some(flags)) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(WaitStatus::Exited(task, code)) if task == main => {
                    return Ok(ExitStatus::from_raw(code << 8));
                }
                Ok(WaitStatus::Signaled(task, signal, _)) if task == main => {
                    return Ok(ExitStatus::from_raw(signal as i32));
                }
                Ok(WaitStatus::PtraceSyscall(task)) => {
                    self.called(task);
                    (task, None)
                }
                Ok(WaitStatus::PtraceEvent(task, _, event)) => {
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 {
                        self.executed(task);
                    }
                    (task, None)
                }
                // A new task begins with a stop.
                Ok(WaitStatus::Stopped(task, Signal::SIGSTOP | Signal::SIGTRAP)) => (task, None),
                Ok(WaitStatus::Stopped(task, signal)) => (task, Some(signal)),
                Ok(WaitStatus::Exited(task, _) | WaitStatus::Signaled(task, ..)) => {
                    self.calls.remove(&task);
                    continue;
                }
                Ok(_) => continue,
            };
            // Another task may have killed it.
            let _ = ptrace::syscall(task, pass_on);
        }
    }

    /// At the start and at the end of a system call: records a file that it opened to read.
    fn called(&mut self, task: Pid) {
        let Ok(call) = ptrace::syscall_info(task) else { return };
        #[allow(unsafe_code, reason = "`op` says which part of the union the kernel has filled")]
        match call.op {
            // SAFETY: at the beginning of a call the kernel fills this part.
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                let entry = unsafe { call.u.entry };
                self.calls.insert(task, (entry.nr as i64, entry.args));
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                let Some((number, arguments)) = self.calls.remove(&task) else { return };
                // SAFETY: at the end of a call the kernel fills this part.
                let result = unsafe { call.u.exit.sval };
                let is_it = |call: &&(i64, Option<usize>, usize)| call.0 == number;
                if result >= 0 && OPENING.iter().any(|call| is_it(&call)) {
                    self.opened(task, result);
                } else if result == -i64::from(libc::EACCES)
                    && let Some((_, folder, path)) = OPENING.iter().chain(RUNNING).find(is_it)
                    && let Some(path) = path_at(task, folder.map(|at| arguments[at]), arguments[*path])
                    && !self.allowed.contain(&path)
                {
                    self.refused.insert(path);
                }
            }
            _ => {}
        }
    }

    fn opened(&mut self, task: Pid, descriptor: i64) {
        let flags = fs::read_to_string(format!("/proc/{task}/fdinfo/{descriptor}")).unwrap_or_default();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
        let Ok(path) = fs::read_link(format!("/proc/{task}/fd/{descriptor}")) else { return };
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.written.insert(path);
        } else if path.is_file() {
            self.saw(&path);
        }
    }

    fn executed(&mut self, task: Pid) {
        if let Ok(program) = fs::read_link(format!("/proc/{task}/exe")) {
            self.saw(&program);
        }
    }

    fn saw(&mut self, path: &Path) {
        if !self.allowed.contain(path) && !self.written.contains(path) {
            self.undeclared.insert(path.to_owned());
        }
    }
}

/// The path at an address of a stopped task. A relative path is relative to `folder`, a descriptor, or to the current
/// directory.
fn path_at(task: Pid, folder: Option<u64>, address: u64) -> Option<PathBuf> {
    let mut bytes = vec![0; MAX_PATH_BYTES];
    // The path may end before the buffer does.
    let length = fs::File::open(format!("/proc/{task}/mem")).ok()?.read_at(&mut bytes, address).ok()?;
    bytes.truncate(bytes[..length].iter().position(|byte| *byte == 0)?);
    let path = PathBuf::from(OsString::from_vec(bytes));
    let begins = match folder.map(|descriptor| descriptor as i32) {
        None | Some(libc::AT_FDCWD) => format!("/proc/{task}/cwd"),
        Some(descriptor) => format!("/proc/{task}/fd/{descriptor}"),
    };
    let path = if path.is_absolute() { path } else { fs::read_link(begins).ok()?.join(path) };
    Some(path.canonicalize().unwrap_or(path))
}

struct Paths(Vec<PathBuf>);

impl Paths {
    fn new(allowed: &Allowed) -> Self {
        let system = SYSTEM_FOLDERS.iter().map(PathBuf::from).chain(devices());
        let all = system.chain(allowed.read.iter().chain(&allowed.write).cloned());
        Self(all.filter_map(|path| path.canonicalize().ok()).collect())
    }

    fn contain(&self, path: &Path) -> bool {
        self.0.iter().any(|folder| path.starts_with(folder))
    }
}
