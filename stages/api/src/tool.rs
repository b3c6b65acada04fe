//! What a tool is: a subcommand that comes with the stages, because it knows what their results mean (`repro
//! table`, `repro predict`). It reads what steps have made and answers; it changes nothing in the store and
//! prints nothing. It does not know the pipeline: it asks for steps by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{AllowedEnv, Host, Progress, StageError};

/// An argument of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arg {
    /// Its name: `run`, or `--out` for an option.
    pub name: &'static str,
    /// What follows an option (`FILE`); empty for a positional argument and for a flag.
    pub value: &'static str,
    /// One sentence for the help.
    pub about: &'static str,
    /// How often it may be given.
    pub count: Count,
}

/// How often an argument may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Exactly once.
    One,
    /// Once or not at all.
    Optional,
    /// At least once.
    Many,
    /// Any number of times.
    Any,
}

impl Arg {
    /// A positional argument.
    pub const fn positional(name: &'static str, count: Count, about: &'static str) -> Self {
        Self { name, value: "", about, count }
    }

    /// An option with a value: `--out FILE`.
    pub const fn option(name: &'static str, value: &'static str, count: Count, about: &'static str) -> Self {
        Self { name, value, about, count }
    }

    /// A flag: `--check`.
    pub const fn flag(name: &'static str, about: &'static str) -> Self {
        Self { name, value: "", about, count: Count::Optional }
    }

    /// Whether it is given by name (`--check`, `--out FILE`) rather than by place.
    pub fn is_named(&self) -> bool {
        self.name.starts_with("--")
    }

    /// Whether it is given by name and without a value.
    pub fn is_flag(&self) -> bool {
        self.is_named() && self.value.is_empty()
    }
}

/// The arguments that were given, by name as in [`Arg::name`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolArgs(pub BTreeMap<&'static str, Vec<String>>);

impl ToolArgs {
    /// All values of an argument, in order.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of an argument that is given at most once.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }

    /// Whether a flag was given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

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
    /// How it stands, in a word: `fresh`, `stale`, `waiting`, `running`.
    pub state: String,
    /// Its key, when the digests of all it reads are known.
    pub key: Option<String>,
    /// The digest of its tree, when its result is known.
    pub tree: Option<String>,
    /// The execution that its result comes from.
    pub run: Option<RunView>,
    /// The log of the execution that is under way, or of the one above; its scalars lie beside it as `.jsonl`.
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

/// What a tool may ask of the project: the results of its steps, as the pipeline stands now.
pub trait Results {
    /// The folder of the project.
    fn root(&self) -> &Path;
    /// The pipeline's file.
    fn file(&self) -> &Path;
    /// The profile in use.
    fn profile(&self) -> &str;
    /// Every step, each after all that it reads.
    fn steps(&self) -> Vec<StepView>;
    /// The graph of the steps of these names as SVG, with state and time, each box a link to `#step-NAME`; empty where
    /// nobody can draw it.
    fn drawing(&self, _steps: &[&str]) -> String {
        String::new()
    }
    /// The folder that a step wrote.
    ///
    /// # Errors
    /// [`StageError::Failed`] saying what to run when there is no such step, it is not up to date, or its bytes
    /// are gone.
    fn output(&self, step: &str) -> Result<PathBuf, StageError>;
}

/// What a tool gets to work with.
pub struct Desk<'a> {
    /// The results of the project's steps.
    pub results: &'a dyn Results,
    /// The hardware to use.
    pub host: &'a Host,
    /// What the tool asked for in [`Tool::allowed_env`].
    pub allowed_env: &'a AllowedEnv,
    /// Where to say how far the work is.
    pub progress: &'a dyn Progress,
    /// Columns of the terminal that the answer is read on; `None` when it goes elsewhere.
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
    /// What it is called on the command line.
    fn name(&self) -> &'static str;
    /// What it does: a sentence for the overview, more paragraphs for its own help.
    fn about(&self) -> &'static str;
    /// What it takes.
    fn args(&self) -> &'static [Arg];
    /// The environment variables it may read, as in [`crate::Stage::OUTSIDE`].
    fn allowed_env(&self) -> &'static [&'static str] {
        &[]
    }
    /// Does it. Relative paths among the arguments are relative to the current folder.
    ///
    /// # Errors
    /// See [`StageError`]; [`StageError::Params`] for arguments that make no sense.
    fn run(&self, args: &ToolArgs, desk: &Desk) -> Result<Answer, StageError>;
}
