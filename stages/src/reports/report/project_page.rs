//! The page of a project: the report's page with, for every number, the step, key and input digests that computed it, the
//! graph of steps with state and times, hosts and logs, and whatever else is published. It does not know how the page looks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stage_api::{InputView, ReportPage, Results, Stage, StageError, StepView};

use super::page::{Page, Part, Project, Run};
use super::{PARTS, RUNS, Report, ReportParams, part, rendered, run};
use crate::artifacts::scalars;
use crate::reports::cost;
use crate::reports::table::Table;

/// Lines of a log that the page shows.
const LOG_LINES: usize = 20;

/// The page of pipelines that have a step of [`Report`].
pub const PAGE: ReportPage = ReportPage { stage: Report::NAME, render: |results| rendered(&page(results)?) };

/// The page of the project as it is.
fn page(results: &dyn Results) -> Result<Page, StageError> {
    let mut steps = results.steps();
    let report = steps.iter().find(|step| step.stage == Report::NAME).cloned();
    let report =
        report.ok_or_else(|| StageError::failed("the pipeline has no step of the stage `report`"))?;
    let params: ReportParams =
        ron::from_str(&report.params).map_err(|error| StageError::Params(error.to_string()))?;
    let (mut parts, mut runs, mut committed) = (Vec::new(), Vec::new(), BTreeSet::new());
    for input in &report.inputs {
        let Some(name) = input.step() else { continue };
        let (step, folder) = (Some(name.to_owned()), folder(results, input, name));
        match input.port.as_str() {
            PARTS => match (folder, results.committed_reports(name)) {
                (Ok(dir), _) => parts.push(with_cost(part(&dir, step)?, results)),
                // Several steps may publish into one folder, which has the reports of all of them.
                (Err(_), Some(dir)) if !committed.insert(dir.clone()) => {}
                (Err(_), Some(dir)) => parts.push(with_cost(committed_part(&dir, results)?, results)),
                (Err(error), None) => {
                    parts.push(Part { step, missing: Some(error.to_string()), ..Part::default() });
                }
            },
            RUNS => runs.push(match folder {
                Ok(dir) => run(&dir, step)?,
                Err(error) => {
                    // The log of a step that does not run is of an earlier run of it.
                    let mut running = steps.iter().filter(|other| other.state == "running");
                    let log = running.find(|other| other.name == name).and_then(|step| step.log.as_deref());
                    Run { step, found: Err((error.to_string(), log.map(scalars::read).unwrap_or_default())) }
                }
            }),
            _ => {}
        }
    }
    let mut shown = below(&steps, &report.name);
    let others: Vec<&StepView> = steps.iter().filter(|step| !shown.contains(&step.name)).collect();
    for step in others {
        // What is published too is shown where it is up to date and holds tables or figures.
        let (Some(folder), Some(_)) = (&step.publish, &step.tree) else { continue };
        let Ok(found) = results.output(&step.name) else { continue };
        if let Ok(part) = part(&found, Some(step.name.clone())) {
            parts.push(Part { extra: Some(folder.clone()), ..part });
            shown.extend(below(&steps, &step.name));
        }
    }
    steps.retain(|step| shown.contains(&step.name));
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let drawing = results.drawing(&names);
    let logs = steps.iter().map(|step| step.log.as_deref().map(tail).unwrap_or_default()).collect();
    Ok(Page { project: Some(Project { steps, logs, drawing }), ..params.page(parts, runs) })
}

/// The part with what the runs took here, where it has the table for that.
fn with_cost(mut part: Part, results: &dyn Results) -> Part {
    let with_runs = |table: Table| match table.name == cost::NAME {
        true => cost::with_runs(table, results),
        false => table,
    };
    part.tables = part.tables.into_iter().map(with_runs).collect();
    part
}

/// The reports in a folder of a fresh clone, which no step has built here.
fn committed_part(dir: &Path, results: &dyn Results) -> Result<Part, StageError> {
    let shown = dir.strip_prefix(results.root()).unwrap_or(dir).display().to_string();
    let note = format!(
        "As committed in {shown}, built from the runs that the evidence records. The command repro make builds it here."
    );
    Ok(Part { note: Some(note), ..part(dir, None)? })
}

/// Where an input of the step `name` is.
fn folder(results: &dyn Results, input: &InputView, name: &str) -> Result<PathBuf, StageError> {
    match input.source.split_once('/') {
        Some((_, part)) => results.part(name, part),
        None => results.output(name),
    }
}

/// A step and all that it rests on, by name.
fn below(steps: &[StepView], name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([name.to_owned()]);
    // Each comes after all that it reads.
    for step in steps.iter().rev() {
        if found.contains(&step.name) {
            found.extend(step.inputs.iter().filter_map(|input| input.step().map(ToOwned::to_owned)));
        }
    }
    found
}

/// The last lines of a log; nothing when it is gone.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_step_rests_on_is_below_it() {
        let step = |name: &str, sources: &[&str]| StepView {
            name: name.into(),
            inputs: sources
                .iter()
                .map(|source| InputView { source: (*source).into(), ..InputView::default() })
                .collect(),
            ..StepView::default()
        };
        let steps = [step("a", &["./x"]), step("b", &["a/part"]), step("c", &["a"]), step("d", &["b"])];
        assert_eq!(below(&steps, "d"), ["a", "b", "d"].map(String::from).into());
    }
}
