//! `results`: Table II, the ROC-AUC of every evaluated run, next to that of the paper's run where there is a paper; all other
//! metrics with their intervals; confusion matrices; and DeLong's test between the modes. It does not know how a metric is computed.

mod class_table;
mod confusion_table;
mod metrics_table;
mod tests_table;

use std::collections::BTreeMap;

use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::samples::Split;
use crate::metrics::bootstrap::Interval;
use crate::reports::caption::Profile;
use crate::reports::evaluation::{self, Evaluated, Runs, missing, split, split_title};
use crate::reports::names::{Names, is_given};
use crate::reports::paper_results::{Claim, Paper, ValidationSplit};
use crate::reports::table::{Cell, Column, Table, thousands};

/// Makes Table II.
pub struct Results;

impl Stage for Results {
    type Params = Profile;
    const NAME: &'static str = "results";
    const ABOUT: &'static str = "Table II: ROC-AUC by data set and mode, next to published values if given; all metrics, DeLong's test";
    const VERSION: u32 = 5;
    const INPUTS: &'static [Port] =
        &[Port::optional(PUBLISHED), Port::optional("quoted"), Port::optional("splits"), Port::many("runs")];

    fn check(&self, profile: &Profile) -> Result<(), String> {
        profile.names.check()
    }

    fn check_wiring(&self, _: &Profile, ports: &[&str]) -> Result<(), String> {
        match ["quoted", "splits"]
            .into_iter()
            .find(|port| ports.contains(port) && !ports.contains(&PUBLISHED))
        {
            Some(port) => Err(format!("`{port}` is about the runs of `{PUBLISHED}`, which is not connected")),
            None => Ok(()),
        }
    }

    fn run(&self, profile: &Profile, job: &Job) -> Result<(), StageError> {
        let port = |name: &str| job.inputs.optional(name);
        let paper = Paper::read(port(PUBLISHED), port("quoted"), port("splits"))?;
        let runs = evaluation::read("runs", &job.inputs.all("runs"), &paper)?;
        let profile = &evaluation::named(profile, &runs, &paper);
        let classes = evaluation::classes(&runs);
        let titles = profile.names.titles(&classes).map_err(StageError::Params)?;
        table(&paper, &runs, profile).write(job.out)?;
        match classes.is_binary() {
            true => confusion_table::table(&paper, &runs, profile).write(job.out)?,
            false => {
                confusion_table::of_classes(&runs, &classes, &titles, profile).write(job.out)?;
                class_table::table(&runs, &titles, profile).write(job.out)?;
            }
        }
        metrics_table::table(&paper, &runs, profile).write(job.out)?;
        tests_table::table(&runs, profile).write(job.out)?;
        Ok(())
    }
}

/// The port of the paper's own runs.
const PUBLISHED: &str = "published";

/// A data set and a kind of run.
type Key = (String, String);

/// The rows of a table: the paper's runs and whatever else was evaluated, in the order of the names.
fn rows(paper: &Paper, runs: &Runs, names: &Names) -> Vec<Key> {
    let mut keys: Vec<Key> = paper.runs.iter().map(|run| (run.dataset.clone(), run.mode.clone())).collect();
    keys.extend(runs.keys().filter(|(dataset, mode)| paper.run(dataset, mode).is_none()).cloned());
    keys.sort_by_key(|(dataset, kind)| (names.data_rank(dataset), names.kind_rank(kind)));
    keys
}

/// The first cells of a row: data set and mode.
fn titles(names: &Names, (dataset, kind): &Key) -> Vec<Cell> {
    vec![Cell::Text(names.data_title(dataset).to_owned()), Cell::Text(names.kind_title(kind))]
}

/// The value of one run, or mean and sample standard deviation of several.
fn mean(ours: &[Evaluated], of: impl Fn(&Evaluated) -> f64) -> Cell {
    let values: Vec<f64> = ours.iter().map(of).collect();
    match crate::metrics::mean_and_sd(&values) {
        (value, Some(sd)) => Cell::Mean { value, sd, places: 4 },
        (value, None) => Cell::Number { value, places: 4 },
    }
}

/// The value of one run with its interval, or mean and sample standard deviation of several; nothing where one of them has none.
fn estimate(
    ours: &[Evaluated],
    value: impl Fn(&Evaluated) -> Option<f64>,
    interval: impl Fn(&Evaluated) -> Option<Interval>,
) -> Cell {
    if ours.is_empty() || ours.iter().any(|run| value(run).is_none()) {
        return Cell::None;
    }
    let value = |run: &Evaluated| value(run).unwrap_or(f64::NAN);
    let alone = if let [one] = ours { interval(one).map(|ends| (value(one), ends)) } else { None };
    match alone {
        Some((value, Interval { low, high })) => Cell::Estimate { value, low, high, places: 4 },
        None => mean(ours, value),
    }
}

fn table(paper: &Paper, runs: &Runs, profile: &Profile) -> Table {
    let (ours, theirs) = ("this run", "published");
    let (has_paper, has_art) = (!paper.runs.is_empty(), !paper.quotes.is_empty());
    let mut columns = vec![Column::words("dataset", "Data set"), Column::words("mode", "Mode")];
    if has_paper {
        columns.push(Column::numbers("published_roc_auc", theirs, "Best ROC-AUC"));
        columns.push(Column::numbers("published_best_update", theirs, "at update"));
    }
    if has_art {
        columns.push(Column::numbers("published_share", theirs, "Share of the state of the art"));
    }
    columns.extend([
        Column::numbers("roc_auc", ours, "Best ROC-AUC"),
        Column::numbers("roc_auc_interval", ours, "95% interval"),
        Column::numbers("best_update", ours, "at update"),
        Column::words("seeds", "Seed"),
    ]);
    // A share of the paper's state of the art and a difference to its ROC-AUC mean something on the paper's rows alone.
    let is_comparable = runs.values().flatten().any(|run| run.is_on_the_papers_split(paper));
    if is_comparable {
        if has_art {
            columns.push(Column::numbers("share", ours, "Share of the state of the art").derived());
        }
        columns.push(Column::numbers("roc_auc_difference", "", "Difference to published").derived());
    }
    let names = &profile.names;
    let row = |of: &Key| {
        let mut cells = row(of, runs.get(of).map_or(&[][..], Vec::as_slice), (paper, names), is_comparable);
        // The shares are the last of what is published and the last but one of ours.
        if !has_art {
            cells.remove(4);
            if is_comparable {
                cells.remove(cells.len() - 2);
            }
        }
        if !has_paper {
            cells.drain(2..4);
        }
        cells
    };
    let classes = evaluation::classes(runs);
    let what = match classes.is_binary() {
        true => format!("detection of {}", names.positives()),
        false => format!("classification of {}", names.samples()),
    };
    let title = format!("Table II: {what} on the {} splits", split_title(split(runs)));
    let published = match &paper.runs[..] {
        [] => String::new(),
        [first, others @ ..] if others.iter().all(|run| run.updates == first.updates) => format!(
            " Published: the authors' training logs, one run of {} updates each.",
            thousands(first.updates)
        ),
        _ => " Published: the authors' training logs, one run each.".to_owned(),
    };
    Table {
        name: "table-2".to_owned(),
        place: 0,
        title,
        caption: format!(
            "ROC-AUC of the checkpoint with the best validation. This run: {}.{published}",
            profile.in_words()
        ),
        columns,
        rows: rows(paper, runs, names).iter().map(row).collect(),
        notes: notes(paper, runs, names),
    }
}

fn row(of: &Key, ours: &[Evaluated], (paper, names): (&Paper, &Names), is_comparable: bool) -> Vec<Cell> {
    let number = |value: f64| Cell::Number { value, places: 4 };
    let (theirs, best) = (paper.run(&of.0, &of.1), paper.state_of_the_art(&of.0));
    let share = |auc: f64| best.map_or(Cell::None, |best| Cell::Share { value: auc / best, places: 1 });
    let mut cells = titles(names, of);
    cells.extend(match theirs {
        Some(run) => [number(run.best_roc_auc), Cell::Count(run.best_update), share(run.best_roc_auc)],
        None => [Cell::None, Cell::None, Cell::None],
    });
    if ours.is_empty() {
        cells.push(missing(of));
        cells.extend(std::iter::repeat_n(Cell::None, if is_comparable { 5 } else { 3 }));
        return cells;
    }
    let auc = evaluation::mean_roc_auc(ours);
    let interval = |interval| match interval {
        Some(Interval { low, high }) => Cell::Interval { low, high, places: 4 },
        None => Cell::None,
    };
    cells.extend([
        mean(ours, |run| run.metrics.roc_auc),
        interval(evaluation::roc_auc_interval(ours)),
        match ours {
            // It was not trained here.
            [one] if one.metrics.run.updates == 0 => Cell::None,
            [one] => Cell::Count(one.metrics.best_update),
            many => Cell::Text(listed(many, |run| thousands(run.metrics.best_update))),
        },
        match is_given(&of.1) {
            true => Cell::None,
            false => Cell::Text(listed(ours, |run| run.metrics.run.seed.to_string())),
        },
    ]);
    if is_comparable {
        let is_theirs = ours.iter().all(|run| run.is_on_the_papers_split(paper));
        cells.push(if is_theirs { share(auc) } else { Cell::None });
        cells.push(
            theirs
                .filter(|_| is_theirs)
                .map_or(Cell::None, |run| Cell::Difference { value: auc - run.best_roc_auc, places: 4 }),
        );
    }
    cells
}

fn listed(runs: &[Evaluated], text: impl Fn(&Evaluated) -> String) -> String {
    runs.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn notes(paper: &Paper, runs: &Runs, names: &Names) -> Vec<String> {
    let classes = evaluation::classes(runs);
    let positive = names.class(1);
    let mut rows = BTreeMap::new();
    let mut notes: Vec<String> = Vec::new();
    for metrics in runs.values().flatten().map(|run| &run.metrics) {
        let title = names.data_title(&metrics.run.dataset);
        rows.insert((names.data_rank(&metrics.run.dataset), title), (metrics.rows, metrics.positives));
        let all_of = metrics.predicted_positives.filter(|count| *count == 0 || *count == metrics.rows);
        if let Some(positives) = all_of {
            let class = names.class(u8::from(positives > 0));
            let mode = names.kind_title(&metrics.run.kind());
            let seed = match is_given(&metrics.run.kind()) {
                true => String::new(),
                false => format!(", seed {}", metrics.run.seed),
            };
            notes.push(format!("{title}, {mode}{seed}: every row is predicted {class}."));
        }
    }
    if !rows.is_empty() {
        let sizes = rows.iter().map(|((_, title), (rows, positives))| {
            let rows = thousands(*rows);
            match positives {
                Some(positives) => {
                    format!("{title}: {rows} rows, {} of them {positive}", thousands(*positives))
                }
                None => format!("{title}: {rows} rows"),
            }
        });
        let sizes = sizes.collect::<Vec<_>>().join("; ");
        let split = match split(runs) {
            Split::Train => "Training",
            Split::Val => "Validation",
            Split::Test => "Test",
        };
        notes.insert(0, format!("{split} splits of this run. {sizes}."));
    }
    if runs.values().any(|seeds| seeds.len() > 1) {
        notes.push(
            "± is the sample standard deviation over the seeds; the interval is that of their mean."
                .to_owned(),
        );
    }
    if !classes.is_binary() {
        notes.push("ROC-AUC: the mean over the classes of each class against the rest.".to_owned());
    }
    let by_class = if classes.multi_label { "" } else { ", stratified by class" };
    notes.push(format!(
        "95% intervals: percentile bootstrap over the rows{by_class}. They hold for this split and these \
         weights; they do not cover the choice of the best checkpoint on the same rows."
    ));
    let implied = paper.quotes(Claim::ShareOfStateOfTheArt).filter_map(|quoted| {
        let best = paper.state_of_the_art(&quoted.dataset)?;
        let (title, mode) = (names.data_title(&quoted.dataset), names.mode_title(&quoted.mode));
        let share = quoted.value.value * 100.0;
        Some(format!("{title} {best:.4}, of which {mode} is said to reach {share:.1} %"))
    });
    let implied: Vec<String> = implied.collect();
    let size = |split: &ValidationSplit| {
        let title = names.data_title(&split.dataset);
        format!("{title} {} and {}", thousands(split.rows), thousands(split.positives))
    };
    let splits: Vec<String> = paper.splits.iter().map(size).collect();
    if !implied.is_empty() {
        notes.push(format!(
            "The authors do not name the state of the art; it is the published ROC-AUC divided by the share that they quote: \
             {}. A run of ours is compared with the published ones only on a validation split with as many rows and as many \
             {positive} ones as the paper's: {}.",
            implied.join("; "),
            splits.join("; ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests;
