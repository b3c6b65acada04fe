//! Environments of uv: a virtual environment with the packages of a `uv.lock`, those of the default groups included. The
//! project's own packages are not installed: a step declares its code as inputs.

use std::fs;
use std::path::Path;
use std::process::Command as Process;

use stage_api::{Job, StageError};

use super::lock_file::LockFile;
use super::{program, run};

/// Builds the environment of the lock file in `project` in `prefix`.
///
/// # Errors
/// When uv is missing (a person must install it) or fails, or the lock file is not one of a project.
pub(super) fn build(project: &Path, prefix: &Path, lock: &LockFile, job: &Job) -> Result<(), StageError> {
    let Some(uv) = program("uv") else {
        return Err(StageError::NeedsHuman {
            what: format!(
                "`uv` builds the environment of ./{}, and there is no program `uv` in PATH; install it: `pip install uv`",
                lock.path
            ),
        });
    };
    let text = fs::read_to_string(project.join("uv.lock"))?;
    let Some(name) = project_name(&text) else {
        return Err(StageError::Failed(format!(
            "./{} does not name the project that it locks; `uv lock` writes it where `pyproject.toml` has a `[project]`",
            lock.path
        )));
    };
    // All that counts is in the lock file, so uv gets no more of the project than its name.
    fs::write(project.join("pyproject.toml"), format!("[project]\nname = \"{name}\"\nversion = \"0\"\n"))?;
    let mut process = Process::new(uv);
    process
        .args(["sync", "--frozen", "--no-install-workspace", "--compile-bytecode", "--no-progress"])
        .arg("--project")
        .arg(project)
        .current_dir(project)
        .env("UV_PROJECT_ENVIRONMENT", prefix)
        .env_remove("VIRTUAL_ENV");
    run(&mut process, &format!("build the environment of ./{}", lock.path), job)
}

/// How uv writes that a package is the project itself.
const PROJECT: [&str; 2] = ["source = { virtual = \".\" }", "source = { editable = \".\" }"];

/// The name of the package that a lock file locks: the one whose source is the folder of the file.
fn project_name(lock: &str) -> Option<&str> {
    let (before, _) = PROJECT.iter().find_map(|source| lock.split_once(source))?;
    let line = before.lines().rev().find_map(|line| line.strip_prefix("name = \""))?;
    line.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_project_is_found_among_its_packages() {
        let lock = "version = 1\n\n[[package]]\nname = \"numpy\"\nsource = { registry = \"x\" }\n\n\
                    [[package]]\nname = \"article\"\nversion = \"0.1.0\"\nsource = { virtual = \".\" }\n";
        assert_eq!(project_name(lock), Some("article"));
        assert_eq!(project_name(&lock.replace("virtual", "editable")), Some("article"));
        assert_eq!(project_name(&lock.replace("\".\"", "\"other\"")), None);
        assert_eq!(project_name("not a lock"), None);
    }
}
