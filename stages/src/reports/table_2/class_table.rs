//! The table of what each class reaches, where there are more than two or a row may have several. It does not know how a metric is
//! computed.

use super::{Key, Runs, estimate, titles};
use crate::metrics::bootstrap::Interval;
use crate::metrics::multiclass::{ClassIntervals, ClassMetrics};
use crate::reports::CLASS_TABLE;
use crate::reports::caption::Profile;
use crate::reports::table::{Cell, Column, Table};

/// A metric of a class: key, title, its value and its interval.
type Metric =
    (&'static str, &'static str, fn(&ClassMetrics) -> Option<f64>, fn(&ClassIntervals) -> Option<Interval>);

const METRICS: [Metric; 5] = [
    ("precision", "Precision", |of| of.precision, |of| of.precision),
    ("recall", "Recall", |of| of.recall, |of| of.recall),
    ("f1", "F1", |of| of.f1, |of| of.f1),
    ("roc_auc", "ROC-AUC", |of| of.roc_auc, |of| of.roc_auc),
    ("average_precision", "Average precision", |of| of.average_precision, |of| of.average_precision),
];

/// A row for each kind of run and class.
pub(super) fn table(runs: &Runs, classes: &[String], profile: &Profile) -> Table {
    let names = &profile.names;
    let mut columns = vec![
        Column::words("dataset", "Data set"),
        Column::words("mode", "Mode"),
        Column::words("class", "Class"),
        Column::numbers("support", "", "Rows"),
    ];
    columns.extend(METRICS.iter().map(|(key, title, _, _)| Column::numbers(key, "", title)));
    let mut keys: Vec<&Key> = runs.keys().collect();
    keys.sort_by_key(|(dataset, kind)| (names.data_rank(dataset), names.kind_rank(kind)));
    let mut rows = Vec::new();
    for key in keys {
        let seeds = &runs[key];
        for (class, title) in classes.iter().enumerate() {
            let support = seeds.first().and_then(|run| run.metrics.by_class.get(class)).map(|of| of.support);
            let mut cells = titles(names, key);
            cells.push(Cell::Text(title.clone()));
            cells.push(support.map_or(Cell::None, Cell::Count));
            for (_, _, value, interval) in METRICS {
                cells.push(estimate(
                    seeds,
                    |run| run.metrics.by_class.get(class).and_then(value),
                    |run| run.metrics.class_intervals.get(class).and_then(interval),
                ));
            }
            rows.push(cells);
        }
    }
    Table {
        name: CLASS_TABLE.to_owned(),
        place: 4,
        title: "Each class of the runs of Table II".to_owned(),
        caption: format!(
            "Each class against the rest, of the checkpoint with the best validation ROC-AUC. This run: {}.",
            profile.in_words()
        ),
        columns,
        rows,
        notes: vec![
            "Empty where undefined: the precision of a class that is predicted for no row, the recall of one that no row has. In \
             brackets 95% intervals, given for single runs."
                .to_owned(),
        ],
    }
}
