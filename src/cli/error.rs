//! Errors as they are told: what failed, where, and what to do; and the exit code, by whose turn it is.

use std::path::PathBuf;
use std::process::ExitCode;

use stage_api::{HostError, StageError};

use crate::pipeline::PipelineError;
use crate::publish::PublishError;
use crate::store::StoreError;
use crate::workspace::UnusableFile;

/// A picture with a line of more bytes than this shows nothing: the file is no pipeline.
const WIDEST_PICTURE: usize = 1000;

/// Everything that ends a command early.
#[derive(Debug)]
pub enum CliError {
    /// The pipeline file is wrong.
    Pipeline(Box<PipelineError>),
    /// The command line is wrong.
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// An input file of the project cannot be used.
    File {
        /// The pipeline file.
        pipeline: PathBuf,
        /// Which file, and who reads it.
        file: UnusableFile,
    },
    /// The cache cannot be used.
    Store(StoreError),
    /// The reports cannot be written.
    Publish(PublishError),
    /// A tool of the stages did not succeed.
    Tool {
        /// Its name.
        tool: &'static str,
        /// Why.
        error: StageError,
    },
}

impl CliError {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Pipeline(_) | Self::Usage { .. } | Self::File { .. } => ExitCode::from(2),
            Self::Publish(PublishError::Conflict { .. })
            | Self::Store(
                StoreError::Foreign { .. } | StoreError::Pins { .. } | StoreError::Evidence { .. },
            ) => ExitCode::from(2),
            Self::Tool { error: StageError::Params(_), .. } => ExitCode::from(2),
            Self::Tool { error: StageError::NeedsHuman { .. }, .. } => ExitCode::from(3),
            Self::Tool { error: StageError::Cancelled, .. } => ExitCode::from(130),
            Self::Store(_) | Self::Publish(_) | Self::Tool { .. } => ExitCode::FAILURE,
        }
    }

    /// The text for standard error.
    pub fn told(self) -> String {
        let with_hint = |message: String, hint: Option<String>| match hint {
            Some(hint) => format!("error: {message}\nhint: {hint}"),
            None => format!("error: {message}"),
        };
        match self {
            Self::Pipeline(error) => {
                let place = error.to_string();
                let hint = error.hint.clone();
                let is_placed = error.position.is_some();
                let picture = format!("{:?}", miette::Report::new(*error));
                // It begins by repeating the message, however many lines that takes.
                let lines: Vec<&str> =
                    picture.lines().skip_while(|line| !line.contains("-[") && !line.contains("─[")).collect();
                if is_placed && lines.iter().all(|line| line.len() <= WIDEST_PICTURE) {
                    format!("error: {place}\n{}", lines.join("\n"))
                } else {
                    with_hint(place, hint)
                }
            }
            Self::Usage { message, hint } => with_hint(message, hint),
            Self::File { pipeline, file } => with_hint(
                format!(
                    "{}:{}:{}: step `{}` reads ./{}: {}",
                    pipeline.display(),
                    file.position.0,
                    file.position.1,
                    file.step,
                    file.path.display(),
                    file.problem
                ),
                Some("put the file there, or correct the path in the pipeline".to_owned()),
            ),
            Self::Store(error) => {
                let hint = match &error {
                    StoreError::Foreign { .. } => None,
                    StoreError::Pins { .. } => Some("restore the file from its history, or remove the line"),
                    StoreError::Evidence { .. } => Some(
                        "restore the file from its history; `repro evidence` writes it anew where the results are",
                    ),
                    StoreError::Version { .. } => Some("delete that folder, or choose another with --cache"),
                    StoreError::Io { .. } => Some("check the folder's permissions and the free space"),
                    StoreError::Output(_) | StoreError::OutputReplaced { .. } | StoreError::Away { .. } => {
                        None
                    }
                };
                with_hint(error.to_string(), hint.map(ToOwned::to_owned))
            }
            Self::Tool { tool, error: StageError::Params(problem) } => with_hint(
                format!("{tool}: {problem}"),
                Some(format!("`repro {tool} --help` tells what it takes")),
            ),
            Self::Tool { tool, error } => with_hint(format!("{tool}: {error}"), None),
            Self::Publish(error) => {
                let hint = match &error {
                    PublishError::Io { .. } => Some(
                        "move away what stands there, check permissions and free space, make again: results are kept",
                    ),
                    PublishError::Conflict { .. } => None,
                };
                with_hint(error.to_string(), hint.map(ToOwned::to_owned))
            }
        }
    }
}

impl From<HostError> for CliError {
    fn from(HostError { message, hint }: HostError) -> Self {
        Self::Usage { message, hint: Some(hint) }
    }
}

impl From<PipelineError> for CliError {
    fn from(error: PipelineError) -> Self {
        Self::Pipeline(Box::new(error))
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<PublishError> for CliError {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}
