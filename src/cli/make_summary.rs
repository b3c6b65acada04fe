//! What `repro make` prints when it has ended: the last JSON line, the summary for people, the exit code.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::error::CliError;
use super::remote_args::print_push_summary;
use super::{Global, format, manual_steps, print_line, status};
use crate::committed::{ComparedReports, Reproduction};
use crate::explain::Explanation;
use crate::make::{MakeError, MakeRequest, MakeSummary};
use crate::project::Project;
use crate::publish::Published;
use crate::run::{Failure, Summary};

/// Reports that are listed; all of them are in `--json` and in `git status`.
const SHOWN: usize = 5;

/// Prints a summary; returns the exit code.
pub fn print(
    global: &Global,
    project: &Project,
    request: &MakeRequest,
    summary: &MakeSummary,
    since: Instant,
) -> Result<ExitCode, CliError> {
    if global.json {
        print_line(&json(summary, since))?;
    }
    let by_evidence = match summary.by_evidence {
        0 => String::new(),
        number => format!(" ({number} by the evidence; --no-evidence runs them here)"),
    };
    if summary.had_nothing_to_do {
        print_err!("nothing to do: {} fresh{by_evidence}", format::count(summary.fresh, "step"));
        return Ok(ExitCode::SUCCESS);
    }
    let run = &summary.run;
    print_failures(run, project);
    let ran = format::count(run.ran.len(), "step");
    let time = format::duration(since.elapsed().as_secs_f64());
    let mut line =
        format!("{ran} ran in {time}, {} fresh{by_evidence}", summary.fresh.saturating_sub(run.ran.len()));
    if !run.failures.is_empty() {
        line.push_str(&format!(", {} failed", run.failures.len()));
    }
    if !run.not_reached.is_empty() {
        line.push_str(&format!(", {} not reached", run.not_reached.len()));
    }
    print_err!("{line}");
    if let Some((place, pushed)) = &summary.pushed {
        print_push_summary(place, pushed);
    }
    let folder = summary.reports.display();
    match &summary.published {
        Some(published) => print_published(published, &folder.to_string()),
        None if !summary.differing.is_empty() => {
            let number = format::count(summary.differing.len(), "file");
            print_err!("error: --check: {number} in {folder} differ from the current results");
            for file in &summary.differing {
                print_err!("  {}", file.display());
            }
            print_err!(
                "hint: `repro make` with the same targets writes them; commit them with what changed them"
            );
            return Ok(ExitCode::from(4));
        }
        None => print_err!("the reports are as they were"),
    }
    for line in summary.reproduction.iter().flat_map(reproduction_lines) {
        print_err!("{line}");
    }
    if run.failures.iter().any(|failure| failure.needs_human) {
        manual_steps::print_next_command(&request.targets);
    }
    Ok(exit_code(run))
}

/// Prints why a make has not begun; returns the exit code.
pub fn print_error(global: &Global, request: &MakeRequest, error: MakeError) -> Result<ExitCode, CliError> {
    match error {
        MakeError::Denied { pool, steps } => {
            print_denied(global, &pool, &steps)?;
            Ok(ExitCode::from(4))
        }
        // What only people can do is printed at once and as a whole, not one by one as the steps come to it.
        MakeError::ManualSteps(needed) => {
            manual_steps::print_all(global, &request.targets, &needed)?;
            Ok(ExitCode::from(3))
        }
        error => Err(error.into()),
    }
}

fn print_denied(global: &Global, pool: &str, steps: &[Explanation]) -> Result<(), CliError> {
    if global.json {
        let steps: Vec<_> = steps
            .iter()
            .map(|step| json!({"step": step.step, "reason": status::root_reason(step)}))
            .collect();
        print_line(&json!({"event": "denied", "pool": pool, "steps": steps}))?;
    }
    print_err!(
        "error: --deny-pool {pool}: {}",
        match steps.len() {
            1 => "1 step that needs it is not fresh".to_owned(),
            number => format!("{number} steps that need it are not fresh"),
        }
    );
    for step in steps {
        print_err!("  `{}`: {}", step.step, status::root_reason(step));
    }
    print_err!(
        "hint: run them where that pool may be used and renew the evidence, or `repro accept` what did not \
         change the result"
    );
    Ok(())
}

/// The last JSON line of a run.
fn json(summary: &MakeSummary, since: Instant) -> serde_json::Value {
    let MakeSummary { run, fresh, published, differing, pushed, reproduction, .. } = summary;
    let failed: Vec<&str> = run.failures.iter().map(|failure| failure.step.as_str()).collect();
    let conflicts = pushed.iter().flat_map(|(_, pushed)| &pushed.conflicts).map(|(step, _)| step);
    json!({
        "event": "ended",
        "seconds": since.elapsed().as_secs_f64(),
        "ran": run.ran.len(),
        "fresh": fresh,
        "failed": failed,
        "not_reached": run.not_reached,
        "interrupted": run.interrupted,
        "published": published.as_ref().map_or(0, |published| published.written.len()),
        "removed": published.as_ref().map_or(0, |published| published.removed.len()),
        "differing": differing,
        "pushed": pushed.as_ref().map_or(0, |(_, pushed)| pushed.pushed.len()),
        "conflicts": conflicts.collect::<Vec<_>>(),
        "reproduction": reproduction,
    })
}

fn print_failures(run: &Summary, project: &Project) {
    for failure in &run.failures {
        let Failure { step, problem, log, needs_human } = failure;
        match needs_human {
            true => manual_steps::print_one(failure),
            // The rest of the reason was printed where the step failed.
            false => {
                let first = problem.lines().next().unwrap_or_default().trim_end_matches(':');
                print_err!("error: step `{step}` failed: {first}");
            }
        }
        // A step that printed nothing left no log.
        if let Some(log) = log.as_ref().filter(|log| log.exists()) {
            print_err!("hint: its log is {}", log.display());
        }
    }
    for (step, owner) in &run.held_by_others {
        let owner = owner.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string);
        print_err!("error: step `{step}` is being run by {owner}");
        print_err!("hint: without --no-wait this waits for it");
    }
    if run.interrupted {
        print_err!("stopped; what was finished is kept in {}", project.cache().display());
    }
}

fn exit_code(run: &Summary) -> ExitCode {
    match run {
        _ if run.is_complete() => ExitCode::SUCCESS,
        _ if run.interrupted => ExitCode::from(130),
        _ if !run.failures.is_empty() && run.failures.iter().all(|failure| failure.needs_human) => {
            ExitCode::from(3)
        }
        _ => ExitCode::FAILURE,
    }
}

fn print_published(Published { written, removed, edited }: &Published, folder: &str) {
    if !written.is_empty() {
        print_err!("published {} in {folder}", format::count(written.len(), "file"));
    }
    if !removed.is_empty() {
        print_err!("removed {} that no step publishes any more", format::count(removed.len(), "report"));
    }
    for file in edited {
        print_err!("warning: {} was edited; no step publishes it any more, and it stays", file.display());
    }
}

/// How the results compare with the committed ones, for people, a line each.
fn reproduction_lines(reproduction: &Reproduction) -> Vec<String> {
    let mut lines = Vec::new();
    let Reproduction { reports, steps } = reproduction;
    match reports {
        Some(ComparedReports { same, changed, new, gone }) => {
            let differing = changed.len() + new.len() + gone.len();
            let files =
                [(changed, "changed"), (new, "not committed"), (gone, "committed, and no longer built")];
            let files = files.iter().flat_map(|(files, how)| files.iter().map(move |file| (file, how)));
            if differing == 0 {
                lines.push(format!("{}, the same bytes as committed", format::count(*same, "report")));
            } else {
                let all = format::count(same + differing, "report");
                lines.push(format!("{differing} of {all} not as committed:"));
                lines.extend(files.take(SHOWN).map(|(file, how)| format!("  {file} ({how})")));
                if differing > SHOWN {
                    lines.push(format!("  and {} more", differing - SHOWN));
                }
            }
        }
        None if steps.differing.is_empty() => {
            lines.push(format!(
                "{}, the same results as the evidence records",
                format::count(steps.same, "step")
            ));
        }
        None => {}
    }
    if let [first, ..] = steps.first.as_slice() {
        lines.push(match steps.differing.len() {
            1 => format!("step `{first}` gave another result than the committed one"),
            number => {
                format!("{number} steps gave other results than the committed ones, `{first}` first")
            }
        });
        let hint = "hint: `repro diff --first` shows how";
        lines.push(match reports {
            // Reports that were committed later than the evidence, or to which the difference does not reach.
            Some(reports) if reports.are_committed() => {
                format!("{hint}; where the change is meant, `repro evidence` renews the evidence")
            }
            _ => hint.to_owned(),
        });
    }
    lines
}
