//! `repro runs`: the recorded executions with the params that vary, what they measured, and their times.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use stage_api::Registry;

use super::error::CliError;
use super::plot::number;
use super::{Global, format, print, print_data, print_json, values};
use crate::json_reports::{ReadReports, is_report};
use crate::params::leaves;
use crate::pipeline::{fits, nearest};
use crate::record::RunRecord;
use crate::workspace::Workspace;

/// Rows that are shown to people; `--json` and `--csv` have all.
const SHOWN: usize = 50;
/// The longest value that is shown to people, in letters.
const MAX_LETTERS: usize = 24;

/// List recorded runs with their varying params and metrics, newest first.
///
/// Metrics are the last values that a step reported while it ran, and the numbers of the JSON files and of tables with one
/// row in its result. Runs are named by the beginning of their keys, which `diff` takes.
#[derive(Args)]
pub struct Runs {
    /// Only runs of this step, or of steps that match a name with `*`.
    step: Option<String>,
    /// Only runs with this metric, the highest first.
    #[arg(long, value_name = "METRIC")]
    best: Option<String>,
    /// With --best: the lowest first.
    #[arg(long, requires = "best")]
    lowest: bool,
    /// Print CSV with all values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// An execution.
struct Run<'a> {
    record: &'a RunRecord,
    params: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
}

impl Runs {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let workspace = project.workspace()?;
        let pattern = self.step.as_deref().unwrap_or("*");
        let profile = &project.pipeline()?.profile;
        let records = workspace.history().iter().rev().filter(|record| record.profile == *profile);
        let records: Vec<&RunRecord> = records.filter(|record| fits(pattern, &record.step)).collect();
        if records.is_empty() && self.step.is_some() {
            let known = workspace.history().iter().map(|record| record.step.as_str());
            return Err(CliError::Usage {
                message: format!("no run of a step `{pattern}` is recorded"),
                hint: nearest(pattern, known),
            });
        }
        let mut runs: Vec<Run> = records.into_iter().map(|record| Run::read(&workspace, record)).collect();
        if let Some(metric) = &self.best {
            runs = self.sorted(runs, metric)?;
        }
        let params = varying(&runs);
        let metrics: BTreeSet<&String> = runs.iter().flat_map(|run| run.metrics.keys()).collect();
        let metrics: Vec<&str> = metrics.into_iter().map(String::as_str).collect();
        if global.json {
            print_json(&runs.iter().map(|run| run.json(&params)).collect::<Vec<_>>())?;
        } else if self.csv {
            print_data(&csv(&runs, &params, &metrics)?)?;
        } else {
            print(&table(&runs, &params, &metrics))?;
            if runs.len() > SHOWN {
                print_err!("{SHOWN} of {}; --json and --csv have all", format::count(runs.len(), "run"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The runs with a metric, the best first. A metric may be named by its end: `roc_auc` for `metrics/roc_auc`.
    fn sorted<'a>(&self, runs: Vec<Run<'a>>, metric: &str) -> Result<Vec<Run<'a>>, CliError> {
        let end = format!("/{metric}");
        let value = |run: &Run| {
            let by_end =
                || run.metrics.iter().find(|(name, _)| name.ends_with(&end)).map(|(_, value)| *value);
            run.metrics.get(metric).copied().or_else(by_end).filter(|value| !value.is_nan())
        };
        let known: BTreeSet<String> = runs.iter().flat_map(|run| run.metrics.keys().cloned()).collect();
        let mut found: Vec<(f64, Run)> =
            runs.into_iter().filter_map(|run| Some((value(&run)?, run))).collect();
        if found.is_empty() {
            return Err(CliError::Usage {
                message: format!("no run has the metric `{metric}`"),
                hint: nearest(metric, known.iter().map(String::as_str)),
            });
        }
        found.sort_by(|(one, _), (other, _)| match self.lowest {
            true => one.total_cmp(other),
            false => other.total_cmp(one),
        });
        Ok(found.into_iter().map(|(_, run)| run).collect())
    }
}

impl<'a> Run<'a> {
    fn read(workspace: &Workspace, record: &'a RunRecord) -> Self {
        let mut metrics = BTreeMap::new();
        for (file, report) in reports(workspace, record).reports {
            let stem = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
            match &report {
                Value::Array(rows) if rows.len() == 1 => numbers(stem, &rows[0], &mut metrics),
                report => numbers(stem, report, &mut metrics),
            }
        }
        metrics.extend(last_values(workspace, record));
        Self { record, params: leaves(record.key_text.params()), metrics }
    }

    fn json(&self, varying: &BTreeSet<String>) -> Value {
        let RunRecord { step, started_ms, seconds, machine, key_text, .. } = self.record;
        let varying = self.params.iter().filter(|(name, _)| varying.contains(*name));
        json!({
            "key": key_text.key().to_string(), "step": step, "started_ms": started_ms, "seconds": seconds,
            "machine": machine.name, "params": self.params, "varying": varying.collect::<BTreeMap<_, _>>(),
            "metrics": self.metrics,
        })
    }
}

/// The JSON and CSV files at the top of what an execution wrote, as far as their bytes are here.
pub fn reports(workspace: &Workspace, record: &RunRecord) -> ReadReports {
    /// Larger files hold data, not metrics.
    const MAX_BYTES: u64 = 1 << 20;
    let mut found = ReadReports::default();
    for file in record.outputs.keys().filter(|file| is_report(file.as_ref())) {
        let Ok(path) = workspace.open_result(&record.tree, Some(file)) else { continue };
        let is_small =
            std::fs::metadata(&*path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_BYTES);
        if is_small && let Ok(bytes) = std::fs::read(&*path) {
            found.add(file, &bytes, &record.step);
        }
    }
    found.without_copies()
}

/// The last value of each name that an execution reported; NaN where that is not a number.
pub fn last_values(workspace: &Workspace, record: &RunRecord) -> BTreeMap<String, f64> {
    let log = workspace.store().recorded_log(record);
    let all = log.as_deref().map(values::next_to).unwrap_or_default();
    all.into_iter()
        .filter_map(|scalars| Some((scalars.name, scalars.points.last()?.1.unwrap_or(f64::NAN))))
        .collect()
}

/// The numbers of a JSON value by their places; lists hold data.
fn numbers(name: &str, value: &Value, found: &mut BTreeMap<String, f64>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(field, value)| numbers(&format!("{name}/{field}"), value, found));
        }
        value => found.extend(value.as_f64().map(|value| (name.to_owned(), value))),
    }
}

/// The params whose values differ between runs of one kind: of the same stage that write the same files.
fn varying(runs: &[Run]) -> BTreeSet<String> {
    let mut kinds: BTreeMap<(&str, Vec<&String>), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let (stage, _) = run.record.key_text.stage();
        kinds.entry((stage, run.record.outputs.keys().collect())).or_default().push(run);
    }
    let mut found = BTreeSet::new();
    for runs in kinds.values() {
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.params.keys()).collect();
        let differ =
            |name: &&String| runs.iter().any(|run| run.params.get(*name) != runs[0].params.get(*name));
        found.extend(names.into_iter().filter(differ).cloned());
    }
    found
}

fn table(runs: &[Run], params: &BTreeSet<String>, metrics: &[&str]) -> String {
    let short = |name: &str| name.rsplit(['.', '/']).next().unwrap_or(name).to_owned();
    let heads = ["run", "step", "when", "took"].map(str::to_owned).into_iter();
    let names = params.iter().map(String::as_str).chain(metrics.iter().copied());
    let mut rows: Vec<Vec<String>> = vec![heads.chain(names.map(short)).collect()];
    for run in runs.iter().take(SHOWN) {
        let RunRecord { step, started_ms, seconds, key_text, .. } = run.record;
        let key = key_text.key().to_string();
        let first = [key[..8].to_owned(), step.clone(), format::ago(*started_ms), format::duration(*seconds)];
        let value = |name: &String| run.params.get(name).map_or("", |value| value.trim_matches('"'));
        let value = |name: &String| value(name).chars().take(MAX_LETTERS).collect::<String>();
        let metric = |name: &&str| run.metrics.get(*name).map_or_else(String::new, |value| number(*value));
        rows.push(
            first.into_iter().chain(params.iter().map(value)).chain(metrics.iter().map(metric)).collect(),
        );
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn csv(runs: &[Run], params: &BTreeSet<String>, metrics: &[&str]) -> Result<String, CliError> {
    let unwritten =
        |error: &dyn std::fmt::Display| CliError::usage(format!("CSV cannot be written: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let heads = ["key", "step", "started_ms", "seconds"].into_iter();
    let heads = heads.chain(params.iter().map(String::as_str)).chain(metrics.iter().copied());
    writer.write_record(heads).map_err(|error| unwritten(&error))?;
    for run in runs {
        let RunRecord { step, started_ms, seconds, key_text, .. } = run.record;
        let first = [key_text.key().to_string(), step.clone(), started_ms.to_string(), seconds.to_string()];
        let value =
            |name: &String| run.params.get(name).map_or("", |value| value.trim_matches('"')).to_owned();
        let metric = |name: &&str| run.metrics.get(*name).map(f64::to_string).unwrap_or_default();
        let row = first.into_iter().chain(params.iter().map(value)).chain(metrics.iter().map(metric));
        writer.write_record(row).map_err(|error| unwritten(&error))?;
    }
    let bytes = writer.into_inner().map_err(|error| unwritten(&error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last recorded run that `name` names: a step, or the beginning of a key, at least 6 letters.
pub fn find<'w>(workspace: &'w Workspace, profile: &str, name: &str) -> Option<&'w RunRecord> {
    let is_key = name.len() >= 6 && name.chars().all(|c| c.is_ascii_hexdigit());
    let mut runs = workspace.history().iter().rev();
    runs.find(|record| {
        record.step == name && record.profile == profile
            || is_key && record.key_text.key().to_string().starts_with(name)
    })
}

/// The reports of a run, and its last values as one more.
pub fn all_reports(workspace: &Workspace, record: &RunRecord) -> ReadReports {
    let mut read = reports(workspace, record);
    let last: Map<String, Value> =
        last_values(workspace, record).into_iter().map(|(name, value)| (name, value.into())).collect();
    if !last.is_empty() {
        read.reports.insert("reported while it ran".to_owned(), last.into());
    }
    read
}
