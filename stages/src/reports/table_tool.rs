//! `repro table`: shows a table that a step has written, in a terminal or in any of its forms. It does not know what the
//! numbers mean.

use stage_api::{Answer, Arg, Count, Desk, StageError, Tool, ToolArgs};

use crate::reports::cost;
use crate::reports::table::Table;

/// The tables: what a user calls them, the step that makes them, the name of their files.
const TABLES: [(&str, &str, &str); 10] = [
    ("1", "table-1", "table-1"),
    ("cost", "table-1", cost::NAME),
    ("2", "table-2", "table-2"),
    ("metrics", "table-2", "table-2-metrics"),
    ("tests", "table-2", "table-2-tests"),
    ("confusion", "table-2", "table-2-confusion"),
    ("claims", "claims", "claims"),
    ("shift", "table-shift", "table-shift"),
    ("seeds", "table-2-seeds", "table-2"),
    ("vilbert", "table-2-vilbert", "table-2"),
];

/// The tool.
pub(crate) struct ShowTable;

impl Tool for ShowTable {
    fn name(&self) -> &'static str {
        "table"
    }

    fn about(&self) -> &'static str {
        "Show a table of the paper\n\nThe table comes from the newest result of its step; `repro make` makes it."
    }

    fn args(&self) -> &'static [Arg] {
        const ARGS: &[Arg] = &[
            Arg::positional(
                "table",
                Count::One,
                "1, cost, 2, metrics, tests, confusion, claims, shift, seeds or vilbert",
            ),
            Arg::option(
                "--format",
                "FORM",
                Count::Optional,
                "md, latex, html, csv or json instead of a drawing",
            ),
        ];
        ARGS
    }

    fn run(&self, args: &ToolArgs, desk: &Desk) -> Result<Answer, StageError> {
        let wanted = args.get("table").unwrap_or_default();
        let Some((_, step, name)) = TABLES.iter().find(|(called, _, _)| *called == wanted) else {
            let names = TABLES.map(|(called, _, _)| called).join(", ");
            return Err(StageError::Params(format!("there is no table `{wanted}`; there are {names}")));
        };
        let table = Table::read(&desk.results.output(step)?.join(format!("{name}.json")))?;
        let table = if name == &cost::NAME { cost::with_runs(table, desk.results) } else { table };
        let json = serde_json::to_string_pretty(&table).map_err(StageError::failed)?;
        let text = match args.get("--format") {
            None => table.drawn(desk.columns),
            Some("md") => table.markdown(),
            Some("latex") => table.latex(),
            Some("html") => table.html_page(),
            Some("csv") => String::from_utf8_lossy(&table.csv().map_err(StageError::failed)?).into_owned(),
            Some("json") => format!("{json}\n"),
            Some(other) => {
                let problem = format!("there is no form `{other}`; there are md, latex, html, csv, json");
                return Err(StageError::Params(problem));
            }
        };
        Ok(Answer { text, json, stale: false })
    }
}
