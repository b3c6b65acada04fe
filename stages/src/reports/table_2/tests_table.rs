//! The table of DeLong's tests between the modes, and of predictions of others against them. It does not know how the test is computed.

use super::{Names, Runs, evaluation, is_given, missing};
use crate::reports::caption::Profile;
use crate::reports::names::parts_of_kind;
use crate::reports::table::{Cell, Column, Table};

/// What is tested in each model: first mode minus second.
const PAIRS: [(&str, &str); 3] = [("pe", "full"), ("pe", "fc"), ("full", "fc")];

pub(super) fn table(runs: &Runs, profile: &Profile) -> Table {
    let columns = vec![
        Column::words("dataset", "Data set"),
        Column::words("modes", "Modes"),
        Column::numbers("difference", "", "Difference in ROC-AUC"),
        Column::numbers("difference_interval", "", "95% interval"),
        Column::numbers("z", "", "z").derived(),
        Column::numbers("p", "", "p").derived(),
        Column::words("verdict", "At the level 0.05"),
    ];
    let names = &profile.names;
    let test = match evaluation::classes(runs).is_binary() {
        true => "DeLong's test for paired ROC-AUCs",
        false => {
            "DeLong's test, extended to paired means over the classes of the ROC-AUC of each class against the rest,"
        }
    };
    let mut rows = Vec::new();
    for (dataset, _) in &names.data {
        let is_there = |kind: &&str| runs.contains_key(&(dataset.to_owned(), (*kind).to_owned()));
        // Of the first model each pair has its row, of others where there are runs.
        let kinds = names.kinds(runs.keys().map(|(_, kind)| kind.as_str()));
        let (given, own): (Vec<&str>, Vec<&str>) = kinds.into_iter().partition(|kind| is_given(kind));
        let mut models: Vec<Option<&str>> = own.iter().map(|kind| parts_of_kind(kind).0).collect();
        models.dedup();
        for (model, (first, second)) in models.iter().flat_map(|model| PAIRS.map(|pair| (model, pair))) {
            let kind = |mode: &str| model.map_or(mode.to_owned(), |model| format!("{model}-{mode}"));
            let pair = (kind(first), kind(second));
            // A pair of modes that is not expected has its row where both are there.
            if [first, second].iter().all(|mode| names.expects(mode))
                || (is_there(&&*pair.0) && is_there(&&*pair.1))
            {
                rows.push(row(runs, dataset, (&pair.0, &pair.1), names));
            }
        }
        // Predictions of others against every run there is, and against the others after them.
        let given: Vec<&str> = given.into_iter().filter(is_there).collect();
        for (at, first) in given.iter().enumerate() {
            for second in own.iter().filter(|kind| is_there(kind)).chain(&given[at + 1..]) {
                rows.push(row(runs, dataset, (first, second), names));
            }
        }
    }
    Table {
        name: "table-2-tests".to_owned(),
        place: 1,
        title: "Differences between the modes".to_owned(),
        caption: format!("{test} on the same rows. This run: {}.", profile.in_words()),
        columns,
        rows,
        notes: vec![
            "Two-sided, not corrected for several tests. With several seeds, the mean ROC-AUC of each mode is compared. The \
             test covers other rows of the same kind with these weights, not another training with another seed."
                .to_owned(),
        ],
    }
}

fn row(runs: &Runs, dataset: &str, (first, second): (&str, &str), names: &Names) -> Vec<Cell> {
    let mut cells = vec![
        Cell::Text(names.data_title(dataset).to_owned()),
        Cell::Text(format!("{} \u{2212} {}", names.kind_title(first), names.kind_title(second))),
    ];
    let nothing = |mut cells: Vec<Cell>, why: Cell| {
        cells.push(why);
        cells.extend([Cell::None, Cell::None, Cell::None, Cell::Text("undecided".to_owned())]);
        cells
    };
    let of = |mode: &str| {
        let key = (dataset.to_owned(), mode.to_owned());
        runs.get(&key).ok_or_else(|| missing(&key))
    };
    let (a, b) = match (of(first), of(second)) {
        (Ok(a), Ok(b)) => (a, b),
        (Err(why), _) | (_, Err(why)) => return nothing(cells, why),
    };
    let compared = evaluation::components(a, &a[0])
        .and_then(|ours| Ok((ours, evaluation::components(b, &a[0])?)))
        .and_then(|(ours, theirs)| ours.compare(&theirs).ok_or("the runs were scored on different rows"));
    let found = match compared {
        Ok(found) => found,
        Err(why) => return nothing(cells, Cell::Missing(why.to_owned())),
    };
    let (low, high) = found.interval();
    let verdict = match found.p {
        None => "undecided: no variance",
        Some(p) if p >= 0.05 => "not significant",
        Some(_) if found.difference > 0.0 => "greater",
        Some(_) => "smaller",
    };
    cells.extend([
        Cell::Difference { value: found.difference, places: 4 },
        Cell::Interval { low, high, places: 4 },
        found.z.map_or(Cell::None, |value| Cell::Number { value, places: 2 }),
        found.p.map_or(Cell::None, Cell::PValue),
        Cell::Text(verdict.to_owned()),
    ]);
    cells
}
