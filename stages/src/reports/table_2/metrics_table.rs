//! The table of all metrics at the checkpoint with the best ROC-AUC. It does not know how a metric is computed.

use super::{Evaluated, Key, Names, Paper, Runs, mean, missing, rows, titles};
use crate::artifacts::metrics::Metrics;
use crate::metrics::bootstrap::Interval;
use crate::reports::caption::Profile;
use crate::reports::table::{Cell, Column, Table};

/// A metric: key, title, its value and its interval.
type Metric = (&'static str, &'static str, fn(&Metrics) -> f64, fn(&Metrics) -> Option<Interval>);

const METRICS: [Metric; 5] = [
    ("accuracy", "Accuracy", |m| m.accuracy, |m| m.intervals.accuracy),
    ("f1", "F1", |m| m.f1, |m| m.intervals.f1),
    ("balanced_accuracy", "Balanced accuracy", |m| m.balanced_accuracy, |m| m.intervals.balanced_accuracy),
    ("average_precision", "Average precision", |m| m.average_precision, |m| m.intervals.average_precision),
    ("calibration_error", "Calibration error", |m| m.calibration_error, |m| m.intervals.calibration_error),
];

pub(super) fn table(paper: &Paper, runs: &Runs, profile: &Profile) -> Table {
    let theirs = "published";
    let names = &profile.names;
    let positive = names.class(1);
    let mut columns = vec![Column::words("dataset", "Data set"), Column::words("mode", "Mode")];
    if !paper.runs.is_empty() {
        columns.push(Column::numbers("published_accuracy", theirs, "Accuracy"));
        columns.push(Column::numbers("published_f1", theirs, "F1"));
    }
    for (key, title, _, _) in METRICS {
        columns.push(Column::numbers(key, "this run", title));
    }
    let row = |of: &Key| row(of, runs.get(of).map_or(&[][..], Vec::as_slice), (paper, names));
    Table {
        name: "table-2-metrics".to_owned(),
        place: 2,
        title: "Other metrics of the runs of Table II".to_owned(),
        caption: format!(
            "Metrics of the checkpoint with the best validation ROC-AUC. This run: {}.",
            profile.in_words()
        ),
        columns,
        rows: rows(paper, runs, names).iter().map(row).collect(),
        notes: vec![format!(
            "Accuracy, F1 (of the class {positive}) and balanced accuracy are those of the more probable class. Calibration \
             error: expected, of P({positive}), over 15 bins of equal width. In brackets 95% intervals, given for single runs."
        )],
    }
}

fn row(of: &Key, ours: &[Evaluated], (paper, names): (&Paper, &Names)) -> Vec<Cell> {
    let number = |value: f64| Cell::Number { value, places: 4 };
    let mut cells = titles(names, of);
    if !paper.runs.is_empty() {
        cells.extend(match paper.run(&of.0, &of.1) {
            Some(run) => [number(run.best_accuracy), number(run.best_f1)],
            None => [Cell::None, Cell::None],
        });
    }
    for (place, (_, _, value, interval)) in METRICS.into_iter().enumerate() {
        let of_one = |one: &Evaluated| {
            let Interval { low, high } = interval(&one.metrics)?;
            Some(Cell::Estimate { value: value(&one.metrics), low, high, places: 4 })
        };
        cells.push(match ours {
            [] if place == 0 => missing(of),
            [] => Cell::None,
            [one] => of_one(one).unwrap_or_else(|| mean(ours, |run| value(&run.metrics))),
            several => mean(several, |run| value(&run.metrics)),
        });
    }
    cells
}
