//! The table of memory and time by data set and mode of the authors' runs, as their logs have it. It knows no run of ours:
//! what differs from run to run is in no step's output.

use crate::published::{self, DATASETS, MODES, Run, rank};
use crate::table::{Cell, Column, Table};

/// The table of the published runs. It stands beside Table I.
pub fn table(published: &[Run]) -> Table {
    let logs = "published";
    let mut runs: Vec<&Run> = published.iter().collect();
    runs.sort_by_key(|run| (rank(&DATASETS, &run.dataset), rank(&MODES, &run.mode)));
    let row = |run: &&Run| {
        vec![
            Cell::Text(published::title(&DATASETS, &run.dataset).to_owned()),
            Cell::Text(published::title(&MODES, &run.mode).to_owned()),
            Cell::Count(run.max_memory_mib),
            Cell::Number { value: 1000.0 * run.wall_seconds / run.updates as f64, places: 0 },
        ]
    };
    Table {
        name: "table-1-cost".to_owned(),
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
