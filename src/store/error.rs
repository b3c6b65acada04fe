//! What may keep a store from being used.

use std::io;
use std::path::{Path, PathBuf};

use super::VERSION;

/// A store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder holds something else, or a cache of another version.
    #[error("{} was written by another version of this program ({found}; this one writes {})", folder.display(), VERSION.trim())]
    Version {
        /// The cache.
        folder: PathBuf,
        /// What its VERSION file says.
        found: String,
    },
    /// The folder holds other things and no store.
    #[error("{} is not a cache of this program: it holds `{found}`; name an empty folder, or one that need not exist", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Something that lies in it.
        found: String,
    },
    /// A job on a cluster works on what is to run here.
    #[error(
        "a job that an earlier run submitted works on it ({}{}); make with `--executor slurm` to go on with that job, \
         or cancel it",
        job_dir.display(),
        by.as_ref().map(|by| format!(": {by}")).unwrap_or_default()
    )]
    JobRunning {
        /// The job's desk.
        job_dir: PathBuf,
        /// What is known of the job.
        by: Option<String>,
    },
    /// Something could not be read or written.
    #[error("{}: cannot {act}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        act: &'static str,
        /// Why it did not succeed.
        source: io::Error,
    },
    /// The lock file beside the pipeline holds a line that is no pin.
    #[error("{}:{line}: is not `<profile>/<step>/<path> <digest>`, each name once", file.display())]
    Lockfile {
        /// The lock file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The evidence holds a line that is no record.
    #[error("{}:{line}: is not a record of a step", file.display())]
    Evidence {
        /// The file of records.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A step put something else in place of its output folder.
    #[error("{}: it is {found}, not the folder that {{out}} was; write into {{out}} instead of replacing it", path.display())]
    OutputReplaced {
        /// The output folder.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A step left something in its output folder that cannot be kept.
    #[error("the output cannot be kept: {0}")]
    Output(#[from] crate::tree::TreeError),
    /// A result cannot be read. It may be what it should be.
    #[error("{0}")]
    Unreadable(crate::tree::TreeError),
}

impl StoreError {
    pub(crate) fn io(path: &Path, act: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, act, source }
    }
}
