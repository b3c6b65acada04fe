//! The table of confusion matrices: how many rows of either class were taken for class 1. It does not know how a class is
//! predicted beyond the greater probability.

use super::{Evaluated, Key, Names, Paper, Runs, is_given, missing, rows, titles};
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
        match is_given(&of.1) {
            true => Cell::None,
            false => Cell::Text(run.metrics.run.seed.to_string()),
        },
        Cell::Count(found),
        Cell::Count(missed),
        share(found, missed),
        Cell::Count(alarms),
        Cell::Count(passed),
        share(passed, alarms),
    ]);
    cells
}
