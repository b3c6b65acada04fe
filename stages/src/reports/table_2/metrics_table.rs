//! The table of all metrics at the checkpoint with the best ROC-AUC. It does not know how a metric is computed.

use super::{Evaluated, Key, Names, Paper, Runs, estimate, evaluation, missing, rows, titles};
use crate::artifacts::labels::Classes;
use crate::artifacts::metrics::Metrics;
use crate::metrics::bootstrap::Interval;
use crate::reports::caption::Profile;
use crate::reports::table::{Cell, Column, Table};

/// A metric: key, title, its value and its interval.
type Metric = (&'static str, &'static str, fn(&Metrics) -> Option<f64>, fn(&Metrics) -> Option<Interval>);

const ACCURACY: Metric = ("accuracy", "Accuracy", |m| Some(m.accuracy), |m| m.intervals.accuracy);
const F1: Metric = ("f1", "F1", |m| m.f1, |m| m.intervals.f1);
const F1_MACRO: Metric = ("f1_macro", "Macro F1", |m| m.f1_macro, |m| m.intervals.f1_macro);
const F1_MICRO: Metric = ("f1_micro", "Micro F1", |m| m.f1_micro, |m| m.intervals.f1_micro);
const BALANCED: Metric =
    ("balanced_accuracy", "Balanced accuracy", |m| m.balanced_accuracy, |m| m.intervals.balanced_accuracy);
const AVERAGE_PRECISION: Metric = (
    "average_precision",
    "Average precision",
    |m| Some(m.average_precision),
    |m| m.intervals.average_precision,
);
const CALIBRATION: Metric =
    ("calibration_error", "Calibration error", |m| m.calibration_error, |m| m.intervals.calibration_error);

/// The metrics that there are of such classes.
fn metrics(classes: &Classes) -> &'static [Metric] {
    match (classes.is_binary(), classes.multi_label) {
        (true, _) => &[ACCURACY, F1, BALANCED, AVERAGE_PRECISION, CALIBRATION],
        (false, false) => &[ACCURACY, F1_MACRO, F1_MICRO, BALANCED, AVERAGE_PRECISION],
        (false, true) => &[ACCURACY, F1_MACRO, F1_MICRO, AVERAGE_PRECISION],
    }
}

pub(super) fn table(paper: &Paper, runs: &Runs, profile: &Profile) -> Table {
    let theirs = "published";
    let names = &profile.names;
    let positive = names.class(1);
    let mut columns = vec![Column::words("dataset", "Data set"), Column::words("mode", "Mode")];
    if !paper.runs.is_empty() {
        columns.push(Column::numbers("published_accuracy", theirs, "Accuracy"));
        columns.push(Column::numbers("published_f1", theirs, "F1"));
    }
    let classes = evaluation::classes(runs);
    let metrics = metrics(&classes);
    columns.extend(metrics.iter().map(|(key, title, _, _)| Column::numbers(key, "this run", title)));
    let row = |of: &Key| row(of, runs.get(of).map_or(&[][..], Vec::as_slice), metrics, (paper, names));
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
        notes: vec![if classes.is_binary() {
            format!(
                "Accuracy, F1 (of the class {positive}) and balanced accuracy are those of the more probable class. Calibration \
                 error: expected, of P({positive}), over 15 bins of equal width. In brackets 95% intervals, given for single runs."
            )
        } else if classes.multi_label {
            "Predicted are the classes that are more probable than not. Accuracy: the share of rows with exactly the right \
             ones. Macro F1 and average precision: the mean over the classes. Micro F1: of all pairs of a row and a class. In \
             brackets 95% intervals, given for single runs."
                .to_owned()
        } else {
            "Accuracy, F1 and balanced accuracy are those of the most probable class. Macro F1, balanced accuracy (mean recall) and \
             average precision: the mean over the classes. Micro F1: of all pairs of a row and a class, which is the accuracy. In \
             brackets 95% intervals, given for single runs."
                .to_owned()
        }],
    }
}

fn row(of: &Key, ours: &[Evaluated], metrics: &[Metric], (paper, names): (&Paper, &Names)) -> Vec<Cell> {
    let number = |value: f64| Cell::Number { value, places: 4 };
    let mut cells = titles(names, of);
    if !paper.runs.is_empty() {
        cells.extend(match paper.run(&of.0, &of.1) {
            Some(run) => [number(run.best_accuracy), number(run.best_f1)],
            None => [Cell::None, Cell::None],
        });
    }
    for (place, (_, _, value, interval)) in metrics.iter().enumerate() {
        cells.push(match ours {
            [] if place == 0 => missing(of),
            _ => estimate(ours, |run| value(&run.metrics), |run| interval(&run.metrics)),
        });
    }
    cells
}
