//! What `repro make` prints when it has ended: the last JSON line, the summary for people, the exit code.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use stage_api::secrets;

use super::error::CliError;
use super::remote_args::print_push_summary;
use super::{Global, format, manual_steps, print_line, status};
use crate::committed::{ComparedReports, ComparedValues, Reproduction};
use crate::explain::Explanation;
use crate::make::{MakeError, MakeRequest, MakeSummary};
use crate::project::Project;
use crate::publish::Published;
use crate::run::{Failure, Summary};

/// Reports and values that are listed; all of them are in `--json`, in `git status` and in `repro diff`.
const SHOWN: usize = 3;

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
    let folder = format::place(&summary.reports);
    match &summary.published {
        Some(published) => print_published(published, &folder, summary.page.as_deref()),
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

/// The summary for `--on-end`: what came of the request, and whether all of it is up to date.
pub fn for_commands(
    project: &Project,
    request: &MakeRequest,
    done: &Result<MakeSummary, MakeError>,
    since: Instant,
) -> (serde_json::Value, bool) {
    let mut value = match done {
        Ok(summary) => json(summary, since),
        Err(error) => json!({"event": "ended", "error": secrets::shown(&error.to_string())}),
    };
    let is_complete =
        done.as_ref().is_ok_and(|summary| summary.run.is_complete() && summary.differing.is_empty());
    let failures = done.iter().flat_map(|summary| &summary.run.failures);
    let failures: Vec<_> = failures
        .map(|failure| json!({"step": failure.step, "problem": failure.problem, "log": failure.log}))
        .collect();
    value["ok"] = is_complete.into();
    value["pipeline"] = project.absolute_file().display().to_string().into();
    value["targets"] = request.targets.clone().into();
    value["failures"] = failures.into();
    (value, is_complete)
}

/// The last JSON line of a run.
fn json(summary: &MakeSummary, since: Instant) -> serde_json::Value {
    let MakeSummary { run, fresh, published, differing, page, pushed, reproduction, .. } = summary;
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
        "page": page,
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
            print_err!("hint: its log is {}", format::place(log));
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

fn print_published(Published { written, removed, edited }: &Published, folder: &str, page: Option<&Path>) {
    let number = format::count(written.len(), "file");
    match (written.is_empty(), page.map(format::place)) {
        (false, Some(page)) => print_err!("published {number}; the page is {page}"),
        (true, Some(page)) => print_err!("the page is {page}"),
        (false, None) => print_err!("published {number} in {folder}"),
        (true, None) => {}
    }
    if !removed.is_empty() {
        print_err!("removed {} that no step publishes any more", format::count(removed.len(), "report"));
    }
    for file in edited {
        print_err!("warning: {} was edited; no step publishes it any more, and it stays", file.display());
    }
}

/// How the results compare with the committed ones, for people: at most three lines.
fn reproduction_lines(Reproduction { reports, steps }: &Reproduction) -> Vec<String> {
    let reports_line = match reports {
        Some(reports) => Some(reports_line(reports)),
        None if steps.differing.is_empty() => {
            Some(format!("{}, the same results as the evidence records", format::count(steps.same, "step")))
        }
        None => None,
    };
    let values_line = reports
        .as_ref()
        .filter(|reports| !reports.changed.is_empty())
        .map(|reports| values_line(&reports.values));
    let steps_line = steps.first.first().map(|first| {
        let differ = match steps.differing.len() {
            1 => format!("step `{first}` gave another result than the committed one"),
            number => format!("{number} steps gave other results than the committed ones, `{first}` first"),
        };
        let renew = match reports {
            // Reports that were committed later than the evidence, or to which the difference does not reach.
            Some(reports) if reports.are_committed() => {
                "; if this is intended, `repro evidence` renews the evidence"
            }
            _ => "",
        };
        format!("{differ}: see `repro diff --first`{renew}")
    });
    [reports_line, values_line, steps_line].into_iter().flatten().collect()
}

fn reports_line(reports: &ComparedReports) -> String {
    let ComparedReports { same, changed, new, gone, .. } = reports;
    let files = [(changed, "changed"), (new, "not committed"), (gone, "committed, and no longer built")];
    let files = files.iter().flat_map(|(files, how)| files.iter().map(move |file| format!("{file} ({how})")));
    let files: Vec<String> = files.collect();
    if files.is_empty() {
        return format!("{}, the same bytes as committed", format::count(*same, "report"));
    }
    let all = format::count(same + files.len(), "report");
    format!("{} of {all} not as committed: {}", files.len(), shortened(&files))
}

/// Whether a reported value differs by more than noise.
fn values_line(ComparedValues { verdict, significant, .. }: &ComparedValues) -> String {
    match &significant[..] {
        [] => verdict.clone(),
        significant => format!("{verdict}: {}", shortened(significant)),
    }
}

/// The first of some names, and how many more there are.
fn shortened(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
