//! The files in a job directory by which the two sides of a job communicate, over a shared file system: the task for
//! the job, its reports, and its outcome. All are written as a whole or in complete lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::run::executor::{Execution, Outcome, Report, Task};
use crate::store::{ENDED, files};

/// The task of the job. When it exists, the job may have been submitted.
const TASK: &str = "task.json";
/// The reports of the job, one per line.
const REPORTS: &str = "reports.jsonl";
/// The output of the node's system: errors before the program runs.
pub(super) const OUTPUT: &str = "slurm.out";

/// The outcome of a step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub outcome: Outcome,
    pub execution: Execution,
}

/// Whether the job directory holds a task.
pub(super) fn has_task(job_dir: &Path) -> bool {
    job_dir.join(TASK).exists()
}

pub(super) fn put_task(job_dir: &Path, task: &Task) -> io::Result<()> {
    files::write_whole(&job_dir.join(TASK), &serde_json::to_vec(task)?, true)
}

pub(super) fn task(job_dir: &Path) -> io::Result<Task> {
    Ok(serde_json::from_slice(&files::read(&job_dir.join(TASK))?)?)
}

pub(super) fn put_end(job_dir: &Path, ended: &Ended) -> io::Result<()> {
    files::write_whole(&job_dir.join(ENDED), &serde_json::to_vec(ended)?, true)
}

pub(super) fn end(job_dir: &Path) -> io::Result<Ended> {
    Ok(serde_json::from_slice(&files::read(&job_dir.join(ENDED))?)?)
}

/// The file that the job appends reports to.
pub(super) fn reports(job_dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(job_dir.join(REPORTS))
}

pub(super) fn put_report(reports: &mut File, report: &Report) -> io::Result<()> {
    reports.write_all((serde_json::to_string(report)? + "\n").as_bytes())
}

/// The complete lines of reports from byte `at` on; advances `at`.
pub(super) fn new_reports(job_dir: &Path, at: &mut u64) -> Vec<Report> {
    let mut bytes = Vec::new();
    let read = File::open(job_dir.join(REPORTS)).and_then(|mut file| {
        file.seek(SeekFrom::Start(*at))?;
        file.read_to_end(&mut bytes)
    });
    // The file may not exist yet.
    if read.is_err() {
        return Vec::new();
    }
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1));
    *at += bytes.len() as u64;
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// The last lines of the node's output, to append to a message; empty if there are none.
pub(super) fn last_words(job_dir: &Path) -> String {
    let text = fs::read(job_dir.join(OUTPUT)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(3)..];
    if last.is_empty() { String::new() } else { format!(":\n  {}", last.join("\n  ")) }
}

/// Whether Slurm reports that it took the node away from the job: `*** JOB 1 ON n1 CANCELLED AT … DUE TO NODE FAILURE … ***`.
/// The state of such a job can be `FAILED` with any exit code, that of its interrupted process.
pub(super) fn has_lost_its_node(job_dir: &Path) -> bool {
    const REASONS: [&str; 3] = [" DUE TO NODE FAILURE", " DUE TO JOB REQUEUE", " DUE TO PREEMPTION"];
    let text = fs::read(job_dir.join(OUTPUT)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().any(|line| line.contains("*** JOB ") && REASONS.iter().any(|reason| line.contains(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_lost_its_node_is_known_by_the_words_of_slurm() {
        let folder = tempfile::tempdir().unwrap();
        let has_lost = |text: &str| {
            fs::write(folder.path().join(OUTPUT), text).unwrap();
            has_lost_its_node(folder.path())
        };
        assert!(!has_lost_its_node(folder.path()), "there is no output yet");
        assert!(!has_lost("error: no such file DUE TO NODE FAILURE\n"), "not the words of Slurm");
        let cancelled = "slurmstepd-n1: error: *** JOB 1 ON n1 CANCELLED AT 2026-01-01T00:00:00";
        for (reason, expected) in [
            (" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", true),
            (" DUE TO JOB REQUEUE", true),
            (" DUE TO PREEMPTION", true),
            (" DUE TO TIME LIMIT", false),
            ("", false),
        ] {
            assert_eq!(has_lost(&format!("{cancelled}{reason} ***\n")), expected, "{reason}");
        }
    }

    #[test]
    fn an_incomplete_line_is_read_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let job_dir = folder.path();
        let mut at = 0;
        assert_eq!(new_reports(job_dir, &mut at), []);
        let (one, two) = (Report::Warned("one".to_owned()), Report::Warned("two".to_owned()));
        let mut pen = reports(job_dir).unwrap();
        put_report(&mut pen, &one).unwrap();
        let line = serde_json::to_string(&two).unwrap() + "\n";
        pen.write_all(&line.as_bytes()[..9]).unwrap();
        assert_eq!(new_reports(job_dir, &mut at), [one]);
        assert_eq!(new_reports(job_dir, &mut at), []);
        pen.write_all(&line.as_bytes()[9..]).unwrap();
        assert_eq!(new_reports(job_dir, &mut at), [two]);
    }
}
