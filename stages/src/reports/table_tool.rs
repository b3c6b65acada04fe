//! `repro table`: shows a table that a step has written, in a terminal or in any of its forms. It does not know what the
//! numbers mean.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use stage_api::{Answer, StageError, Tool, ToolContext};

use crate::reports::CLASS_TABLE;
use crate::reports::cost;
use crate::reports::table::Table;

/// The tables: what a user calls them, the step that makes them, the name of their files.
const TABLES: [(&str, &str, &str); 13] = [
    ("1", "table-1", "table-1"),
    ("cost", "table-1", cost::NAME),
    ("2", "table-2", "table-2"),
    ("metrics", "table-2", "table-2-metrics"),
    ("tests", "table-2", "table-2-tests"),
    ("confusion", "table-2", "table-2-confusion"),
    ("classes", "table-2", CLASS_TABLE),
    ("claims", "claims", "claims"),
    ("shift", "table-shift", "table-shift"),
    ("seeds", "table-2-seeds", "table-2"),
    ("regions", "table-regions", "table-regions"),
    ("vilbert", "table-2-vilbert", "table-2"),
    ("mmh-classes", "table-2-mmh-classes", "table-2"),
];

/// The tool.
pub(crate) struct ShowTable;

/// Show a table of the paper
///
/// The table comes from the newest result of its step; `repro make` makes it.
#[derive(Args)]
pub(crate) struct TableArgs {
    /// Which table.
    #[arg(value_parser = PossibleValuesParser::new(TABLES.map(|(called, _, _)| called)))]
    table: String,
    /// Print the table in this form instead of drawing it.
    #[arg(long, value_name = "FORM")]
    format: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Md,
    Latex,
    Html,
    Csv,
    Json,
}

impl Tool for ShowTable {
    type Args = TableArgs;
    const NAME: &'static str = "table";

    fn run(&self, args: &TableArgs, context: &ToolContext) -> Result<Answer, StageError> {
        let known = TABLES.iter().find(|(called, _, _)| *called == args.table);
        let (_, step, name) = known.ok_or_else(|| StageError::Params("there is no such table".to_owned()))?;
        let file = context.results.output(step)?.join(format!("{name}.json"));
        if !file.exists() {
            let problem = format!(
                "the step `{step}` wrote no table `{name}`: runs with two classes have none of each class"
            );
            return Err(StageError::Params(problem));
        }
        let table = Table::read(&file)?;
        let table = if name == &cost::NAME { cost::with_runs(table, context.results) } else { table };
        let json = serde_json::to_string_pretty(&table).map_err(StageError::failed)?;
        let text = match args.format {
            None => table.drawn(context.columns),
            Some(Format::Md) => table.markdown(),
            Some(Format::Latex) => table.latex(),
            Some(Format::Html) => table.html_page(),
            Some(Format::Csv) => {
                String::from_utf8_lossy(&table.csv().map_err(StageError::failed)?).into_owned()
            }
            Some(Format::Json) => format!("{json}\n"),
        };
        Ok(Answer { text, json, stale: false })
    }
}
