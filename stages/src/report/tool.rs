//! `repro page`: the report's page with the project around it: for every number the step, key and input digests that
//! made it, the graph of steps with state and times, hosts and logs. It does not know how the page looks.

use std::fs;
use std::path::Path;

use stage_api::{Answer, Arg, Count, Desk, Results, StageError, StepView, Tool, ToolArgs};

use super::page::{Page, Project};
use super::{PARTS, Params, RUNS, part, rendered, run};

/// Lines of a log that the page shows.
const LOG_LINES: usize = 20;

/// The tool.
pub struct ShowPage;

impl Tool for ShowPage {
    fn name(&self) -> &'static str {
        "page"
    }

    fn about(&self) -> &'static str {
        "Write the report's page with the origin of every number\n\n\
         The page of `repro make` is the same bytes on every machine. This one has in addition what is known of the steps \
         here: keys, digests, state, times, hosts, logs and the graph. It goes to standard output, or to the file that \
         `--out` names."
    }

    fn args(&self) -> &'static [Arg] {
        const ARGS: &[Arg] =
            &[Arg::option("--out", "FILE", Count::Optional, "where the page goes instead of standard output")];
        ARGS
    }

    fn run(&self, args: &ToolArgs, desk: &Desk) -> Result<Answer, StageError> {
        let html = rendered(&page(desk.results)?)?;
        let Some(out) = args.get("--out") else {
            let json = serde_json::json!({"html": html}).to_string();
            return Ok(Answer { text: html, json, stale: false });
        };
        fs::write(out, &html).map_err(|error| StageError::Params(format!("--out {out}: {error}")))?;
        let json = serde_json::json!({"file": out, "bytes": html.len()}).to_string();
        Ok(Answer { text: format!("{out}\n"), json, stale: false })
    }
}

/// The page of the project as it stands.
pub fn page(results: &dyn Results) -> Result<Page, StageError> {
    let steps = results.steps();
    let report = steps.iter().find(|step| step.stage == "report").ok_or_else(|| {
        StageError::Params("the pipeline has no step of the stage `report`, whose page this would be".to_owned())
    })?;
    let params: Params =
        ron::from_str(&report.params).map_err(|error| StageError::Params(error.to_string()))?;
    let (mut parts, mut runs) = (Vec::new(), Vec::new());
    for (port, name, dir) in inputs(results, report)? {
        match port {
            PARTS => parts.push(part(&dir, Some(name))?),
            RUNS => runs.push(run(&dir, Some(name))?),
            _ => {}
        }
    }
    let logs = steps.iter().map(|step| {
        step.run.as_ref().map(|run| tail(&run.log)).unwrap_or_default()
    });
    let (logs, drawing) = (logs.collect(), results.drawing());
    Ok(Page { project: Some(Project { steps, logs, drawing }), ..params.page(parts, runs) })
}

/// What a step reads of other steps: port, step and folder.
fn inputs<'a>(
    results: &dyn Results,
    step: &'a StepView,
) -> Result<Vec<(&'a str, String, std::path::PathBuf)>, StageError> {
    let mut found = Vec::new();
    for input in &step.inputs {
        let Some(name) = input.step() else { continue };
        let folder = results.output(name)?;
        let folder = match input.source.split_once('/') {
            Some((_, below)) => folder.join(below),
            None => folder,
        };
        found.push((input.port.as_str(), name.to_owned(), folder));
    }
    Ok(found)
}

/// The last lines of a log; nothing when it is gone.
fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
