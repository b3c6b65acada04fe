//! `report`: one HTML page with the tables and figures of its parts, complete in a single file: no network, no
//! script, no other file. It does not know which tables and figures there are.

use std::fs;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::artifacts::ArtifactError;
use crate::figure::{self, FigureEntry};
use crate::table::Table;

const PAGE: &str = include_str!("page.html");

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
    const ABOUT: &'static str = "One self-contained HTML page with all tables and figures";
    const VERSION: u32 = 3;
    const INPUTS: &'static [Port] = &[Port::many("parts")];

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let mut tables = Vec::new();
        let mut figures = Vec::new();
        for part in job.inputs.all("parts") {
            if part.join(figure::LIST).exists() {
                figures.extend(figure::read(part)?);
                continue;
            }
            let found = tables_of(part)?;
            if found.is_empty() {
                return Err(StageError::input(
                    "parts",
                    part,
                    "holds neither a table (.json) nor figures.json",
                ));
            }
            tables.extend(found);
        }
        let page = render(params, &tables, &figures)
            .map_err(|error| StageError::failed(format!("the page cannot be rendered: {error:#}")))?;
        let path = job.out.join("index.html");
        fs::write(&path, page).map_err(|error| ArtifactError::new(&path, error))?;
        Ok(())
    }
}

/// The tables of a folder, in the order in which they are to be read.
fn tables_of(dir: &Path) -> Result<Vec<Table>, ArtifactError> {
    let entries = fs::read_dir(dir).map_err(|error| ArtifactError::new(dir, error))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| ArtifactError::new(dir, error))?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut tables = paths.iter().map(|path| Table::read(path)).collect::<Result<Vec<_>, _>>()?;
    tables.sort_by_key(|table| table.place);
    Ok(tables)
}

fn render(
    params: &Params,
    tables: &[Table],
    figures: &[(FigureEntry, String)],
) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    let tables: Vec<Value> = tables.iter().map(table_value).collect();
    let figures: Vec<Value> = figures
        .iter()
        // The picture is this program's own SVG, made with escaped text, so it goes in as it is.
        .map(|(entry, svg)| context! { name => &entry.name, svg => Value::from_safe_string(svg.clone()) })
        .collect();
    environment.render_str(
        PAGE,
        context! {
            title => &params.title,
            profile => &params.profile,
            about => &params.about,
            statement => &params.statement,
            tables,
            figures,
        },
    )
}

/// A table as the page needs it.
fn table_value(table: &Table) -> Value {
    context! {
        name => &table.name,
        title => &table.title,
        caption => &table.caption,
        // The table's own HTML, made with escaped text.
        html => Value::from_safe_string(table.html()),
        notes => &table.notes,
    }
}

#[cfg(test)]
mod tests {
    use stage_api::testing::run_stage;

    use super::*;
    use crate::table::{Cell, Column};

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
    fn the_page_is_one_file_with_text_escaped_and_nothing_from_elsewhere() {
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
