//! `shift`: how runs fare on data sets that they were not trained on, compared with their own. It does
//! not know how a metric is computed.

use std::collections::BTreeMap;

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::metrics::Metrics;
use crate::artifacts::samples::Split;
use crate::metrics::bootstrap::Interval;
use crate::reports::caption::Profile;
use crate::reports::evaluation::split_title;
use crate::reports::names::{Names, parts_of_kind};
use crate::reports::table::{Cell, Column, Table};

/// Makes the matrix of data shift.
pub struct Shift;

impl Stage for Shift {
    type Params = Profile;
    const NAME: &'static str = "shift";
    const ABOUT: &'static str = "Data shift: ROC-AUC of every run on other data sets";
    const VERSION: u32 = 4;
    const INPUTS: &'static [Port] = &[Port::many("runs")];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let mut found = Found::new();
        let mut split = None;
        for dir in job.inputs.all("runs") {
            let metrics = Metrics::read(dir)?;
            let expected = *split.get_or_insert(metrics.split);
            if metrics.split != expected {
                let problem = format!("was evaluated on another split than {}", split_title(expected));
                return Err(StageError::input("runs", dir, problem));
            }
            let run = &metrics.run;
            let key = (run.dataset.clone(), run.kind(), metrics.dataset.clone());
            if let Some(other) = found.insert(key, metrics) {
                let (run, on) = (other.run, other.dataset);
                let problem = format!("{} {} on {on} is given twice", run.dataset, run.kind());
                return Err(StageError::input("runs", dir, problem));
            }
        }
        let classes = found.values().map(|metrics| &metrics.classes);
        let profile =
            profile.with_runs(found.keys().flat_map(|(on, _, of)| [on.as_str(), of.as_str()]), classes);
        Ok(table(&found, split.unwrap_or(Split::Val), &profile).write(job.out)?)
    }
}

/// Evaluations by the data set trained on, kind of run, and the data set evaluated on.
type Found = BTreeMap<(String, String, String), Metrics>;

fn table(found: &Found, split: Split, profile: &Profile) -> Table {
    let names = &profile.names;
    // With two data sets there is one change a run.
    let is_pair = names.data.len() == 2;
    let mut columns = vec![Column::words("trained_on", "Trained on"), Column::words("mode", "Mode")];
    for (dataset, title) in &names.data {
        let group = format!("scored on {title}");
        columns.push(Column::numbers(&format!("{dataset}_roc_auc"), &group, "ROC-AUC"));
        columns.push(Column::numbers(&format!("{dataset}_roc_auc_interval"), &group, "95% interval"));
    }
    if is_pair {
        columns.push(Column::numbers("change", "", "Change by the shift").derived());
    }
    let kinds = names.kinds(found.keys().map(|(_, kind, _)| kind.as_str()));
    let is_row = |dataset: &str, kind: &str| {
        names.expects(parts_of_kind(kind).1)
            || found.keys().any(|(on, of, _)| (on.as_str(), of.as_str()) == (dataset, kind))
    };
    let rows = names.data.iter().flat_map(|(dataset, _)| {
        let kinds = kinds.iter().filter(move |kind| is_row(dataset, kind));
        kinds.map(move |kind| row(found, dataset, kind, names))
    });
    let note = "Change: ROC-AUC on the other data set minus that on its own. 95% intervals: percentile bootstrap over the rows, \
                stratified by class.";
    let is_binary = found.values().all(|metrics| metrics.classes.is_binary());
    let note = match is_pair {
        true if is_binary => format!(
            "{note} The two data sets call different things {}, so a fall is not only a matter of style.",
            names.class(1)
        ),
        true => note.to_owned(),
        false => note.split_once(". ").map_or(note, |(_, rest)| rest).to_owned(),
    };
    Table {
        name: "table-shift".to_owned(),
        place: 0,
        title: "Data shift: runs on the data set they were not trained on".to_owned(),
        caption: format!(
            "ROC-AUC on {} {} splits, of the checkpoint that was best on its own. This run: {}.",
            if is_pair { "both" } else { "all" },
            split_title(split),
            profile.in_words()
        ),
        columns,
        rows: rows.collect(),
        notes: vec![note],
    }
}

fn row(found: &Found, trained_on: &str, mode: &str, names: &Names) -> Vec<Cell> {
    let of = |on: &str| found.get(&(trained_on.to_owned(), mode.to_owned(), on.to_owned()));
    let mut cells =
        vec![Cell::Text(names.data_title(trained_on).to_owned()), Cell::Text(names.kind_title(mode))];
    for (on, _) in &names.data {
        cells.extend(match of(on) {
            Some(metrics) => [
                Cell::Number { value: metrics.roc_auc, places: 4 },
                metrics.intervals.roc_auc.map_or(Cell::None, |Interval { low, high }| Cell::Interval {
                    low,
                    high,
                    places: 4,
                }),
            ],
            None if on == trained_on => {
                [Cell::Missing(format!("no run: make {trained_on}-{mode}")), Cell::None]
            }
            None => [Cell::Missing(format!("no run: make {trained_on}-{mode}-on-{on}")), Cell::None],
        });
    }
    if let [first, second] = &names.data[..] {
        let other = if first.0 == trained_on { second } else { first };
        cells.push(match (of(trained_on), of(&other.0)) {
            (Some(own), Some(other)) => Cell::Difference { value: other.roc_auc - own.roc_auc, places: 4 },
            _ => Cell::None,
        });
    }
    cells
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use stage_api::testing::run_stage;

    use super::*;
    use crate::reports::evaluation::made_up::write;
    use crate::reports::names;

    /// An evaluation of `dataset`'s run in `mode` on the data set `on`.
    fn evaluation(root: &std::path::Path, dataset: &str, mode: &str, on: &str, roc_auc: f64) -> PathBuf {
        let dir = write(&root.join(on), dataset, mode, 1, roc_auc, 0.3);
        Metrics { dataset: on.to_owned(), ..Metrics::read(&dir).unwrap() }.write(&dir).unwrap();
        dir
    }

    fn make(root: &std::path::Path, dirs: &[PathBuf]) -> Result<Table, StageError> {
        let inputs: Vec<_> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
        let out = root.join("out");
        run_stage(&Shift, &names::made_up::params(), &inputs, &out)?;
        Ok(Table::read(&out.join("table-shift.json"))?)
    }

    #[test]
    fn each_run_is_on_both_data_sets_with_what_the_shift_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let dirs = [
            evaluation(root, "hmd", "pe", "hmd", 0.75),
            evaluation(root, "hmd", "pe", "mmh", 0.5),
            evaluation(root, "mmh", "pe", "hmd", 0.625),
        ];
        let table = make(root, &dirs).unwrap();
        let shown = |row: usize| -> Vec<String> { table.rows[row].iter().map(Cell::shown).collect() };
        let interval = "0.5000 to 0.9000";
        assert_eq!(
            shown(1),
            ["Hateful Memes", "PE", "0.7500", interval, "0.5000", interval, "\u{2212}0.2500"]
        );
        // Trained on the second, its own evaluation missing: no change, and the cell says what to make.
        assert_eq!(shown(4)[2..], ["0.6250", interval, "no run: make mmh-pe", "–", "–"]);
        assert_eq!(shown(0)[2..5], ["no run: make hmd-fc", "–", "no run: make hmd-fc-on-mmh"]);
    }

    #[test]
    fn three_data_sets_have_a_column_each_and_no_one_change() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["a", "b", "c"].map(|on| evaluation(dir.path(), "a", "pe", on, 0.75));
        let inputs: Vec<_> = dirs.iter().map(|dir| ("runs", dir.as_path())).collect();
        let out = dir.path().join("own");
        run_stage(&Shift, "(profile: \"own\")", &inputs, &out).unwrap();
        let table = Table::read(&out.join("table-shift.json")).unwrap();
        let keys: Vec<&str> = table.columns.iter().map(|column| column.key.as_str()).collect();
        assert_eq!(
            keys[2..],
            [
                "a_roc_auc",
                "a_roc_auc_interval",
                "b_roc_auc",
                "b_roc_auc_interval",
                "c_roc_auc",
                "c_roc_auc_interval"
            ]
        );
        assert_eq!(table.rows.len(), 1);
        assert!(
            table.notes[0].starts_with("95% intervals") && table.caption.contains("all validation splits")
        );
    }

    #[test]
    fn another_split_and_a_run_given_twice_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = evaluation(dir.path(), "hmd", "fc", "mmh", 0.6);
        let error = make(dir.path(), &[run.clone(), run.clone()]).unwrap_err().to_string();
        assert!(error.contains("hmd fc on mmh is given twice"), "{error}");
        let other = evaluation(dir.path(), "hmd", "pe", "mmh", 0.6);
        Metrics { split: Split::Test, ..Metrics::read(&other).unwrap() }.write(&other).unwrap();
        let error = make(dir.path(), &[run, other]).unwrap_err().to_string();
        assert!(error.contains("another split than validation"), "{error}");
    }
}
