//! `report`: one HTML page with the tables and figures of its parts and the runs behind them, complete in a single file: no
//! network, no script, no other file. It begins with what every reader looks for (a summary, Table II, the curves, Table I,
//! the claims) and shows whatever else its parts hold folded.
//!
//! The step's page is the same bytes wherever it is built from the same inputs. [`project_page`] writes the same page with what it leaves out for
//! that: keys, digests, times, hosts and logs of the project's steps.

mod downloads;
mod live_curves;
mod page;
mod project_page;
mod summary;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use self::page::{Page, Part, Picture, Run};
use crate::artifacts::ArtifactError;
use crate::artifacts::history::History;
use crate::reports::figure::{self, FigureEntry};
use crate::reports::names::Names;
use crate::reports::table::Table;

pub use project_page::PAGE;

/// The ports.
const PARTS: &str = "parts";
const RUNS: &str = "runs";

/// Makes the page.
pub struct Report;

/// Settings of [`Report`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportParams {
    /// The profile of the parts: `mini`.
    profile: String,
    /// What the profile is: `synthetic memes, small model`.
    #[serde(default)]
    about: String,
    /// The page's heading; `about` where it has none.
    #[serde(default)]
    title: String,
    /// What a reader may and may not conclude from this profile's numbers.
    #[serde(default)]
    statement: String,
    /// What data sets, modes, classes and samples are called.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    names: Names,
    /// Where published numbers and curves come from, as a reader must know it; `Published` stands before it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    published: String,
}

impl Stage for Report {
    type Params = ReportParams;
    const NAME: &'static str = "report";
    const ABOUT: &'static str = "One self-contained HTML page with all tables, figures and runs";
    const VERSION: u32 = 8;
    const INPUTS: &'static [Port] = &[Port::many(PARTS), Port { optional: true, ..Port::many(RUNS) }];

    fn check(&self, params: &ReportParams) -> Result<(), String> {
        params.names.check()
    }

    fn run(&self, params: &ReportParams, job: &Job) -> Result<(), StageError> {
        let parts = job.inputs.all(PARTS).into_iter().map(|dir| part(dir, None));
        let runs = job.inputs.all(RUNS).into_iter().map(|dir| run(dir, None));
        let page = params.page(parts.collect::<Result<_, _>>()?, runs.collect::<Result<_, _>>()?);
        let path = job.out.join("index.html");
        fs::write(&path, rendered(&page)?).map_err(|error| ArtifactError::new(&path, error))?;
        Ok(())
    }
}

impl ReportParams {
    /// A page without a project.
    fn page(&self, parts: Vec<Part>, mut runs: Vec<Run>) -> Page {
        let found = runs.iter().filter_map(|run| run.found.as_ref().ok());
        let names = self.names.with_runs(found.map(|history| history.run.dataset.as_str()), [].into_iter());
        // Those that have not run yet come last, as the pipeline has them.
        runs.sort_by_key(|run| match &run.found {
            Ok(History { run, .. }) => {
                (names.data_rank(&run.dataset), names.kind_rank(&run.kind()), run.seed)
            }
            Err(_) => (usize::MAX, (0, 0), 0),
        });
        Page {
            title: [&self.title, &self.about]
                .into_iter()
                .find(|text| !text.is_empty())
                .map_or("Results", |text| text)
                .to_owned(),
            profile: self.profile.clone(),
            about: self.about.clone(),
            statement: self.statement.clone(),
            published: self.published.clone(),
            names,
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
    let picture = |(entry, svg): (FigureEntry, String)| {
        let path = dir.join(format!("{}.pdf", entry.name));
        let pdf = match fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(ArtifactError::new(&path, error)),
        };
        Ok(Picture { entry, svg, pdf })
    };
    let figures = figures.into_iter().map(picture).collect::<Result<Vec<_>, _>>()?;
    let tables = tables_of(dir)?;
    if tables.is_empty() && figures.is_empty() {
        return Err(StageError::input(PARTS, dir, "holds neither a table (.json) nor figures.json"));
    }
    Ok(Part { step, tables, figures, ..Part::default() })
}

/// The run of a train step's folder.
fn run(dir: &Path, step: Option<String>) -> Result<Run, StageError> {
    Ok(Run { step, found: Ok(History::read(dir)?) })
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

/// Seconds from 1970 to the first moment that dates cannot be written of.
const YEAR_10000: u64 = 253_402_300_800;

/// A moment, given in milliseconds since 1970, as `Sat, 31 Jan 2026 12:00:00 GMT`.
fn when(ms: u64) -> String {
    if ms / 1000 >= YEAR_10000 {
        return format!("{ms} ms after 1970");
    }
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use stage_api::testing::run_stage;

    use super::*;
    use crate::reports::table::{Cell, Column};

    fn part(dir: &Path, text: &str) -> std::path::PathBuf {
        let table = Table {
            name: "table-9".into(),
            place: 0,
            title: "Table IX: a test".into(),
            caption: "Profile mini.".into(),
            columns: vec![Column::words("mode", "Mode"), Column::numbers("auc", "this run", "ROC-AUC")],
            rows: vec![vec![Cell::Text(text.into()), Cell::Number { value: 0.5, places: 2 }]],
            notes: vec![],
        };
        let part = dir.join("part");
        fs::create_dir_all(&part).unwrap();
        table.write(&part).unwrap();
        part
    }

    #[test]
    fn moments_of_any_record_are_shown() {
        assert_eq!(when(1_700_000_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(when(253_402_300_799_999), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(when(u64::MAX), "18446744073709551615 ms after 1970");
    }

    #[test]
    fn the_page_is_one_file_with_text_escaped_and_no_other_source() {
        let dir = tempfile::tempdir().unwrap();
        let part = part(dir.path(), "<script>alert(1)</script>");
        let out = dir.path().join("out");
        run_stage(&Report, "(profile: \"mini\", about: \"a & b\")", &[("parts", &part)], &out).unwrap();
        let files: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["index.html"]);
        let page = fs::read_to_string(out.join("index.html")).unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(page.contains("a &amp; b") && page.contains("0.50"));
        for outside in ["src=", "url(", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The files it offers are within it.
        assert!(page.contains("href=\"data:text/csv;charset=utf-8,mode,auc%0A"), "{page}");
        assert!(page.contains("download=\"table-9.tex\""), "{page}");
    }

    #[test]
    fn the_page_begins_with_table_2_and_folds_what_few_look_for() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("part");
        fs::create_dir_all(&part).unwrap();
        for (place, name) in ["claims", "table-1", "table-9", "table-2"].into_iter().enumerate() {
            let table = Table {
                name: name.into(),
                place: place as u8,
                title: format!("{name}: a test"),
                caption: String::new(),
                columns: vec![Column::words("verdict", "Verdict")],
                rows: vec![vec![Cell::Text("holds".into())]],
                notes: vec![],
            };
            table.write(&part).unwrap();
        }
        let out = dir.path().join("out");
        run_stage(&Report, "(profile: \"mini\")", &[("parts", &part)], &out).unwrap();
        let page = fs::read_to_string(out.join("index.html")).unwrap();
        let at = |what: &str| page.find(what).unwrap_or_else(|| panic!("no {what}: {page}"));
        let places = [
            "class=\"summary\"",
            "id=\"table-2\"",
            "id=\"table-1\"",
            "id=\"claims\"",
            "<details>",
            "id=\"table-9\"",
        ];
        assert!(places.map(at).is_sorted(), "{page}");
        assert_eq!(page.matches("<details>").count(), 1);
        assert!(page.contains("Of the paper&#x27;s 1 claims, 1 holds in this run"), "{page}");
        assert!(page.contains("<tr id=\"table-2-holds\">"), "{page}");
    }

    #[test]
    fn a_part_without_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let error =
            run_stage(&Report, "(profile: \"mini\")", &[("parts", &empty)], &dir.path().join("out")).err();
        assert!(error.unwrap().to_string().contains("neither a table"));
    }
}
