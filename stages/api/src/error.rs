//! What can go wrong inside a stage, sorted by what the person at the keyboard has to do about it.
//! It does not know exit codes or how an error is printed: that is the engine's business.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a stage did not produce its output.
#[derive(Debug)]
pub enum StageError {
    /// The params are well-formed but make no sense together (`warm_up` longer than `updates`).
    Params(String),
    /// An input exists but cannot be used: unreadable, damaged, or of another shape than expected.
    Input {
        /// The port it came in by; empty when the stage cannot tell.
        port: String,
        /// The offending file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A person must do something first: accept a licence, place a file.
    NeedsHuman {
        /// What to do, complete enough to be followed as it is.
        what: String,
    },
    /// The engine asked the stage to stop.
    Cancelled,
    /// Anything else: the work itself failed.
    Failed(String),
}

impl StageError {
    /// An input that cannot be used.
    pub fn input(port: &str, path: impl AsRef<Path>, problem: impl fmt::Display) -> Self {
        Self::Input { port: port.to_owned(), path: path.as_ref().to_owned(), problem: problem.to_string() }
    }

    /// The work failed; `problem` says what was being done and why it did not succeed.
    pub fn failed(problem: impl fmt::Display) -> Self {
        Self::Failed(problem.to_string())
    }

    /// The whole chain of causes of `error` as one line, outermost first.
    pub fn from_chain(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::Failed(text)
    }
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Params(problem) => write!(f, "params: {problem}"),
            Self::Input { port, path, problem } if port.is_empty() => {
                write!(f, "{}: {problem}", path.display())
            }
            Self::Input { port, path, problem } => write!(f, "input `{port}`: {}: {problem}", path.display()),
            Self::NeedsHuman { what } => f.write_str(what),
            Self::Cancelled => f.write_str("stopped on request"),
            Self::Failed(problem) => f.write_str(problem),
        }
    }
}

impl Error for StageError {}

impl From<std::io::Error> for StageError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ParamsError> for StageError {
    fn from(error: ParamsError) -> Self {
        Self::Params(error.message)
    }
}

/// Params that a stage does not accept. The position is within the text that was parsed, so that the engine
/// can point at the place in `pipeline.ron`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsError {
    /// What is wrong, without a position.
    pub message: String,
    /// Line within the params' text, from 1.
    pub line: usize,
    /// Column within that line, in characters, from 1.
    pub column: usize,
    /// Names that would have been accepted in place of an unknown one; empty when the problem is another.
    pub expected: Vec<String>,
    /// The unknown name, when that is the problem.
    pub unknown: Option<String>,
}

impl fmt::Display for ParamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ParamsError {}
