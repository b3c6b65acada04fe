//! The table of memory and time by data set and mode of the authors' runs, as their logs have it. What this project's runs
//! took differs from run to run and is in no step's output: tools add it, from records and logs.

use stage_api::{Results, StepView};

use crate::artifacts::history::{History, RunInfo};
use crate::artifacts::scalars;
use crate::reports::names::Names;
use crate::reports::paper_results::Run;
use crate::reports::table::{Cell, Column, Table};

/// The name of the table's files.
pub const NAME: &str = "table-1-cost";

/// The table of the published runs. It is published with Table I.
pub fn table(published: &[Run], names: &Names) -> Table {
    let logs = "published";
    let mut runs: Vec<&Run> = published.iter().collect();
    runs.sort_by_key(|run| (names.data_rank(&run.dataset), names.kind_rank(&run.mode)));
    let row = |run: &&Run| {
        vec![
            Cell::Text(names.data_title(&run.dataset).to_owned()),
            Cell::Text(names.mode_title(&run.mode).to_owned()),
            Cell::Count(run.max_memory_mib),
            Cell::Number { value: 1000.0 * run.wall_seconds / run.updates as f64, places: 0 },
        ]
    };
    Table {
        name: NAME.to_owned(),
        place: 1,
        title: "Memory and time per update".to_owned(),
        caption: "What the authors' six runs took, as their logs have it.".to_owned(),
        columns: vec![
            Column::words("dataset", "Data set"),
            Column::words("mode", "Mode"),
            Column::numbers("published_memory_mib", logs, "Memory (MiB)"),
            Column::numbers("published_update_ms", logs, "Update (ms)"),
        ],
        rows: runs.iter().map(row).collect(),
        notes: vec![
            "Published memory: the most that was allocated on the GPU. Published update: time of the whole run, validation \
             and data loading included, divided by its updates; no log names the hardware."
                .to_owned(),
        ],
    }
}

/// What a run of this project took.
struct Took {
    run: RunInfo,
    /// Host and device.
    place: String,
    /// Bytes.
    peak_memory: Option<u64>,
    /// Of one update, in milliseconds.
    update: Option<f64>,
}

/// The table with what the runs that the report reads took here.
pub fn with_runs(mut table: Table, results: &dyn Results) -> Table {
    let steps = results.steps();
    let report = steps.iter().find(|step| step.stage == "report");
    let named = report.map_or_else(Names::default, |step| Names::of_params(&step.params));
    let names = report.iter().flat_map(|step| &step.inputs).filter_map(|input| input.step());
    let runs = names.filter_map(|name| steps.iter().find(|step| step.name == name));
    let took: Vec<Took> = runs.filter_map(|step| took(step, results)).collect();
    let titles = |run: &RunInfo| [named.data_title(&run.dataset).to_owned(), named.kind_title(&run.kind())];
    let not_known = |of: Option<&Took>| match of {
        None => Cell::Missing("no run here".to_owned()),
        Some(_) => Cell::Missing("not recorded".to_owned()),
    };
    for row in &mut table.rows {
        let found = took.iter().find(|took| row.iter().map(Cell::shown).take(2).eq(titles(&took.run)));
        let memory = found.and_then(|took| took.peak_memory).map(|bytes| Cell::Count(bytes >> 20));
        let update = found.and_then(|took| took.update).map(|value| Cell::Number { value, places: 1 });
        row.extend([memory, update].map(|cell| cell.unwrap_or_else(|| not_known(found))));
    }
    let mut places: Vec<&str> = took.iter().map(|took| took.place.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    let profile = results.profile();
    table.columns.extend([
        Column::numbers("memory_mib", profile, "Memory (MiB)"),
        Column::numbers("update_ms", profile, "Update (ms)"),
    ]);
    table.notes.push(format!(
        "Profile {profile}: the most memory that the step's process held, what a GPU holds not counted; and the mean \
         time of a training update, without validation. Ran on: {}.",
        if places.is_empty() { "nothing yet".to_owned() } else { places.join("; ") }
    ));
    table
}

fn took(step: &StepView, results: &dyn Results) -> Option<Took> {
    let history = History::read(&results.part(&step.name, History::FILE).ok()?).ok()?;
    let ran = step.run.as_ref()?;
    let rates = step.log.as_deref().map(scalars::read).unwrap_or_default();
    let rates = rates.into_iter().find(|found| found.name == scalars::RATE);
    Some(Took {
        run: history.run,
        place: format!("{} ({}, threads: {})", ran.host, ran.device, ran.threads),
        peak_memory: ran.peak_memory,
        update: rates.and_then(|rates| mean_update(&rates.points)),
    })
}

/// The mean time of an update in milliseconds, from rates each of which is of the updates since the one before.
fn mean_update(rates: &[(u64, Option<f64>)]) -> Option<f64> {
    let (mut updates, mut seconds, mut before) = (0.0, 0.0, 0);
    for (at, rate) in rates {
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            let since = (at - before) as f64;
            updates += since;
            seconds += since / rate;
        }
        before = *at;
    }
    (updates > 0.0).then(|| 1000.0 * seconds / updates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_updates_weigh_by_their_time_and_gaps_not_at_all() {
        // 10 updates in 1 s, 10 unknown, 30 in 9 s.
        let rates = [(10, Some(10.0)), (20, None), (50, Some(10.0 / 3.0))];
        assert!((mean_update(&rates).unwrap() - 250.0).abs() < 1e-9);
        assert_eq!(mean_update(&[]), None);
    }
}
