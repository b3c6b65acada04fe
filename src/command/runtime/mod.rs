//! The software that a command runs with: programs of this machine, an environment that a lock file describes, or a
//! container image. An environment is built once, in the cache, and shared by the steps that name its lock file.
//!
//! The bytes of the lock file are an input of the step, and the digest of an image is one of its params, so both are in
//! its key.

mod container;
mod lock_file;
mod micromamba;
mod prefix;
mod uv;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use stage_api::{Job, ProjectFile, StageError};

use super::launch::{last_lines, status_text};
use super::{CommandParams, wait};
use crate::digest::Digest;

pub use container::Container;
pub use lock_file::{PORT, how_to_lock};
pub use prefix::{ENVIRONMENTS, Prefix, is_in_use, remove};

use lock_file::{LockFile, Manager};

/// The software of one run of a command.
#[derive(Debug)]
pub enum Runtime {
    /// The programs of this machine.
    Host,
    /// An environment, whose programs come first, and the variable by which they find it.
    Environment(Prefix, &'static str),
    /// A container.
    Container(Container),
}

impl Runtime {
    /// The software that `params` name. Builds an environment and pulls an image that is missing.
    ///
    /// # Errors
    /// When a program that is needed for that is missing (a person must install it) or fails.
    pub fn prepare(params: &CommandParams, job: &Job) -> Result<Self, StageError> {
        if let Some(image) = &params.container {
            return Container::prepare(image, job).map(Self::Container);
        }
        let Some(env) = &params.env else { return Ok(Self::Host) };
        let lock = LockFile::parse(env).map_err(StageError::Params)?;
        let files = job.inputs.all(PORT).into_iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::read(path).map_err(|error| StageError::input(PORT, path, error))?;
            Ok(LockedFile { name, bytes })
        });
        let files = files.collect::<Result<Vec<_>, StageError>>()?;
        let digests = files.iter().map(|file| Digest::of_bytes(&file.bytes)).collect::<Vec<_>>();
        let build = |folder: &Path| {
            let project = folder.join("project");
            fs::create_dir(&project)?;
            for LockedFile { name, bytes } in &files {
                fs::write(project.join(name), bytes)?;
            }
            match lock.manager {
                Manager::Uv => uv::build(&project, &folder.join(prefix::PREFIX), &lock, job),
                Manager::Micromamba => micromamba::build(&project, &folder.join(prefix::PREFIX), &lock, job),
            }
        };
        let prefix = Prefix::shared(cache(job)?, &lock.environment(&digests), job, &build)?;
        Ok(Self::Environment(prefix, lock.manager.variable()))
    }

    /// `PATH` with the programs of the environment first; `None` where it is as it was.
    pub fn path(&self, path: Option<OsString>) -> Option<OsString> {
        let Self::Environment(prefix, _) = self else { return path };
        let rest = path.unwrap_or_default();
        let folders = std::iter::once(prefix.path.join("bin")).chain(std::env::split_paths(&rest));
        std::env::join_paths(folders).ok().or(Some(rest))
    }

    /// The variables that programs of an environment see in addition.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let Self::Environment(prefix, variable) = self else { return Vec::new() };
        // Packages that a person has installed in the home folder are not part of it.
        vec![(variable, prefix.path.clone().into_os_string()), ("PYTHONNOUSERSITE", "1".into())]
    }

    /// The folders that programs of an environment read: its own, and that of the interpreter that it links to.
    pub fn prefixes(&self) -> Vec<PathBuf> {
        let Self::Environment(prefix, _) = self else { return Vec::new() };
        let python = fs::canonicalize(prefix.path.join("bin/python")).ok();
        let interpreter = python.and_then(|python| Some(python.parent()?.parent()?.to_owned()));
        std::iter::once(prefix.path.clone()).chain(interpreter).collect()
    }

    /// Ends what the end of the process does not end.
    pub fn clear(&self) {
        if let Self::Container(container) = self {
            container.clear();
        }
    }
}

/// A lock file, or a file that belongs to it.
struct LockedFile {
    name: String,
    bytes: Vec<u8>,
}

/// Whether these params are right.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(params: &CommandParams) -> Result<(), String> {
    match (&params.env, &params.container) {
        (Some(_), Some(_)) => Err("it takes either `env` or `container`, not both".to_owned()),
        (None, Some(_)) if !params.sandbox.is_off() => {
            Err("a container sees nothing but the inputs of its step: remove `sandbox`".to_owned())
        }
        (None, Some(image)) => container::check(image),
        (Some(env), None) => LockFile::parse(env).map(drop),
        (None, None) => Ok(()),
    }
}

/// The files that describe the environment of these params.
pub fn project_files(params: &CommandParams) -> Vec<ProjectFile> {
    let lock = params.env.as_ref().and_then(|env| LockFile::parse(env).ok());
    lock.map(|lock| lock.project_files()).unwrap_or_default()
}

/// What the environment of these params is called in the cache, by the digests of the files of [`project_files`] that
/// exist; `None` where there is no such thing.
pub fn environment(params: &CommandParams, digests: &[Digest]) -> Option<String> {
    match (&params.env, &params.container) {
        (Some(env), _) => Some(LockFile::parse(env).ok()?.environment(digests)),
        (None, Some(image)) => Some(container::environment(image)),
        (None, None) => None,
    }
}

/// The cache: the store creates the output folder of a step as `<cache>/work/…/out` or `<cache>/jobs/…/out`.
fn cache<'a>(job: &Job<'a>) -> Result<&'a Path, StageError> {
    job.out.ancestors().nth(3).ok_or_else(|| StageError::failed("its output folder is not in a cache"))
}

/// A program in `PATH`.
fn program(name: &str) -> Option<PathBuf> {
    super::found(name, std::env::var_os("PATH").as_deref())
}

/// Runs a program that builds or fetches something, to its end. Its output goes to the log of the step.
///
/// # Errors
/// With the end of its output, when it fails.
fn run(process: &mut Process, purpose: &str, job: &Job) -> Result<(), StageError> {
    use std::os::unix::process::CommandExt;
    let words = std::iter::once(process.get_program()).chain(process.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let name = Path::new(&words[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let line = std::iter::once(name).chain(words[1..].iter().take_while(|word| !word.contains('/')).cloned());
    let line = line.collect::<Vec<_>>().join(" ");
    let log = job.out.with_file_name("environment.log");
    let file = File::create(&log)?;
    let streams = process.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
    let failed = |how: String| StageError::Failed(format!("`{line}` cannot {purpose}: {how}"));
    let mut child = streams.spawn().map_err(|error| failed(error.to_string()))?;
    let status = wait(&mut child, job)?;
    job.progress.note(fs::read_to_string(&log).unwrap_or_default().trim_end());
    if status.success() {
        return Ok(());
    }
    let (how, last) = (status_text(status), last_lines(&log).unwrap_or_default());
    Err(failed(if last.is_empty() { how } else { format!("{how}:\n{last}") }))
}
