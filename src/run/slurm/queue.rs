//! The three commands of Slurm that are needed, and what they answer: `sbatch`, `squeue` (with `scontrol` for a job
//! that has left the queue) and `scancel`. No accounting daemon is asked. It knows neither steps nor desks.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// A job to submit.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    /// By which it is found again.
    pub name: String,
    /// The options of `sbatch` beside the name.
    pub options: Vec<String>,
    /// The script.
    pub script: String,
}

/// Why a job was not submitted.
#[derive(Debug)]
pub(super) enum NotSubmitted {
    /// Slurm refused it.
    Refused(String),
    /// There was no answer: it may be in the queue.
    Unsure(String),
}

/// The state of a job that was told to end by nobody known here; no word of Slurm's.
pub(super) const INTERRUPTED: &str = "INTERRUPTED";

/// A job in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: String,
    /// `PENDING`, `RUNNING`, …
    pub state: String,
    /// The nodes it runs on, or why it does not.
    pub place: String,
}

/// What `sbatch` says when it did not get through, and the job may have.
const NO_ANSWER: [&str; 6] = [
    "Unable to contact",
    "Socket timed out",
    "temporarily",
    "Connection refused",
    "Zero Bytes were transmitted",
    "Transport endpoint",
];

/// Whether the commands are there.
///
/// # Errors
/// A sentence that says what is missing.
pub(super) fn check() -> Result<(), String> {
    match Command::new("sbatch").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("`sbatch --version` failed: {}", told(&output.stderr))),
        Err(error) => {
            Err(format!("`sbatch` cannot be started ({error}); run where Slurm's commands are installed"))
        }
    }
}

/// Submits a job; returns its id.
pub(super) fn submit(job: &Submission) -> Result<String, NotSubmitted> {
    let unsure = |error: io::Error| NotSubmitted::Unsure(format!("sbatch: {error}"));
    let mut command = Command::new("sbatch");
    command.arg("--parsable").arg(format!("--job-name={}", job.name)).args(&job.options);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(unsure)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended before it read the script says why.
        let _ = stdin.write_all(job.script.as_bytes());
    }
    let output = child.wait_with_output().map_err(unsure)?;
    let problem = told(&output.stderr);
    if output.status.success() {
        // On a federation `id;cluster`.
        let id = told(&output.stdout);
        return Ok(id.split(';').next().unwrap_or_default().to_owned());
    }
    if output.status.code().is_none() || NO_ANSWER.iter().any(|words| problem.contains(words)) {
        return Err(NotSubmitted::Unsure(problem));
    }
    Err(NotSubmitted::Refused(problem))
}

/// This user's jobs that are in the queue, by name: one call, however many there are.
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

/// How a job left the queue, as far as Slurm still knows: `CANCELLED`, `NODE_FAIL`, …
pub(super) fn last_state(id: &str) -> Option<String> {
    state(&run(Command::new("scontrol").args(["show", "job", id, "--oneliner"])).ok()?)
}

/// The last state in what `scontrol show job` says. A job that was told to end, when its node was shut down say, and
/// whose end came before Slurm noted why, is `FAILED` to Slurm with the exit code of one that was interrupted, or with
/// SIGTERM where that came before the job listened for it.
fn state(text: &str) -> Option<String> {
    let last = |name: &str| text.split_whitespace().filter_map(|field| field.strip_prefix(name)).next_back();
    let was_interrupted =
        last("ExitCode=").is_some_and(|code| code.starts_with("130:") || code.ends_with(":15"));
    match last("JobState=")? {
        "FAILED" if was_interrupted => Some(INTERRUPTED.to_owned()),
        state => Some(state.to_owned()),
    }
}

/// Cancels jobs: asks them to end, or ends them at once.
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
        Err(told(&output.stderr))
    }
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_that_was_told_to_end_is_told_from_one_that_failed() {
        let said =
            |what: &str, code: &str| state(&format!("JobId=7 JobState={what} ExitCode={code} Requeue=1"));
        assert_eq!(said("FAILED", "130:0").as_deref(), Some(INTERRUPTED));
        assert_eq!(said("FAILED", "0:15").as_deref(), Some(INTERRUPTED));
        assert_eq!(said("FAILED", "1:0").as_deref(), Some("FAILED"));
        assert_eq!(said("FAILED", "0:9").as_deref(), Some("FAILED"));
        assert_eq!(said("CANCELLED", "130:0").as_deref(), Some("CANCELLED"));
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
