//! Runs a program so that its undeclared reads come to light: `report` lets it do what it wants and watches which
//! files it opens (by ptrace), `strict` keeps it from opening them (by Landlock, which needs no privileges) and, where
//! ptrace is permitted, names what it was kept from. Both are Linux's. It knows files and folders, not steps.

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

/// How a program is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "lowercase")]
#[param(unquoted)]
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

/// What a program may open next to what is the system's.
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
    /// The files that it read and may not, or, under [`Sandbox::Strict`], that it was kept from opening; in the order
    /// of their names.
    pub undeclared: Vec<PathBuf>,
}

/// Read by nearly every program: the programs, libraries and settings of the system. Folders that are not there are
/// passed over.
pub const SYSTEM_FOLDERS: [&str; 13] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/var/lib",
];

/// Devices that hold nothing, and terminals: they connect no steps.
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
/// GPUs, by how the names of their devices begin.
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

/// Runs `command` to its end in this thread. Its standard streams are as `command` says.
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
        io::Error::other("`sandbox` needs Linux; take it out of the step, or run the step there")
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

    #[test]
    fn strict_names_what_it_kept_from_being_opened_or_run() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().canonicalize().unwrap();
        fs::copy("/bin/true", project.join("program")).unwrap();
        let line = "cat declared > out/x; cat ./secret; cat nothing; (cd out; ../program); true";
        let ended = ran(line, Sandbox::Strict, &project);
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(ended.undeclared, [project.join("program"), project.join("secret")]);
    }

    #[test]
    fn a_kernel_without_landlock_is_said_and_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/touch");
        command.arg(folder.path().join("ran"));
        let missing = |_: &Allowed| Err("no such system call".into());
        let error =
            super::strict::strict_by(missing, &mut command, &Allowed::default()).unwrap_err().to_string();
        assert!(
            error.contains("`sandbox: \"strict\"` needs Landlock, which this kernel does not offer"),
            "{error}"
        );
        assert!(
            error.contains("no such system call") && error.contains("`sandbox: \"report\"` may do"),
            "{error}"
        );
        assert!(!folder.path().join("ran").exists());
    }
}
