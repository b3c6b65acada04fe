//! The table of confusion matrices: how many rows of either class were called hateful. It does not know how a class is
//! predicted beyond the greater probability.

use super::{Evaluated, Key, Paper, Runs, missing, names, rows};
use crate::metrics::{argmax, confusion};
use crate::reports::caption::Profile;
use crate::reports::paper_results;
use crate::reports::table::{Cell, Column, Table};

pub(super) fn table(paper: &Paper, runs: &Runs, profile: &Profile) -> Table {
    let (hateful, other) = ("hateful memes", "other memes");
    Table {
        name: "table-2-confusion".to_owned(),
        place: 3,
        title: "Confusion matrices of the runs of Table II".to_owned(),
        caption: format!(
            "What the checkpoint with the best validation ROC-AUC calls hateful: the more probable class. This run: {}.",
            profile.in_words()
        ),
        columns: vec![
            Column::words("dataset", "Data set"),
            Column::words("mode", "Mode"),
            Column::words("seed", "Seed"),
            Column::numbers("true_positives", hateful, "called hateful"),
            Column::numbers("false_negatives", hateful, "missed"),
            Column::numbers("recall", hateful, "recall").derived(),
            Column::numbers("false_positives", other, "called hateful"),
            Column::numbers("true_negatives", other, "passed"),
            Column::numbers("specificity", other, "specificity").derived(),
        ],
        rows: rows(paper, runs).iter().flat_map(|of| of_key(of, runs)).collect(),
        notes: vec![],
    }
}

/// A row for each seed; one that says what to make when there is none.
fn of_key(of: &Key, runs: &Runs) -> Vec<Vec<Cell>> {
    match runs.get(of) {
        Some(seeds) => seeds.iter().map(|run| row(of, run)).collect(),
        None => {
            let mut cells = names(of);
            cells.push(missing(of));
            cells.extend(std::iter::repeat_n(Cell::None, 6));
            vec![cells]
        }
    }
}

fn row(of: &Key, run: &Evaluated) -> Vec<Cell> {
    let predicted: Vec<u8> = run.probabilities().into_iter().map(argmax).collect();
    let [[passed, alarms], [missed, found]] = confusion(&predicted, &run.labels());
    let share = |part: u64, rest: u64| match part + rest {
        0 => Cell::None,
        all => Cell::Share { value: part as f64 / all as f64, places: 1 },
    };
    let mut cells = names(of);
    cells.extend([
        match paper_results::is_given(&of.1) {
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
