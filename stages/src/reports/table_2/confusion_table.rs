//! The table of confusion matrices: how many rows of either class were taken for class 1, or of each of several were predicted to be of each. It does not know how a class is
//! predicted beyond the greater probability.

use super::{Evaluated, Key, Names, Paper, Runs, is_given, missing, rows, titles};
use crate::artifacts::labels::Classes;
use crate::metrics::multiclass::ClassMetrics;
use crate::metrics::{argmax, confusion};
use crate::reports::caption::Profile;
use crate::reports::table::{Cell, Column, Table};

pub(super) fn table(paper: &Paper, runs: &Runs, profile: &Profile) -> Table {
    let names = &profile.names;
    let (positive, positives, others) = (names.class(1), names.positives(), names.others());
    let called = format!("called {positive}");
    Table {
        name: "table-2-confusion".to_owned(),
        place: 3,
        title: "Confusion matrices of the runs of Table II".to_owned(),
        caption: format!(
            "What the checkpoint with the best validation ROC-AUC calls {positive}: the more probable class. This run: {}.",
            profile.in_words()
        ),
        columns: vec![
            Column::words("dataset", "Data set"),
            Column::words("mode", "Mode"),
            Column::words("seed", "Seed"),
            Column::numbers("true_positives", &positives, &called),
            Column::numbers("false_negatives", &positives, "missed"),
            Column::numbers("recall", &positives, "recall").derived(),
            Column::numbers("false_positives", &others, &called),
            Column::numbers("true_negatives", &others, "passed"),
            Column::numbers("specificity", &others, "specificity").derived(),
        ],
        rows: rows(paper, runs, names).iter().flat_map(|of| of_key(of, runs, names)).collect(),
        notes: vec![],
    }
}

/// A row for each seed; one that says what to make when there is none.
fn of_key(of: &Key, runs: &Runs, names: &Names) -> Vec<Vec<Cell>> {
    match runs.get(of) {
        Some(seeds) => seeds.iter().map(|run| row(of, run, names)).collect(),
        None => {
            let mut cells = titles(names, of);
            cells.push(missing(of));
            cells.extend(std::iter::repeat_n(Cell::None, 6));
            vec![cells]
        }
    }
}

fn row(of: &Key, run: &Evaluated, names: &Names) -> Vec<Cell> {
    let predicted: Vec<u8> = run.probabilities().into_iter().map(argmax).collect();
    let [[passed, alarms], [missed, found]] = confusion(&predicted, &run.labels());
    let share = |part: u64, rest: u64| match part + rest {
        0 => Cell::None,
        all => Cell::Share { value: part as f64 / all as f64, places: 1 },
    };
    let mut cells = titles(names, of);
    cells.extend([
        seed(of, run),
        Cell::Count(found),
        Cell::Count(missed),
        share(found, missed),
        Cell::Count(alarms),
        Cell::Count(passed),
        share(passed, alarms),
    ]);
    cells
}

/// The seed of a run; predictions of others have none.
fn seed(of: &Key, run: &Evaluated) -> Cell {
    match is_given(&of.1) {
        true => Cell::None,
        false => Cell::Text(run.metrics.run.seed.to_string()),
    }
}

/// The matrices of runs with more classes than two: a row for each true class, with a column for each predicted one. Where a row
/// may have several, a matrix of each class against the rest.
pub(super) fn of_classes(runs: &Runs, classes: &Classes, titled: &[String], profile: &Profile) -> Table {
    let names = &profile.names;
    let mut columns = vec![
        Column::words("dataset", "Data set"),
        Column::words("mode", "Mode"),
        Column::words("seed", "Seed"),
        Column::words("class", if classes.multi_label { "Class" } else { "True class" }),
    ];
    match classes.multi_label {
        true => {
            let (of, others) = ("rows of the class", "other rows");
            columns.push(Column::numbers("true_positives", of, "predicted"));
            columns.push(Column::numbers("false_negatives", of, "missed"));
            columns.push(Column::numbers("false_positives", others, "predicted"));
            columns.push(Column::numbers("true_negatives", others, "passed"));
        }
        false => columns.extend(
            titled
                .iter()
                .enumerate()
                .map(|(class, title)| Column::numbers(&format!("predicted_{class}"), "predicted", title)),
        ),
    }
    let mut keys: Vec<&Key> = runs.keys().collect();
    keys.sort_by_key(|(dataset, kind)| (names.data_rank(dataset), names.kind_rank(kind)));
    let mut rows = Vec::new();
    for (key, run) in keys.into_iter().flat_map(|key| runs[key].iter().map(move |run| (key, run))) {
        let counts = run.predictions().confusion().unwrap_or_else(|| {
            let of_class = |of: &ClassMetrics| {
                let ClassMetrics { support, predicted, true_positives: hits, .. } = *of;
                vec![hits, support - hits, predicted - hits, run.metrics.rows + hits - support - predicted]
            };
            run.metrics.by_class.iter().map(of_class).collect()
        });
        for (title, counts) in titled.iter().zip(counts) {
            let mut cells = titles(names, key);
            cells.extend([seed(key, run), Cell::Text(title.clone())]);
            cells.extend(counts.into_iter().map(Cell::Count));
            rows.push(cells);
        }
    }
    let rule = match classes.multi_label {
        true => "Predicted are the classes that are more probable than not.",
        false => "Predicted is the most probable class.",
    };
    Table {
        name: "table-2-confusion".to_owned(),
        place: 3,
        title: "Confusion matrices of the runs of Table II".to_owned(),
        caption: format!(
            "What the checkpoint with the best validation ROC-AUC predicts. This run: {}.",
            profile.in_words()
        ),
        columns,
        rows,
        notes: vec![rule.to_owned()],
    }
}
