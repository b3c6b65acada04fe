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
use stage_api::Registry;

use super::error::CliError;
use super::plot::plot;
use super::{Global, log, print, print_json};
use crate::plan::{Request, plan};
use crate::run::Report;

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

/// The values of one name, by unit of work.
type Series = Vec<(String, Vec<(u64, f64)>)>;

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
        let missing = || CliError::Usage {
            message: format!("step `{}` has measured nothing", self.step),
            hint: Some(
                "it has not run, or it is of a kind that measures nothing; one that trains does".to_owned(),
            ),
        };
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
            let series = self.series(&bytes);
            if series.is_empty() && !goes_on {
                return Err(missing());
            }
            if global.json {
                print_json(
                    &json!({"step": self.step, "running": running().is_some(), "values": by_name(&series)}),
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

    fn series(&self, bytes: &[u8]) -> Series {
        let mut series = Series::new();
        // The last line may be half written.
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(Report::Scalar { name, step, value }) = serde_json::from_slice(line) else { continue };
            if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
                continue;
            }
            let point = (step, value.unwrap_or(f64::NAN));
            match series.iter_mut().find(|(other, _)| *other == name) {
                Some((_, points)) => points.push(point),
                None => series.push((name, vec![point])),
            }
        }
        series
    }

    /// All curves; on a terminal that is drawn on again and again, as many as it has room for.
    fn drawn(&self, series: &Series, terminal: &Term, again: bool) -> String {
        let (rows, columns) = terminal.size();
        let mut text = String::new();
        for (name, points) in series {
            let curve = plot(name, points, usize::from(columns));
            if again && text.lines().count() + curve.lines().count() >= usize::from(rows) {
                break;
            }
            text.push_str(&curve);
        }
        if text.is_empty() { format!("{} has measured nothing yet\n", self.step) } else { text }
    }
}

fn by_name(series: &Series) -> serde_json::Value {
    let points = |points: &[(u64, f64)]| -> Vec<serde_json::Value> {
        points.iter().map(|(at, value)| json!({"at": at, "value": value})).collect()
    };
    series
        .iter()
        .map(|(name, found)| (name.clone(), points(found).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn unreadable(path: Option<&Path>, error: &std::io::Error) -> CliError {
    CliError::usage(format!("{}: cannot be read: {error}", path.unwrap_or(Path::new("")).display()))
}
