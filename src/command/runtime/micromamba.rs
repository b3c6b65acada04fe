//! Environments of conda packages: micromamba (or mamba) installs what `conda-lock.yml` names. Activation scripts of
//! packages do not run; `PATH` and `CONDA_PREFIX` are set.

use std::path::Path;
use std::process::Command as Process;

use stage_api::{Job, StageError};

use super::lock_file::LockFile;
use super::{program, run};

/// Builds the environment of the lock file in `project` in `prefix`.
///
/// # Errors
/// When micromamba is missing (a person must install it) or fails.
pub(super) fn build(project: &Path, prefix: &Path, lock: &LockFile, job: &Job) -> Result<(), StageError> {
    let Some(micromamba) = ["micromamba", "mamba"].into_iter().find_map(program) else {
        return Err(StageError::NeedsHuman {
            what: format!(
                "`micromamba` builds the environment of ./{}, and there is no program `micromamba` or `mamba` in PATH; \
                 install it: `conda install --channel conda-forge micromamba`",
                lock.path
            ),
        });
    };
    let mut process = Process::new(micromamba);
    process
        .args(["create", "--yes", "--prefix"])
        .arg(prefix)
        .arg("--file")
        .arg(project.join("conda-lock.yml"));
    run(&mut process, &format!("build the environment of ./{}", lock.path), job)
}
