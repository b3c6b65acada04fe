//! What a tool is: a subcommand that comes with the stages, because it knows what their results mean (`repro
//! table`, `repro predict`). It reads results of steps and answers; it changes nothing in the store and
//! prints nothing. It does not know the pipeline: it asks for steps by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches};

use crate::{AllowedEnv, Host, Progress, Scalars, StageError};

/// A step of the pipeline as a tool sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// The stage it runs.
    pub stage: String,
    /// That stage's version.
    pub version: u32,
    /// Its params, canonical RON.
    pub params: String,
    /// What it reads.
    pub inputs: Vec<InputView>,
    /// Where in the reports of the profile its result is published, if it is.
    pub publish: Option<String>,
    /// Its state: `fresh`, `from evidence`, `stale`, `waiting`, `running`.
    pub state: String,
    /// Its key, when the digests of all it reads are known.
    pub key: Option<String>,
    /// The digest of its tree, when its result is known.
    pub tree: Option<String>,
    /// The execution that its result comes from.
    pub run: Option<RunView>,
    /// The log of the execution that is under way, or of the one above; its scalars are next to it as `.jsonl`.
    pub log: Option<PathBuf>,
}

/// What a step reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputView {
    /// The port.
    pub port: String,
    /// The source as the pipeline writes it: `step`, `step/part`, `./file`.
    pub source: String,
    /// Its digest, when it is known.
    pub digest: Option<String>,
}

impl InputView {
    /// The step it comes from; `None` for a file of the project.
    pub fn step(&self) -> Option<&str> {
        if self.source.starts_with("./") { None } else { self.source.split('/').next() }
    }
}

/// One execution of a step, as its record has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunView {
    /// When it began, in milliseconds since 1970; of an accepted result, when it was accepted.
    pub started_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// The most memory that its process held, in bytes, where that is known; memory of a GPU is not in it.
    pub peak_memory: Option<u64>,
    /// The host's name.
    pub host: String,
    /// The device it was given.
    pub device: String,
    /// The threads it was given.
    pub threads: usize,
    /// The digests of the files and folders it wrote, by name.
    pub outputs: BTreeMap<String, String>,
    /// Who let it stand for another key, and why, if somebody did.
    pub accepted: Option<String>,
}

/// What a tool may ask of the project: the results of its steps, as the pipeline is now.
pub trait Results {
    /// The folder of the project.
    fn root(&self) -> &Path;
    /// The pipeline's file.
    fn file(&self) -> &Path;
    /// The files that the pipeline's file names for profiles, relative to the folder of the project.
    fn other_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// The profile in use.
    fn profile(&self) -> &str;
    /// What the last run of a step reported while it ran: from the file next to its log.
    fn values(&self, _step: &str) -> Vec<Scalars> {
        Vec::new()
    }
    /// Every step, each after all that it reads.
    fn steps(&self) -> Vec<StepView>;
    /// The graph of the steps of these names as SVG, with state and time, each box a link to `#step-NAME`; empty where
    /// the program cannot draw it.
    fn drawing(&self, _steps: &[&str]) -> String {
        String::new()
    }
    /// The folder that a step wrote.
    ///
    /// # Errors
    /// [`StageError::Failed`] saying what to run when there is no such step, it is not up to date, or its bytes
    /// are gone.
    fn output(&self, step: &str) -> Result<PathBuf, StageError>;
    /// A file or folder of what a step wrote, by its path (`history.json`). Evidence may hold it without the rest.
    ///
    /// # Errors
    /// As [`Results::output`]; a path that is not in the output.
    fn part(&self, step: &str, path: &str) -> Result<PathBuf, StageError> {
        Ok(self.output(step)?.join(path))
    }
    /// The folder of the reports that a step publishes into, if it has reports and the step has no result here although
    /// all that it reads is known from evidence: in a fresh clone, the committed reports.
    fn committed_reports(&self, _step: &str) -> Option<PathBuf> {
        None
    }
}

/// A page about the results of a pipeline, drawn by stages that know what they mean: what `repro page` writes and `repro
/// serve` shows where the pipeline has a step of [`ReportPage::stage`].
#[derive(Debug, Clone, Copy)]
pub struct ReportPage {
    /// The stage of the step whose page it is.
    pub stage: &'static str,
    /// Draws the page as HTML.
    pub render: fn(&dyn Results) -> Result<String, StageError>,
}

/// What a tool gets to work with.
pub struct ToolContext<'a> {
    /// The results of the project's steps.
    pub results: &'a dyn Results,
    /// The hardware to use.
    pub host: &'a Host,
    /// What the tool asked for in [`Tool::OUTSIDE`].
    pub allowed_env: &'a AllowedEnv,
    /// Where to say how far the work is.
    pub progress: &'a dyn Progress,
    /// Columns of the terminal that the answer is read on; `None` when it does not go to a terminal.
    pub columns: Option<usize>,
}

/// What a tool answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// For a person, ending with a line break.
    pub text: String,
    /// The same for a machine: one JSON document, printed instead of `text` under `--json`.
    pub json: String,
    /// Whether what was asked to hold (`--check`) does not: the program then ends with code 4.
    pub stale: bool,
}

/// A subcommand that comes with the stages.
pub trait Tool: Send + Sync + 'static {
    /// What it takes. The doc comment of the type is the help of the subcommand: a sentence for the overview, then more
    /// paragraphs.
    type Args: Args + Send + Sync;
    /// What it is called on the command line.
    const NAME: &'static str;
    /// The environment variables it may read, as in [`crate::Stage::OUTSIDE`].
    const OUTSIDE: &'static [&'static str] = &[];

    /// Does it. Relative paths among the arguments are relative to the current folder.
    ///
    /// # Errors
    /// See [`StageError`]; [`StageError::Params`] for arguments that make no sense.
    fn run(&self, args: &Self::Args, context: &ToolContext) -> Result<Answer, StageError>;
}

/// A [`Tool`] with the type of its arguments erased; implemented for every tool.
pub trait AnyTool: Send + Sync {
    /// [`Tool::NAME`].
    fn name(&self) -> &'static str;
    /// Its subcommand with all arguments.
    fn command(&self) -> clap::Command;
    /// Parses arguments that [`AnyTool::command`] has matched.
    ///
    /// # Errors
    /// Arguments that do not fit together.
    fn load(&self, matches: &clap::ArgMatches) -> Result<Box<dyn LoadedTool + '_>, clap::Error>;
}

/// A tool together with its arguments.
pub trait LoadedTool: Send + Sync {
    /// [`Tool::NAME`].
    fn name(&self) -> &'static str;
    /// [`Tool::OUTSIDE`].
    fn allowed_env(&self) -> &'static [&'static str];
    /// [`Tool::run`].
    ///
    /// # Errors
    /// What [`Tool::run`] returns.
    fn run(&self, context: &ToolContext) -> Result<Answer, StageError>;
}

impl<T: Tool> AnyTool for T {
    fn name(&self) -> &'static str {
        T::NAME
    }
    fn command(&self) -> clap::Command {
        T::Args::augment_args(clap::Command::new(T::NAME))
    }
    fn load(&self, matches: &clap::ArgMatches) -> Result<Box<dyn LoadedTool + '_>, clap::Error> {
        Ok(Box::new(Loaded { tool: self, args: T::Args::from_arg_matches(matches)? }))
    }
}

struct Loaded<'t, T: Tool> {
    tool: &'t T,
    args: T::Args,
}

impl<T: Tool> LoadedTool for Loaded<'_, T> {
    fn name(&self) -> &'static str {
        T::NAME
    }
    fn allowed_env(&self) -> &'static [&'static str] {
        T::OUTSIDE
    }
    fn run(&self, context: &ToolContext) -> Result<Answer, StageError> {
        self.tool.run(&self.args, context)
    }
}
