//! The errors of the store.

use std::io;
use std::path::{Path, PathBuf};

use super::VERSION;

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder holds a cache of another version.
    #[error("{} was written by another version of this program ({found}; this one writes {})", folder.display(), VERSION.trim())]
    Version {
        /// The cache.
        folder: PathBuf,
        /// The content of its VERSION file.
        found: String,
    },
    /// The folder holds other files and no store.
    #[error("{} is not a cache of this program: it holds `{found}`; name an empty or a new folder", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The name of one of these files.
        found: String,
    },
    /// A job on a cluster runs the key that should run here.
    #[error(
        "a job that an earlier run submitted still runs this step ({}{}); use `--executor slurm` to continue it, \
         or cancel the job",
        job_dir.display(),
        by.as_ref().map(|by| format!(": {by}")).unwrap_or_default()
    )]
    JobRunning {
        /// The job directory.
        job_dir: PathBuf,
        /// The last entry in its job lock.
        by: Option<String>,
    },
    /// A file could not be read or written.
    #[error("{}: cannot {act}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What failed, as a verb.
        act: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// A line of the lockfile is not valid.
    #[error("{}:{line}: expected `<profile>/<step>/<path> <digest>`, each name once", file.display())]
    Lockfile {
        /// The lockfile.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A line of the evidence is not a record.
    #[error("{}:{line}: this line is not a record of a step", file.display())]
    Evidence {
        /// The file of records.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A step replaced its output folder.
    #[error("{}: the output folder is {found}; write into {{out}} instead of replacing it", path.display())]
    OutputReplaced {
        /// The output folder.
        path: PathBuf,
        /// What is there now.
        found: &'static str,
    },
    /// The output holds something that a tree cannot hold.
    #[error("cannot store the output: {0}")]
    Output(#[from] crate::tree::TreeError),
    /// A result cannot be read. It may be intact.
    #[error("{0}")]
    Unreadable(crate::tree::TreeError),
}

impl StoreError {
    pub(crate) fn io(path: &Path, act: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, act, source }
    }
}
