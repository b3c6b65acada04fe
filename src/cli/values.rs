//! The values that a step measured: from the file next to its log while that is here, or else from its result, which
//! evidence may hold. It does not know what the values mean; the step's stage does.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use stage_api::{Registry, Scalars};

use super::error::CliError;
use super::plot::number;
use crate::pipeline::Step;
use crate::record::RunRecord;
use crate::run::Report;
use crate::store::ResultError;
use crate::workspace::Workspace;

/// Rows of a table, if not all are requested.
const SHOWN: usize = 20;
/// So many values are a curve.
const OFTEN: usize = 5;

/// The values in the lines that a step reports, by name, in the order in which the names first came. Of a unit of work that
/// was done again after a kill, the later value counts.
pub fn reported(lines: &[u8]) -> Vec<Scalars> {
    let mut found: Vec<Scalars> = Vec::new();
    // The last line may be half written.
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(Report::Scalar { name, step, value }) = serde_json::from_slice(line) else { continue };
        let place = found.iter().position(|scalars| scalars.name == name).unwrap_or_else(|| {
            found.push(Scalars { name, points: Vec::new() });
            found.len() - 1
        });
        let points = &mut found[place].points;
        points.truncate(points.partition_point(|(at, _)| *at < step));
        points.push((step, value));
    }
    found
}

/// The values next to `log`; none where that file is gone.
pub fn next_to(log: &Path) -> Vec<Scalars> {
    reported(&std::fs::read(log.with_extension("jsonl")).unwrap_or_default())
}

/// The values that the result of an execution keeps; none where its stage keeps none, or the bytes are not here.
///
/// # Errors
/// Bytes that are damaged or that the stage cannot read.
pub fn of_result(
    registry: &Registry,
    workspace: &Workspace,
    step: &Step,
    record: &RunRecord,
) -> Result<Vec<Scalars>, CliError> {
    let Some(stage) = registry.get(&step.stage) else { return Ok(Vec::new()) };
    let Some(history) = stage.history() else { return Ok(Vec::new()) };
    let unusable = |error: &dyn std::fmt::Display| CliError::Usage {
        message: format!("the values of step `{}` cannot be read: {error}", step.name),
        hint: Some(format!("`repro make {} --force {0}` builds its result again", step.name)),
    };
    match workspace.open_result(&record.tree, Some(history)) {
        Ok(file) => stage.read_scalars(&file).map_err(|error| unusable(&error)),
        Err(ResultError::Missing) => Ok(Vec::new()),
        Err(error) => Err(unusable(&error)),
    }
}

/// The values by name, as `--json` writes them.
pub fn json(all: &[Scalars]) -> Value {
    let points = |scalars: &Scalars| -> Vec<Value> {
        scalars.points.iter().map(|(at, value)| json!({"at": at, "value": value})).collect()
    };
    all.iter().map(|scalars| (scalars.name.clone(), points(scalars).into())).collect::<Map<_, _>>().into()
}

/// A table with a column for each name and a row for each update, and how many rows it has of how many. It has every row if
/// `all` is true. Otherwise it has at most [`SHOWN`], and each shows the last values since the row above.
pub fn table(series: &[Scalars], all: bool) -> (String, usize, usize) {
    let updates: BTreeSet<u64> =
        series.iter().flat_map(|scalars| scalars.points.iter().map(|(at, _)| *at)).collect();
    let updates: Vec<u64> = updates.into_iter().collect();
    let shown = if all { updates.clone() } else { thinned(series, &updates) };
    let heads = series.iter().map(|scalars| scalars.name.clone());
    let mut rows: Vec<Vec<String>> = vec![std::iter::once("update".to_owned()).chain(heads).collect()];
    let mut above = None;
    for at in &shown {
        let cells = series.iter().map(|scalars| cell(scalars, above, *at));
        rows.push(std::iter::once(at.to_string()).chain(cells).collect());
        above = Some(*at);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=series.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    (rows.iter().map(line).collect(), shown.len(), updates.len())
}

/// The last value up to `at`, if it is after `above`.
fn cell(scalars: &Scalars, above: Option<u64>, at: u64) -> String {
    let before = &scalars.points[..scalars.points.partition_point(|(update, _)| *update <= at)];
    match before.last().filter(|(update, _)| above.is_none_or(|above| *update > above)) {
        None => String::new(),
        Some((_, None)) => "not a number".to_owned(),
        Some((_, Some(value))) => number(*value),
    }
}

/// At most [`SHOWN`] of the updates, the last one among them: those of the name that was measured least often, if it was
/// measured often enough. These are the validations of a training.
fn thinned(series: &[Scalars], updates: &[u64]) -> Vec<u64> {
    let often = series.iter().filter(|scalars| scalars.points.len() >= OFTEN);
    let rarest = often.min_by_key(|scalars| scalars.points.len());
    let mut from: Vec<u64> = match rarest {
        Some(scalars) => scalars.points.iter().map(|(at, _)| *at).collect(),
        None => updates.to_vec(),
    };
    // What was measured last is shown, also where that is no validation.
    from.extend(updates.last().filter(|last| from.last() < Some(last)));
    let number = from.len().min(SHOWN);
    // The end of each of `number` equal parts.
    (1..=number).map(|part| from[part * from.len() / number - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(name: &str, updates: impl Iterator<Item = u64>) -> Scalars {
        Scalars::new(name, updates.map(|at| (at, at as f64 / 1000.0)))
    }

    #[test]
    fn a_table_shows_the_validations_with_the_last_values_before_them() {
        let loss = scalars("loss", (20..=600).step_by(20));
        let auc = scalars("val roc_auc", (60..=600).step_by(60));
        let (text, shown, total) = table(&[loss.clone(), auc.clone()], false);
        assert_eq!((shown, total), (10, 30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "update    loss  val roc_auc");
        assert_eq!(lines[1], "    60  0.0600       0.0600");
        assert_eq!(lines[10], "   600  0.6000       0.6000");
        let (text, shown, _) = table(&[loss, auc], true);
        assert_eq!(shown, 30);
        assert_eq!(text.lines().nth(1), Some("    20  0.0200"));
    }

    #[test]
    fn many_updates_are_thinned_evenly_up_to_the_last() {
        let loss = scalars("loss", 1..=1000);
        let at = thinned(std::slice::from_ref(&loss), &(1..=1000).collect::<Vec<_>>());
        assert_eq!((at.len(), at[0], at[1], at[19]), (20, 50, 100, 1000));
        // Each name has a row, even if no row has both.
        // Losses that are logged at other updates than validations.
        let (losses, aucs) =
            (scalars("loss", (20..=920).step_by(20)), scalars("auc", (90..=900).step_by(90)));
        let (text, shown, _) = table(&[losses, aucs], false);
        assert_eq!((shown, text.lines().nth(1)), (11, Some("    90  0.0800  0.0900")));
        assert_eq!(text.lines().last(), Some("   920  0.9200"));
        let (text, shown, _) = table(&[scalars("loss", 1..=3), scalars("auc", 4..=4)], false);
        assert_eq!(shown, 4);
        assert_eq!(text.lines().last(), Some("     4          0.0040"));
        assert_eq!(table(&[], false).0, "update\n");
    }

    #[test]
    fn what_was_done_again_counts_once_and_half_a_line_is_none() {
        let line = |step: u64, value: &str| {
            format!("{{\"scalar\":{{\"name\":\"loss\",\"step\":{step},\"value\":{value}}}}}\n")
        };
        let lines =
            [line(1, "0.5"), line(2, "0.4"), line(3, "0.3"), line(2, "null"), line(3, "1")[..20].into()];
        let found = reported(lines.concat().as_bytes());
        assert_eq!(found, [Scalars { name: "loss".into(), points: vec![(1, Some(0.5)), (2, None)] }]);
    }
}
