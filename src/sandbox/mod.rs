//! Runs a program and detects undeclared reads. `report` watches which files it opens (with ptrace) and allows all of
//! them. `strict` denies undeclared files (with Landlock, which needs no privileges) and, if ptrace is permitted,
//! reports them. Both need Linux. This module knows files and folders, not steps.

#[cfg(target_os = "linux")]
mod private;
#[cfg(target_os = "linux")]
mod strict;
#[cfg(target_os = "linux")]
mod watch;

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use schemars::JsonSchema;
use stage_api::ParamEnum;

/// The sandbox mode of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
#[param(unquoted)]
pub enum Sandbox {
    /// No sandbox.
    #[default]
    Off,
    /// Undeclared reads are reported when the program has ended.
    Report,
    /// Undeclared reads fail.
    Strict,
}

impl Sandbox {
    /// Whether there is no sandbox.
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// The files that a program may open in addition to those of the system.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Files and folders it may read.
    pub read: Vec<PathBuf>,
    /// Folders and files it may write.
    pub write: Vec<PathBuf>,
}

/// The end of a watched program.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The undeclared files that it read, or, under [`Sandbox::Strict`], that it was denied; sorted by name.
    pub undeclared: Vec<PathBuf>,
}

/// The programs, libraries and settings of the system, which nearly every program reads. Missing folders are skipped.
pub const SYSTEM_FOLDERS: [&str; 13] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/var/lib",
];

/// Devices without content, and terminals: they carry no data between steps.
const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/fd",
];
/// The first letters of the names of GPU devices.
const GPU_DEVICES: [&str; 5] = ["nvidia", "dri", "kfd", "accel", "dxg"];

/// The devices that a program may use.
fn devices() -> Vec<PathBuf> {
    let listed = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let gpus = listed.filter(|item| {
        let name = item.file_name();
        GPU_DEVICES.iter().any(|begin| name.to_string_lossy().starts_with(begin))
    });
    DEVICES.iter().map(PathBuf::from).chain(gpus.map(|item| item.path())).collect()
}

/// Runs `command` to its end on this thread, with the standard streams of `command`.
///
/// # Errors
/// When it cannot be started, or this system cannot watch it.
pub fn run(command: &mut Command, sandbox: Sandbox, allowed: &Allowed) -> io::Result<Ended> {
    match sandbox {
        Sandbox::Off => Ok(Ended { status: command.status()?, undeclared: Vec::new() }),
        Sandbox::Report => report(command, allowed),
        Sandbox::Strict => strict(command, allowed),
    }
}

#[cfg(target_os = "linux")]
use self::{strict::strict, watch::report};
#[cfg(not(target_os = "linux"))]
use system::{report, strict};

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Allowed, Command, Ended, io};

    fn unsupported() -> io::Error {
        io::Error::other("`sandbox` needs Linux; remove it from the step, or run the step on Linux")
    }

    pub fn report(_: &mut Command, _: &Allowed) -> io::Result<Ended> {
        Err(unsupported())
    }

    pub fn strict(_: &mut Command, _: &Allowed) -> io::Result<Ended> {
        Err(unsupported())
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
    fn report_names_undeclared_reads_and_changes_nothing() {
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
        // Not by this process: a child of another thread would hold the file open for writing, and nobody could start it.
        let copied = Command::new("cp").arg("/bin/true").arg(project.join("program")).status();
        assert!(copied.unwrap().success());
        let ended = ran(
            "./program; sh -c 'sh -c \"cat secret\"' > /dev/null; kill -TERM $$",
            Sandbox::Report,
            &project,
        );
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(15));
        assert_eq!(ended.undeclared, [project.join("program"), project.join("secret")]);
    }

    #[test]
    fn strict_allows_reads_of_declared_files_and_writes_to_out_only() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        let code = |line: &str| ran(line, Sandbox::Strict, &project).status.code();
        assert_eq!(code("cat declared > out/x && cat out/x > /dev/null && ls /usr > /dev/null"), Some(0));
        assert_ne!(code("cat secret"), Some(0));
        assert_ne!(code("ls ."), Some(0));
        assert_ne!(code("echo x > new"), Some(0));
        assert_ne!(code("rm declared"), Some(0));
        assert_eq!(fs::read_to_string(project.join("declared")).unwrap(), "declared");
        fs::write(project.join("new"), "this process is not restricted").unwrap();
    }

    #[test]
    fn strict_names_denied_files_and_programs() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        // Not by this process: a child of another thread would hold the file open for writing, and nobody could start it.
        let copied = Command::new("cp").arg("/bin/true").arg(project.join("program")).status();
        assert!(copied.unwrap().success());
        let line = "cat declared > out/x; cat ./secret; cat nothing; (cd out; ../program); true";
        let ended = ran(line, Sandbox::Strict, &project);
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(ended.undeclared, [project.join("program"), project.join("secret")]);
    }

    #[test]
    fn without_landlock_nothing_runs_and_the_error_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/touch");
        command.arg(folder.path().join("ran"));
        let missing = |_: &Allowed| Err("no such system call".into());
        let error =
            super::strict::strict_by(missing, &mut command, &Allowed::default()).unwrap_err().to_string();
        assert!(error.contains("cannot restrict the step with Landlock ("), "{error}");
        assert!(
            error.contains("no such system call")
                && error.contains("`sandbox: \"report\"` needs no Landlock"),
            "{error}"
        );
        assert!(!folder.path().join("ran").exists());
    }
}
