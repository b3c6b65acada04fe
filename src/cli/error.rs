//! Error messages: what failed, where, and what to do next; and the exit code, by who has to act.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use miette::{GraphicalReportHandler, GraphicalTheme};
use stage_api::{HostError, StageError};

use crate::command::runtime;
use crate::git::GitError;
use crate::make::MakeError;
use crate::pipeline::{PipelineError, nearest};
use crate::project::ProjectError;
use crate::publish::PublishError;
use crate::run::LimitError;
use crate::store::StoreError;
use crate::workspace::UnusableFile;

/// In a folder of more files a near name is looked for among so many.
const MOST_NAMES: usize = 10_000;

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
    /// A result is missing or cannot be used.
    Result {
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
        file: Box<UnusableFile>,
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
            Self::Store(
                StoreError::Foreign { .. } | StoreError::Lockfile { .. } | StoreError::Evidence { .. },
            ) => ExitCode::from(2),
            Self::Tool { error: StageError::Params(_), .. } => ExitCode::from(2),
            Self::Tool { error: StageError::NeedsHuman { .. }, .. } => ExitCode::from(3),
            Self::Tool { error: StageError::Cancelled, .. } => ExitCode::from(130),
            Self::Store(_) | Self::Publish(_) | Self::Tool { .. } | Self::Result { .. } => ExitCode::FAILURE,
        }
    }

    /// The text for standard error.
    pub fn message(self) -> String {
        let with_hint = |message: String, hint: Option<String>| match hint {
            Some(hint) => format!("error: {message}\nhint: {hint}"),
            None => format!("error: {message}"),
        };
        match self {
            Self::Pipeline(error) => match picture(&error) {
                Some(picture) => format!("error: {error}\n{picture}"),
                None => with_hint(error.to_string(), error.hint),
            },
            Self::Usage { message, hint } | Self::Result { message, hint } => with_hint(message, hint),
            Self::File { pipeline, file } => {
                with_hint(file.message(&pipeline), Some(found_instead(&pipeline, &file.path)))
            }
            Self::Store(error) => {
                let hint = match &error {
                    StoreError::Foreign { .. } => None,
                    StoreError::Lockfile { .. } => {
                        Some("restore the file from its history, or remove the line")
                    }
                    StoreError::Evidence { .. } => Some(
                        "restore the file from its history, or run `repro evidence` where the results are",
                    ),
                    StoreError::Version { .. } => Some("delete that folder, or choose another with --cache"),
                    StoreError::Io { .. } | StoreError::Unreadable(_) => {
                        Some("check the folder's permissions and the free space")
                    }
                    StoreError::Output(_)
                    | StoreError::OutputReplaced { .. }
                    | StoreError::JobRunning { .. } => None,
                };
                with_hint(error.to_string(), hint.map(ToOwned::to_owned))
            }
            Self::Tool { tool, error: StageError::Params(problem) } => with_hint(
                format!("{tool}: {problem}"),
                Some(format!("`repro {tool} --help` lists its arguments")),
            ),
            Self::Tool { tool, error } => with_hint(format!("{tool}: {error}"), None),
            Self::Publish(error) => {
                let hint = match &error {
                    PublishError::Io { .. } => Some(
                        "move away what is at that path, check permissions and free space, and run `repro make` again: results are kept",
                    ),
                    PublishError::Result { .. } => {
                        Some("`repro make` builds a damaged result again; `repro verify` checks all of them")
                    }
                    // These are about the pipeline and come with their place in it.
                    PublishError::Conflict { .. }
                    | PublishError::Foreign { .. }
                    | PublishError::Reserved { .. } => None,
                };
                with_hint(error.to_string(), hint.map(ToOwned::to_owned))
            }
        }
    }
}

/// What is there in place of a file that cannot be used, and what to do.
fn found_instead(pipeline: &Path, path: &Path) -> String {
    let root = pipeline.parent().unwrap_or(Path::new(""));
    let at = |path: &Path| if root.as_os_str().is_empty() { path.to_owned() } else { root.join(path) };
    if let Ok(target) = std::fs::read_link(at(path)) {
        return format!(
            "it is a link to {}; correct the link, or the path in the pipeline",
            target.display()
        );
    }
    if at(path).exists() {
        return "make it readable, or correct the path in the pipeline".to_owned();
    }
    if let Some(command) = runtime::how_to_lock(path) {
        return command.to_owned();
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(items) = std::fs::read_dir(at(folder)) else {
        return format!(
            "there is no folder ./{}; put the file there, or correct the path in the pipeline",
            folder.display()
        );
    };
    let names: Vec<String> =
        items.flatten().filter_map(|item| item.file_name().into_string().ok()).take(MOST_NAMES).collect();
    let missing = path.file_name().unwrap_or_default().to_string_lossy();
    let near = nearest(&missing, names.iter().map(String::as_str)).filter(|near| near.starts_with("did you"));
    match near {
        Some(near) => format!("{near} put the file there, or correct the path in the pipeline"),
        None => "put the file there, or correct the path in the pipeline".to_owned(),
    }
}

/// The lines of the file that an error is about, with its hint; `None` where it has no place in the file.
fn picture(error: &PipelineError) -> Option<String> {
    error.position?;
    let mut text = String::new();
    // Without colours, which would be escaped where the text reaches the terminal.
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    handler.render_report(&mut text, error).ok()?;
    // It begins by repeating the message, however many lines that takes.
    let lines: Vec<&str> = text.lines().skip_while(|line| !line.contains("─[")).collect();
    Some(lines.join("\n"))
}

impl From<ProjectError> for CliError {
    fn from(error: ProjectError) -> Self {
        match error {
            ProjectError::Pipeline(error) => Self::Pipeline(error),
            ProjectError::Store(error) => Self::Store(error),
            ProjectError::Name { message, hint } => Self::Usage { message, hint },
            ProjectError::File { pipeline, file } => Self::File { pipeline, file },
        }
    }
}

impl From<MakeError> for CliError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Project(error) => error.into(),
            MakeError::Store(error) => error.into(),
            MakeError::Host(error) => error.into(),
            MakeError::Limit(error) => error.into(),
            MakeError::Remote(error) => error.into(),
            MakeError::Publish(error) => error.into(),
            MakeError::Backend(message) => {
                let hint = message.starts_with("--executor");
                let hint = hint.then(|| "without it the steps run on this machine".to_owned());
                Self::Usage { message, hint }
            }
            error @ (MakeError::Denied { .. }
            | MakeError::ManualSteps(_)
            | MakeError::Signals(_)
            | MakeError::Reports { .. }) => Self::usage(error.to_string()),
        }
    }
}

impl From<LimitError> for CliError {
    fn from(LimitError { message, hint }: LimitError) -> Self {
        Self::Usage { message, hint }
    }
}

impl From<GitError> for CliError {
    fn from(GitError { message, hint }: GitError) -> Self {
        Self::Usage { message, hint }
    }
}

impl From<HostError> for CliError {
    fn from(HostError { message, hint }: HostError) -> Self {
        Self::Usage { message, hint: Some(hint) }
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
