//! `report`: one HTML page with the tables and figures of its parts and the runs behind them, complete in a single file: no
//! network, no script, no other file. It does not know which tables and figures there are.
//!
//! The step's page is the same bytes wherever the same is made. [`tool`] writes the same page with what it leaves out for
//! that: keys, digests, times, hosts and logs of the project's steps.

mod page;
mod tool;

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use self::page::{Page, Part, Run};
use crate::artifacts::ArtifactError;
use crate::artifacts::history::History;
use crate::figure;
use crate::published::{DATASETS, MODES, rank};
use crate::table::Table;

pub use tool::ShowPage;

/// The ports.
const PARTS: &str = "parts";
const RUNS: &str = "runs";

/// Makes the page.
pub struct Report;

/// Settings of [`Report`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The profile that made the parts: `mini`.
    profile: String,
    /// What the profile is: `synthetic memes, small model`.
    #[serde(default)]
    about: String,
    /// The page's heading.
    #[serde(default = "title")]
    title: String,
    /// What a reader may and may not conclude from this profile's numbers.
    #[serde(default)]
    statement: String,
}

fn title() -> String {
    "Parameter-Efficient Fine Tuning for Multimodal Hate Speech Detection in Memes".to_owned()
}

impl Stage for Report {
    type Params = Params;
    const NAME: &'static str = "report";
    const ABOUT: &'static str = "One self-contained HTML page with all tables, figures and runs";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] =
        &[Port::many(PARTS), Port { name: RUNS, many: true, optional: true }];

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let parts = job.inputs.all(PARTS).into_iter().map(|dir| part(dir, None));
        let runs = job.inputs.all(RUNS).into_iter().map(|dir| run(dir, None));
        let page = params.page(parts.collect::<Result<_, _>>()?, runs.collect::<Result<_, _>>()?);
        let path = job.out.join("index.html");
        fs::write(&path, rendered(&page)?).map_err(|error| ArtifactError::new(&path, error))?;
        Ok(())
    }
}

impl Params {
    /// A page without a project.
    fn page(&self, parts: Vec<Part>, mut runs: Vec<Run>) -> Page {
        runs.sort_by_key(|run| {
            let info = &run.history.run;
            (rank(&DATASETS, &info.dataset), rank(&MODES, &info.mode), info.seed)
        });
        Page {
            title: self.title.clone(),
            profile: self.profile.clone(),
            about: self.about.clone(),
            statement: self.statement.clone(),
            parts,
            runs,
            project: None,
        }
    }
}

fn rendered(page: &Page) -> Result<String, StageError> {
    page::render(page).map_err(|error| StageError::failed(format!("the page cannot be rendered: {error:#}")))
}

/// The tables and figures of a folder.
fn part(dir: &Path, step: Option<String>) -> Result<Part, StageError> {
    let figures = if dir.join(figure::LIST).exists() { figure::read(dir)? } else { vec![] };
    let tables = tables_of(dir)?;
    if tables.is_empty() && figures.is_empty() {
        return Err(StageError::input(PARTS, dir, "holds neither a table (.json) nor figures.json"));
    }
    Ok(Part { step, tables, figures })
}

/// The run of a train step's folder.
fn run(dir: &Path, step: Option<String>) -> Result<Run, StageError> {
    Ok(Run { step, history: History::read(dir)? })
}

/// The tables of a folder, in the order in which they are to be read.
fn tables_of(dir: &Path) -> Result<Vec<Table>, ArtifactError> {
    let entries = fs::read_dir(dir).map_err(|error| ArtifactError::new(dir, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| ArtifactError::new(dir, error))?.path();
        if path.extension().is_some_and(|ending| ending == "json") && !path.ends_with(figure::LIST) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut tables = paths.iter().map(|path| Table::read(path)).collect::<Result<Vec<_>, _>>()?;
    tables.sort_by_key(|table| table.place);
    Ok(tables)
}

/// A moment, given in milliseconds since 1970, as `2026-01-31T12:00:00Z`.
pub(crate) fn when(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests;
