//! Shell lines of the user that run after a `make`, with its summary as JSON on standard input: for mail, a chat, anything.
//! They change neither results nor the exit code.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::Value;

#[derive(Args)]
pub struct AfterRun {
    /// Run this line of `sh` when the run has ended, with a summary as JSON on its standard input.
    #[arg(long, value_name = "CMD")]
    on_end: Option<String>,
    /// The same, only if something is not up to date then: a step failed, or the run could not begin.
    #[arg(long, value_name = "CMD")]
    on_failure: Option<String>,
}

impl AfterRun {
    /// Whether there is a line to run.
    pub fn is_empty(&self) -> bool {
        self.on_end.is_none() && self.on_failure.is_none()
    }

    /// Runs the lines in the folder of the project.
    pub fn run(&self, root: &Path, summary: &Value, has_failed: bool) {
        let on_failure = self.on_failure.as_ref().filter(|_| has_failed).map(|line| ("--on-failure", line));
        for (option, line) in self.on_end.iter().map(|line| ("--on-end", line)).chain(on_failure) {
            if let Err(problem) = run(line, root, summary) {
                print_err!("warning: {option} `{line}`: {problem}");
            }
        }
    }
}

fn run(line: &str, root: &Path, summary: &Value) -> Result<(), String> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).current_dir(root).stdin(Stdio::piped());
    // Standard output belongs to the answers of this program.
    shell.stdout(std::io::stderr());
    let mut child = shell.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A line that does not read its standard input may have ended.
        let _ = stdin.write_all(format!("{summary}\n").as_bytes());
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}
