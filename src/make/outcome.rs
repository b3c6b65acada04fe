//! What a make came to, or why it has not begun.

use std::io;
use std::path::PathBuf;

use stage_api::HostError;

use crate::committed::Reproduction;
use crate::explain::Explanation;
use crate::project::ProjectError;
use crate::publish::{PublishError, Published};
use crate::remote::{PushSummary, RemoteError};
use crate::run::{Failure, LimitError, Summary};
use crate::store::StoreError;

/// What a make came to.
#[derive(Debug, Default)]
pub struct MakeSummary {
    /// What ran and what failed.
    pub run: Summary,
    /// Whether everything was up to date before.
    pub had_nothing_to_do: bool,
    /// How many steps are fresh now.
    pub fresh: usize,
    /// How many of them are fresh by the evidence alone.
    pub by_evidence: usize,
    /// What was published; `None` where something is missing, and under `check`.
    pub published: Option<Published>,
    /// Under `check`, the reports that differ from the results.
    pub differing: Vec<PathBuf>,
    /// The page among what is published: `index.html`, that of the highest folder if there are several.
    pub page: Option<PathBuf>,
    /// What was pushed, and where.
    pub pushed: Option<(String, PushSummary)>,
    /// How the results compare with the committed ones, where there are any.
    pub reproduction: Option<Reproduction>,
    /// The folder of the reports.
    pub reports: PathBuf,
}

/// Why a make ends before its first step, or cannot publish.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The project cannot be used.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This machine cannot follow a setting.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The limits cannot be kept.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The store of other machines' results cannot be used.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Steps must or may run that need a denied pool.
    #[error("{} that need the pool `{pool}` are not fresh", steps.len())]
    Denied {
        /// The pool.
        pool: String,
        /// The steps, and why each is not fresh.
        steps: Vec<Explanation>,
    },
    /// A person must do something first.
    #[error("{} need a manual step first", .0.len())]
    ManualSteps(Vec<Failure>),
    /// The backend cannot be used.
    #[error("{0}")]
    Backend(String),
    /// The caller cannot stop the run.
    #[error("signals cannot be caught: {0}")]
    Signals(io::Error),
    /// The reports cannot be written.
    #[error(transparent)]
    Publish(PublishError),
    /// What the pipeline publishes cannot be in one folder.
    #[error("{}:{line}: {error}", pipeline.display())]
    Reports {
        /// The pipeline file.
        pipeline: PathBuf,
        /// The line of the step to change.
        line: usize,
        /// Why.
        error: Box<PublishError>,
    },
}
