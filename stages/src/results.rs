//! `results`: Table II, the metrics of every evaluated run beside those of the paper's run.
//! It does not know how a metric is computed.

use std::collections::BTreeMap;
use std::path::Path;

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::metrics::Metrics;
use crate::artifacts::samples::Split;
use crate::profile::Profile;
use crate::published::{self, DATASETS, MODES};
use crate::table::{Cell, Column, Table, thousands};

/// Makes Table II.
pub struct Results;

impl Stage for Results {
    type Params = Profile;
    const NAME: &'static str = "results";
    const ABOUT: &'static str =
        "Table II: ROC-AUC, accuracy and F1 by data set and mode beside the published ones";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("published"), Port::many("runs")];

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let published = published::read_runs(job.inputs.one("published")?)?;
        let runs = read_runs(&job.inputs.all("runs"))?;
        table(&published, &runs, profile).write(job.out)?;
        Ok(())
    }
}

/// The runs by data set and mode, the seeds of each in order.
type Runs = BTreeMap<(String, String), Vec<Metrics>>;

fn read_runs(dirs: &[&Path]) -> Result<Runs, StageError> {
    let mut runs = Runs::new();
    for dir in dirs {
        let metrics = Metrics::read(dir)?;
        let refuse = |problem: String| Err(StageError::input("runs", dir, problem));
        if metrics.split != Split::Val {
            return refuse("was evaluated on another split; the paper reports on validation".to_owned());
        }
        let values = [metrics.roc_auc, metrics.accuracy, metrics.f1];
        if values.iter().any(|value| !(0.0..=1.0).contains(value)) {
            return refuse("a metric is not between 0 and 1".to_owned());
        }
        let run = &metrics.run;
        let seeds = runs.entry((run.dataset.clone(), run.mode.clone())).or_default();
        if seeds.iter().any(|other| other.run.seed == run.seed) {
            return refuse(format!("{} {} with seed {} is given twice", run.dataset, run.mode, run.seed));
        }
        seeds.push(metrics);
    }
    for seeds in runs.values_mut() {
        seeds.sort_by_key(|metrics| metrics.run.seed);
    }
    Ok(runs)
}

fn table(published: &[published::Run], runs: &Runs, profile: &Profile) -> Table {
    let (ours, theirs) = ("this run", "published");
    let columns = vec![
        Column::words("dataset", "Data set"),
        Column::words("mode", "Mode"),
        Column::numbers("roc_auc", ours, "ROC-AUC"),
        Column::numbers("accuracy", ours, "Accuracy"),
        Column::numbers("f1", ours, "F1"),
        Column::numbers("best_update", ours, "Best update"),
        Column::words("seeds", "Seed"),
        Column::numbers("published_roc_auc", theirs, "ROC-AUC"),
        Column::numbers("published_accuracy", theirs, "Accuracy"),
        Column::numbers("published_f1", theirs, "F1"),
        Column::numbers("published_best_update", theirs, "Best update"),
        Column::numbers("roc_auc_difference", "", "Difference in ROC-AUC"),
    ];
    let mut cells: Vec<(String, String)> = published.iter().map(key).collect();
    cells.extend(runs.keys().filter(|key| !published.iter().any(|run| self::key(run) == **key)).cloned());
    cells.sort_by_key(|(dataset, mode)| (rank(&DATASETS, dataset), rank(&MODES, mode)));
    let row = |of: &(String, String)| {
        let ours = runs.get(of).map_or(&[][..], Vec::as_slice);
        let theirs = published.iter().find(|run| key(run) == *of);
        row(of, ours, theirs)
    };
    Table {
        name: "table-2".to_owned(),
        title: "Table II: detection of hateful memes on the validation splits".to_owned(),
        caption: format!(
            "Metrics of the checkpoint with the best validation ROC-AUC. This run: {}. Published: the authors' \
             training logs, one run of 22,000 updates each.",
            profile.in_words()
        ),
        columns,
        rows: cells.iter().map(row).collect(),
        notes: notes(runs),
    }
}

fn key(run: &published::Run) -> (String, String) {
    (run.dataset.clone(), run.mode.clone())
}

/// The place of `name` in the paper's order; what the paper does not have comes last.
fn rank(names: &[(&str, &str)], name: &str) -> usize {
    names.iter().position(|(short, _)| *short == name).unwrap_or(names.len())
}

fn row(of: &(String, String), ours: &[Metrics], theirs: Option<&published::Run>) -> Vec<Cell> {
    let number = |value: f64| Cell::Number { value, places: 4 };
    let words = |text: &str| Cell::Text(text.to_owned());
    let (dataset, mode) = of;
    let mut cells = vec![words(published::title(&DATASETS, dataset)), words(published::title(&MODES, mode))];
    let auc: Vec<f64> = ours.iter().map(|metrics| metrics.roc_auc).collect();
    if ours.is_empty() {
        cells.push(Cell::Missing(format!("no run: make {dataset}-{mode}")));
        cells.extend([Cell::None, Cell::None, Cell::None, Cell::None]);
    } else {
        cells.push(mean(&auc));
        cells.push(mean(&ours.iter().map(|metrics| metrics.accuracy).collect::<Vec<_>>()));
        cells.push(mean(&ours.iter().map(|metrics| metrics.f1).collect::<Vec<_>>()));
        cells.push(match ours {
            [one] => Cell::Count(one.best_update),
            many => words(&listed(many, |metrics| thousands(metrics.best_update))),
        });
        cells.push(words(&listed(ours, |metrics| metrics.run.seed.to_string())));
    }
    match theirs {
        Some(run) => cells.extend([
            number(run.best_roc_auc),
            number(run.best_accuracy),
            number(run.best_f1),
            Cell::Count(run.best_update),
        ]),
        None => cells.extend([Cell::None, Cell::None, Cell::None, Cell::None]),
    }
    cells.push(match theirs {
        Some(run) if !auc.is_empty() => {
            Cell::Difference { value: average(&auc) - run.best_roc_auc, places: 4 }
        }
        _ => Cell::None,
    });
    cells
}

fn listed(runs: &[Metrics], text: impl Fn(&Metrics) -> String) -> String {
    runs.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn average(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The value of one run, or mean and sample standard deviation (n − 1) of several.
fn mean(values: &[f64]) -> Cell {
    let value = average(values);
    if values.len() < 2 {
        return Cell::Number { value, places: 4 };
    }
    let squares: f64 = values.iter().map(|x| (x - value).powi(2)).sum();
    Cell::Mean { value, sd: (squares / (values.len() - 1) as f64).sqrt(), places: 4 }
}

fn notes(runs: &Runs) -> Vec<String> {
    let mut rows = BTreeMap::new();
    for metrics in runs.values().flatten() {
        let title = published::title(&DATASETS, &metrics.run.dataset);
        rows.insert((rank(&DATASETS, &metrics.run.dataset), title), (metrics.rows, metrics.positives));
    }
    let mut notes: Vec<String> = Vec::new();
    if !rows.is_empty() {
        let sizes = rows.iter().map(|((_, title), (rows, positives))| {
            format!("{title}: {} rows, {} of them hateful", thousands(*rows), thousands(*positives))
        });
        notes.push(format!("Validation splits of this run. {}.", sizes.collect::<Vec<_>>().join("; ")));
    }
    if runs.values().any(|seeds| seeds.len() > 1) {
        notes.push("± is the sample standard deviation over the seeds.".to_owned());
    }
    notes.push("F1 is that of the class hateful at the decision threshold 0.5.".to_owned());
    notes
}

#[cfg(test)]
mod tests {
    use stage_api::testing::run_stage;

    use super::*;
    use crate::artifacts::history::{ParameterCounts, RunInfo};

    fn write(root: &Path, dataset: &str, mode: &str, seed: u64, roc_auc: f64) -> std::path::PathBuf {
        let dir = root.join(format!("{dataset}-{mode}-{seed}"));
        std::fs::create_dir_all(&dir).unwrap();
        let metrics = Metrics {
            run: RunInfo { dataset: dataset.into(), mode: mode.into(), seed, updates: 600 },
            parameters: ParameterCounts { total: 10, trained: 5, adapters: 0 },
            split: Split::Val,
            rows: 500,
            positives: 247,
            best_update: 450,
            loss: 0.6,
            accuracy: 0.5,
            f1: 0.25,
            roc_auc,
        };
        metrics.write(&dir).unwrap();
        dir
    }

    fn make(root: &Path, dirs: &[std::path::PathBuf]) -> Result<Table, StageError> {
        let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../paper/runs.csv");
        let mut inputs: Vec<(&str, &Path)> = vec![("published", &published)];
        inputs.extend(dirs.iter().map(|dir| ("runs", dir.as_path())));
        run_stage(&Results, "(profile: \"mini\", about: \"synthetic memes\")", &inputs, &root.join("out"))?;
        Ok(Table::read(&root.join("out/table-2.json"))?)
    }

    #[test]
    fn several_seeds_become_mean_and_deviation_beside_the_published_value() {
        let dir = tempfile::tempdir().unwrap();
        let seeds = [(1, 0.70), (2, 0.72), (3, 0.77)];
        let dirs: Vec<_> = seeds.map(|(seed, auc)| write(dir.path(), "hmd", "pe", seed, auc)).into();
        let table = make(dir.path(), &dirs).unwrap();
        let row = &table.rows[1];
        assert_eq!(row[1], Cell::Text("PE".into()));
        // Mean 0.73, squared deviations 0.0009 + 0.0001 + 0.0016 = 0.0026, over n − 1 = 2.
        let Cell::Mean { value, sd, .. } = row[2] else { panic!("{row:?}") };
        assert!((value - 0.73).abs() < 1e-12 && (sd - 0.0013f64.sqrt()).abs() < 1e-12);
        assert_eq!(row[7], Cell::Number { value: 0.728077, places: 4 });
        let Cell::Difference { value, .. } = row[11] else { panic!("{row:?}") };
        assert!((value - (0.73 - 0.728077)).abs() < 1e-12);
        assert!(table.caption.contains("profile mini (synthetic memes)"));
    }

    #[test]
    fn a_missing_run_says_what_to_make() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [write(dir.path(), "mmh", "fc", 1, 0.6)];
        let table = make(dir.path(), &dirs).unwrap();
        assert_eq!(table.rows.len(), 6);
        assert_eq!(table.rows[5][2], Cell::Missing("no run: make mmh-full".into()));
        assert_eq!(table.rows[3][2], Cell::Number { value: 0.6, places: 4 });
    }

    #[test]
    fn the_same_run_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = write(dir.path(), "mmh", "fc", 1, 0.6);
        let error = make(dir.path(), &[run.clone(), run]).unwrap_err().to_string();
        assert!(error.contains("mmh fc with seed 1 is given twice"), "{error}");
    }
}
