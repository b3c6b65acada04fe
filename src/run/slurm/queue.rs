//! The commands of Slurm and their output: `sbatch`, `squeue`, `scontrol` (for a job that has left the queue) and
//! `scancel`. The accounting daemon is not used. This module knows neither steps nor job directories.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A job to submit.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    /// Its name, by which it is found again.
    pub name: String,
    /// The options of `sbatch` other than the name.
    pub options: Vec<String>,
    /// The script.
    pub script: String,
}

/// The reason why a job was not submitted.
#[derive(Debug)]
pub(super) enum NotSubmitted {
    /// Slurm refused it.
    Refused(String),
    /// There was no answer: the job may be in the queue.
    Unsure(String),
}

/// The state of a job that ended on a stop request of unknown origin; not a word of Slurm's.
pub(super) const INTERRUPTED: &str = "INTERRUPTED";

/// A job in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: String,
    /// `PENDING`, `RUNNING`, …
    pub state: String,
    /// The nodes it runs on, or the reason why it waits.
    pub place: String,
}

/// Parts of `sbatch` errors after which the job may have been submitted.
const NO_ANSWER: [&str; 6] = [
    "Unable to contact",
    "Socket timed out",
    "temporarily",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Transport endpoint",
];

/// Checks that the commands exist.
///
/// # Errors
/// A message with the missing command.
pub(super) fn check() -> Result<(), String> {
    match Command::new("sbatch").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`sbatch --version` failed: {}", trimmed(&output.stderr))),
        Err(error) => Err(format!("cannot start `sbatch` ({error}); run on a machine with Slurm's commands")),
    }
}

/// Submits a job. Returns its ID.
pub(super) fn submit(job: &Submission) -> Result<String, NotSubmitted> {
    let unsure = |error: io::Error| NotSubmitted::Unsure(format!("sbatch: {error}"));
    let mut command = Command::new("sbatch");
    command.arg("--parsable").arg(format!("--job-name={}", job.name)).args(&job.options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(unsure)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If `sbatch` ended before it read the script, its output gives the reason.
        let _ = stdin.write_all(job.script.as_bytes());
    }
    let output = child.wait_with_output().map_err(unsure)?;
    let problem = trimmed(&output.stderr);
    if output.status.success() {
        // A federation prints `id;cluster`.
        let id = trimmed(&output.stdout);
        return Ok(id.split(';').next().unwrap_or_default().to_owned());
    }
    if output.status.code().is_none() || NO_ANSWER.iter().any(|words| problem.contains(words)) {
        return Err(NotSubmitted::Unsure(problem));
    }
    Err(NotSubmitted::Refused(problem))
}

/// The jobs of this user in the queue, by name: one call for all.
pub(super) fn list() -> Result<HashMap<String, Vec<Entry>>, String> {
    Ok(parse(&run(Command::new("squeue").args(["--me", "--noheader", "--format=%i|%j|%T|%R"]))?))
}

fn parse(text: &str) -> HashMap<String, Vec<Entry>> {
    let mut jobs: HashMap<String, Vec<Entry>> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(4, '|').map(str::trim);
        if let (Some(id), Some(name), Some(state), Some(place)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        {
            let entry = Entry { id: id.to_owned(), state: state.to_owned(), place: place.to_owned() };
            jobs.entry(name.to_owned()).or_default().push(entry);
        }
    }
    jobs
}

/// The last state of a job that left the queue, if Slurm still has it: `CANCELLED`, `NODE_FAIL`, …
pub(super) fn last_state(id: &str) -> Option<String> {
    state(&run(Command::new("scontrol").args(["show", "job", id, "--oneliner"])).ok()?)
}

/// The last state in the output of `scontrol show job`. A job that Slurm stopped, for example at a shutdown of its
/// node, can be `FAILED` there: with the exit code of an interrupted process, or with SIGTERM if that came before the
/// job handled it.
fn state(text: &str) -> Option<String> {
    let last = |name: &str| text.split_whitespace().filter_map(|field| field.strip_prefix(name)).next_back();
    let was_interrupted =
        last("ExitCode=").is_some_and(|code| code.starts_with("130:") || code.ends_with(":15"));
    match last("JobState=")? {
        "FAILED" if was_interrupted => Some(INTERRUPTED.to_owned()),
        state => Some(state.to_owned()),
    }
}

/// Cancels jobs: requests them to end, or kills them.
pub(super) fn cancel(ids: &[String], at_once: bool) -> Result<(), String> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("scancel");
    if at_once {
        command.args(["--signal=KILL", "--full"]);
    }
    run(command.args(ids)).map(drop)
}

fn run(command: &mut Command) -> Result<String, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(trimmed(&output.stderr))
    }
}

fn trimmed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_job_differs_from_a_failed_one() {
        let found =
            |what: &str, code: &str| state(&format!("JobId=7 JobState={what} ExitCode={code} Requeue=1"));
        assert_eq!(found("FAILED", "130:0").as_deref(), Some(INTERRUPTED));
        assert_eq!(found("FAILED", "0:15").as_deref(), Some(INTERRUPTED));
        assert_eq!(found("FAILED", "1:0").as_deref(), Some("FAILED"));
        assert_eq!(found("FAILED", "0:9").as_deref(), Some("FAILED"));
        assert_eq!(found("CANCELLED", "130:0").as_deref(), Some("CANCELLED"));
        assert_eq!(state("slurm_load_jobs error"), None);
    }

    #[test]
    fn the_queue_is_read_line_by_line() {
        let jobs = parse(
            "17|repro-a|RUNNING|n[1-2]\n18|other|PENDING|(Resources)\n19|repro-a|PENDING|(a|b)\n\nodd\n",
        );
        let entry = |id: &str, state: &str, place: &str| Entry {
            id: id.into(),
            state: state.into(),
            place: place.into(),
        };
        assert_eq!(jobs["repro-a"], [entry("17", "RUNNING", "n[1-2]"), entry("19", "PENDING", "(a|b)")]);
        assert_eq!(jobs.len(), 2);
    }
}
