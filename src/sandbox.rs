//! Runs a program so that its undeclared reads come to light: `report` lets it do what it wants and watches which
//! files it opens (by ptrace), `strict` keeps it from opening them (by Landlock, which needs no privileges). Both
//! are Linux's. It knows files and folders, not steps.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use serde::{Deserialize, Serialize};

/// How a program is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// Not at all.
    #[default]
    Off,
    /// Undeclared reads are named when the program has ended.
    Report,
    /// Undeclared reads fail.
    Strict,
}

impl Sandbox {
    /// Whether there is none.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// What a program may open beside what is the system's.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Files and folders it may read.
    pub read: Vec<PathBuf>,
    /// Folders it may write in, and files it may write.
    pub write: Vec<PathBuf>,
}

/// How a watched program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit.
    pub status: ExitStatus,
    /// Under [`Sandbox::Report`]: the files that it read and may not, in the order of their names.
    pub undeclared: Vec<PathBuf>,
}

/// Read by nearly every program: the programs, libraries and settings of the system. Folders that are not there are
/// passed over.
pub const SYSTEM_FOLDERS: [&str; 14] = [
    "/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin", "/sys",
    "/usr", "/var/lib",
];

/// Where nearly every program may write: devices, and memory shared between its own processes.
const SYSTEM_WRITABLE: [&str; 1] = ["/dev"];

/// Runs `command` to its end in this thread. Its standard streams are as `command` says.
///
/// # Errors
/// When it cannot be started, or this system cannot watch it.
pub fn run(command: &mut Command, sandbox: Sandbox, allowed: &Allowed) -> io::Result<Ended> {
    match sandbox {
        Sandbox::Off => Ok(Ended { status: command.status()?, undeclared: Vec::new() }),
        Sandbox::Report => system::report(command, allowed),
        Sandbox::Strict => system::strict(command, allowed),
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Allowed, Command, Ended, io};

    fn unsupported() -> io::Error {
        io::Error::other("`sandbox` needs Linux; take it out of the step, or run the step there")
    }

    pub fn report(_: &mut Command, _: &Allowed) -> io::Result<Ended> {
        Err(unsupported())
    }

    pub fn strict(_: &mut Command, _: &Allowed) -> io::Result<Ended> {
        Err(unsupported())
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::path::Path;

    use landlock::{
        ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus,
    };
    use nix::libc;
    use nix::sys::ptrace::{self, Options};
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    use super::{Allowed, Command, Ended, ExitStatus, PathBuf, SYSTEM_FOLDERS, SYSTEM_WRITABLE, io};

    /// Rights on files and folders that the first Landlock knew; without these there is no sandbox.
    const LEAST: ABI = ABI::V1;
    /// Rights that later ones added, taken where the kernel has them.
    const MOST: ABI = ABI::V5;

    /// The system calls that open files.
    const OPENING: &[i64] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
    ];

    /// Runs under Landlock. A restriction holds for the thread that takes it and for what it starts, so a thread is
    /// made for it.
    pub fn strict(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                restrict(allowed).map_err(|error| {
                    io::Error::other(format!(
                        "`sandbox: strict` needs Landlock, which this kernel does not offer ({error}); \
                         `sandbox: report` may do"
                    ))
                })?;
                command.status()
            });
            let status =
                thread.join().map_err(|_| io::Error::other("the thread that waits for it broke off"))??;
            Ok(Ended { status, undeclared: Vec::new() })
        })
    }

    fn restrict(allowed: &Allowed) -> Result<(), Box<dyn std::error::Error>> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LEAST))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(MOST))?;
        let mut ruleset = ruleset.create()?;
        let system = |folders: &[&str]| folders.iter().map(PathBuf::from).collect::<Vec<_>>();
        let rules = [
            (system(&SYSTEM_FOLDERS), AccessFs::from_read(MOST)),
            (system(&SYSTEM_WRITABLE), AccessFs::from_all(MOST)),
            (allowed.read.clone(), AccessFs::from_read(MOST)),
            (allowed.write.clone(), AccessFs::from_all(MOST)),
        ];
        for (paths, access) in rules {
            for path in paths {
                // What is not there cannot be opened either.
                let Ok(metadata) = fs::metadata(&path) else { continue };
                let access = if metadata.is_dir() { access } else { access & AccessFs::from_file(MOST) };
                ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(&path)?, access))?;
            }
        }
        match ruleset.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err("it is not enforced".into()),
            _ => Ok(()),
        }
    }

    /// Runs with every system call watched; what was opened is read from `/proc` while the program stands still.
    pub fn report(command: &mut Command, allowed: &Allowed) -> io::Result<Ended> {
        #[allow(unsafe_code, reason = "between fork and exec only an async-signal-safe system call is made")]
        // SAFETY: `traceme` is a single system call; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| ptrace::traceme().map_err(io::Error::from));
        }
        let child = command.spawn().map_err(|error| match error.raw_os_error() {
            Some(code) if code == nix::errno::Errno::EPERM as i32 => io::Error::other(
                "`sandbox: report` watches by ptrace, which this system does not permit; `sandbox: strict` may do",
            ),
            _ => error,
        })?;
        let mut watch = Watch {
            allowed: Paths::new(allowed),
            calls: BTreeMap::new(),
            written: BTreeSet::new(),
            undeclared: BTreeSet::new(),
        };
        let main = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let status = watch.follow(main)?;
        Ok(Ended { status, undeclared: watch.undeclared.into_iter().collect() })
    }

    struct Watch {
        allowed: Paths,
        /// Tasks within a system call, and which one that is.
        calls: BTreeMap<Pid, i64>,
        /// Files that it opened to write: what it wrote itself is no input.
        written: BTreeSet<PathBuf>,
        undeclared: BTreeSet<PathBuf>,
    }

    impl Watch {
        /// Follows `main` and all that it starts until `main` has ended.
        fn follow(&mut self, main: Pid) -> io::Result<ExitStatus> {
            let options = Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_EXITKILL;
            // Only what this thread started: other threads wait for steps of their own.
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
                    // A new task begins with a stop that nobody sent.
                    Ok(WaitStatus::Stopped(task, Signal::SIGSTOP | Signal::SIGTRAP)) => (task, None),
                    Ok(WaitStatus::Stopped(task, signal)) => (task, Some(signal)),
                    Ok(WaitStatus::Exited(task, _) | WaitStatus::Signaled(task, ..)) => {
                        self.calls.remove(&task);
                        continue;
                    }
                    Ok(_) => continue,
                };
                // A task may be gone already: killed by another one.
                let _ = ptrace::syscall(task, pass_on);
            }
        }

        /// A system call begins, or has returned: if it opened a file for reading, that is looked at.
        fn called(&mut self, task: Pid) {
            let Ok(call) = ptrace::syscall_info(task) else { return };
            #[allow(unsafe_code, reason = "`op` says which part of the union the kernel has filled")]
            match call.op {
                // SAFETY: at the beginning of a call the kernel fills this part.
                libc::PTRACE_SYSCALL_INFO_ENTRY => {
                    self.calls.insert(task, unsafe { call.u.entry.nr } as i64);
                }
                libc::PTRACE_SYSCALL_INFO_EXIT => {
                    let number = self.calls.remove(&task);
                    // SAFETY: at the end of a call the kernel fills this part.
                    let result = unsafe { call.u.exit.sval };
                    if number.is_some_and(|number| OPENING.contains(&number)) && result >= 0 {
                        self.opened(task, result);
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

    struct Paths(Vec<PathBuf>);

    impl Paths {
        fn new(allowed: &Allowed) -> Self {
            let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
            let all = system.chain(allowed.read.iter().chain(&allowed.write).cloned());
            Self(all.filter_map(|path| path.canonicalize().ok()).collect())
        }

        fn contain(&self, path: &Path) -> bool {
            self.0.iter().any(|folder| path.starts_with(folder))
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Runs a shell line in a project with a declared and an undeclared file.
    fn ran(line: &str, sandbox: Sandbox, project: &Path) -> Ended {
        for name in ["declared", "secret", "tool"] {
            fs::write(project.join(name), name).unwrap();
        }
        fs::create_dir_all(project.join("out")).unwrap();
        let allowed = Allowed { read: vec![project.join("declared")], write: vec![project.join("out")] };
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(project).stderr(std::process::Stdio::null());
        run(&mut command, sandbox, &allowed).unwrap()
    }

    #[test]
    fn report_names_what_was_read_and_not_declared_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        let line = "cat declared secret > out/x; cat out/x >/dev/null; (cat tool & wait) > out/y; echo z > new; cat new > /dev/null; exit 7";
        let ended = ran(line, Sandbox::Report, &project);
        assert_eq!(ended.status.code(), Some(7));
        assert_eq!(ended.undeclared, [project.join("secret"), project.join("tool")]);
        assert_eq!(fs::read_to_string(project.join("out/x")).unwrap(), "declaredsecret");
        assert_eq!(fs::read_to_string(project.join("out/y")).unwrap(), "tool");
    }

    #[test]
    fn report_follows_children_signals_and_programs_of_the_project() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        fs::copy("/bin/true", project.join("program")).unwrap();
        let ended = ran(
            "./program; sh -c 'sh -c \"cat secret\"' > /dev/null; kill -TERM $$",
            Sandbox::Report,
            &project,
        );
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(15));
        assert_eq!(ended.undeclared, [project.join("program"), project.join("secret")]);
    }

    #[test]
    fn strict_lets_declared_files_be_read_and_out_be_written_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        let code = |line: &str| ran(line, Sandbox::Strict, &project).status.code();
        assert_eq!(code("cat declared > out/x && cat out/x > /dev/null && ls /usr > /dev/null"), Some(0));
        assert_ne!(code("cat secret"), Some(0));
        assert_ne!(code("ls ."), Some(0));
        assert_ne!(code("echo x > new"), Some(0));
        assert_ne!(code("rm declared"), Some(0));
        assert_eq!(fs::read_to_string(project.join("declared")).unwrap(), "declared");
        fs::write(project.join("new"), "this process is as free as before").unwrap();
    }
}
