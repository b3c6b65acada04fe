//! `repro watch STEP`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use console::Term;
use serde_json::json;
use stage_api::{Registry, Scalars};

use super::error::CliError;
use super::plot::plot;
use super::{Global, from_evidence, log, print, print_json, values};
use crate::plan::{Request, plan};
use crate::record::RunRecord;
use crate::workspace::Workspace;

/// How often the values are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Plot the metrics of a running step in the terminal.
///
/// A step that has ended is plotted once, as is output that does not go to a terminal.
#[derive(Args)]
pub struct Watch {
    /// The step, such as `hmd-pe-train`.
    step: String,
    /// Plot only metrics whose names contain this text.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

impl Watch {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let pipeline = project.pipeline()?;
        let node = project.step(&self.step)?;
        let workspace = project.workspace()?;
        let plan = plan(pipeline, &workspace, &Request { targets: vec![node], forced: BTreeSet::new() });
        let key = plan.of(node).key_text.as_ref().map(|text| text.key());
        let running = || log::running(&workspace, &self.step, key.as_ref());
        let found = running().or_else(|| log::last(&workspace, &pipeline.graph[node], key.as_ref()));
        let path = found.map(|log| log.with_extension("jsonl"));
        let record = log::record(&workspace, &pipeline.graph[node], key.as_ref());
        let terminal = Term::stdout();
        let follows = std::io::stdout().is_terminal() && !global.json && running().is_some();
        // Held open: at the end of the step the file is moved.
        let mut file = None;
        let mut bytes = Vec::new();
        let mut drawn = 0;
        loop {
            // Asked before reading, so that nothing measured before the end is missed.
            let goes_on = follows && running().is_some();
            file = file.or_else(|| path.as_deref().and_then(|path| File::open(path).ok()));
            if let Some(file) = &mut file {
                file.read_to_end(&mut bytes).map_err(|error| unreadable(path.as_deref(), &error))?;
            }
            let mut series = values::reported(&bytes);
            // The result of an earlier run is not what a running step measures.
            if series.is_empty()
                && running().is_none()
                && let Some(record) = &record
            {
                series = values::of_result(registry, &workspace, &pipeline.graph[node], record)?;
            }
            series
                .retain(|scalars| self.only.as_ref().is_none_or(|only| scalars.name.contains(only.as_str())));
            if series.is_empty() && !goes_on {
                return Err(self.missing(&workspace, record.as_ref()));
            }
            if global.json {
                print_json(
                    &json!({"step": self.step, "running": running().is_some(), "values": values::json(&series)}),
                )?;
                return Ok(ExitCode::SUCCESS);
            }
            let text = self.drawn(&series, &terminal, follows);
            let _ = terminal.clear_last_lines(drawn);
            print(&text)?;
            drawn = text.lines().count();
            if !goes_on {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(EVERY);
        }
    }

    fn missing(&self, workspace: &Workspace, record: Option<&RunRecord>) -> CliError {
        let of_evidence = record.filter(|record| workspace.is_from_evidence(&record.key_text.key()));
        let (message, hint) = match of_evidence {
            Some(record) => (
                format!("no value of step `{}` is here: it {}", self.step, from_evidence::ran(record)),
                format!(
                    "its result is from the evidence, which keeps no values of it; `repro make {} --no-evidence` runs it here",
                    self.step
                ),
            ),
            None => (
                format!("step `{}` has measured nothing", self.step),
                "it has not run, or measures nothing; one that trains does, and a command that writes to the file $REPRO_METRICS".to_owned(),
            ),
        };
        CliError::Usage { message, hint: Some(hint) }
    }

    /// All curves; on a terminal that is drawn on again and again, as many as it has room for.
    fn drawn(&self, series: &[Scalars], terminal: &Term, again: bool) -> String {
        let (rows, columns) = terminal.size();
        let mut text = String::new();
        for scalars in series {
            let curve = plot(scalars, usize::from(columns));
            if again && text.lines().count() + curve.lines().count() >= usize::from(rows) {
                break;
            }
            text.push_str(&curve);
        }
        if text.is_empty() { format!("{} has measured nothing yet\n", self.step) } else { text }
    }
}

fn unreadable(path: Option<&Path>, error: &std::io::Error) -> CliError {
    CliError::usage(format!("{}: cannot be read: {error}", path.unwrap_or(Path::new("")).display()))
}
