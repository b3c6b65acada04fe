//! One model of a table and the forms it is written in: Markdown to read on a forge, LaTeX for a paper, HTML for a page,
//! a drawing for a terminal, CSV and JSON to compute with. The JSON form is the model itself: `report` and
//! `repro table` read it back. It does not know what the numbers mean.

mod cell;
mod html;
mod latex;
mod terminal;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::artifacts::{ArtifactError, Result, read_json, write_json};

pub use cell::{Cell, thousands};

/// A table with all that is needed to understand it on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Name of its files, without an ending: `table-1`.
    pub name: String,
    /// Its place among the tables of its step, from 0.
    pub place: u8,
    /// What it is called: `Table I: parameters`.
    pub title: String,
    /// What it shows and which profile it is of.
    pub caption: String,
    /// The columns, left to right.
    pub columns: Vec<Column>,
    /// The rows, top to bottom, one cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// Remarks below it.
    pub notes: Vec<String>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name in CSV.
    pub key: String,
    /// The heading it shares with its neighbours of the same group; empty for none.
    pub group: String,
    /// Its own heading.
    pub title: String,
    /// Whether it holds numbers, which are set flush right.
    pub numeric: bool,
    /// Whether its values follow from others of the table, so that `repro diff` shows them only if asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub derived: bool,
}

impl Column {
    /// A column of words without a group.
    pub fn words(key: &str, title: &str) -> Self {
        Self {
            key: key.to_owned(),
            group: String::new(),
            title: title.to_owned(),
            numeric: false,
            derived: false,
        }
    }

    /// A column of numbers in `group`.
    pub fn numbers(key: &str, group: &str, title: &str) -> Self {
        Self {
            key: key.to_owned(),
            group: group.to_owned(),
            title: title.to_owned(),
            numeric: true,
            derived: false,
        }
    }

    /// The column with values that follow from others of the table.
    pub fn derived(self) -> Self {
        Self { derived: true, ..self }
    }
}

impl Table {
    /// Writes `<name>.md`, `<name>.tex`, `<name>.html`, `<name>.csv` and `<name>.json` into `dir`. A value that is no finite number,
    /// such as a share of nothing, is written as undefined: JSON has no such numbers.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let rows = self.rows.iter().map(|row| row.iter().map(Cell::or_undefined).collect());
        let table = Self { rows: rows.collect(), ..self.clone() };
        let write = |ending: &str, text: Vec<u8>| {
            let path = dir.join(format!("{}.{ending}", table.name));
            fs::write(&path, text).map_err(|error| ArtifactError::new(&path, error))
        };
        write("md", table.markdown().into_bytes())?;
        write("tex", table.latex().into_bytes())?;
        write("html", table.html_page().into_bytes())?;
        write("csv", table.csv().map_err(|error| ArtifactError::new(dir, error))?)?;
        write_json(&dir.join(format!("{}.json", table.name)), &table)
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// A file that is not a table, or a row that has not one cell for each column.
    pub fn read(path: &Path) -> Result<Self> {
        let table: Self = read_json(path)?;
        match table.rows.iter().position(|row| row.len() != table.columns.len()) {
            Some(row) => Err(ArtifactError::new(path, format!("row {} does not fit the columns", row + 1))),
            None => Ok(table),
        }
    }

    /// The table in Markdown: title, caption, rows, notes. Groups become part of the headings.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("# {}\n\n{}\n\n", no_html(&self.title), no_html(&self.caption));
        text += &line(self.columns.iter().map(|column| escaped(&column.heading())).collect());
        text += &line(
            self.columns.iter().map(|column| if column.numeric { "---:" } else { "---" }.into()).collect(),
        );
        for row in &self.rows {
            text += &line(row.iter().map(|cell| escaped(&cell.shown())).collect());
        }
        for note in &self.notes {
            text += &format!("\n{}\n", no_html(note));
        }
        text
    }

    /// The table in CSV, numbers in full. A column with deviations or intervals is followed by columns named `…_sd`, or
    /// `…_low` and `…_high`.
    pub fn csv(&self) -> std::result::Result<Vec<u8>, String> {
        let extra_columns: Vec<Vec<&str>> = (0..self.columns.len())
            .map(|column| {
                let mut endings: Vec<&str> = self
                    .rows
                    .iter()
                    .flat_map(|row| row[column].extra_columns())
                    .map(|(ending, _)| ending)
                    .collect();
                endings
                    .sort_unstable_by_key(|ending| ["_sd", "_low", "_high"].iter().position(|e| e == ending));
                endings.dedup();
                endings
            })
            .collect();
        let mut file = csv::Writer::from_writer(Vec::new());
        let mut write = |fields: Vec<String>| file.write_record(fields).map_err(|error| error.to_string());
        let headings = self.columns.iter().zip(&extra_columns).flat_map(|(column, extra_columns)| {
            let more = extra_columns.iter().map(|ending| format!("{}{ending}", column.key));
            std::iter::once(column.key.clone()).chain(more).collect::<Vec<_>>()
        });
        write(headings.collect())?;
        for row in &self.rows {
            let cells = row.iter().zip(&extra_columns).flat_map(|(cell, extra_columns)| {
                let values = cell.extra_columns();
                let more = extra_columns.iter().map(|ending| {
                    let found = values.iter().find(|(name, _)| name == ending);
                    found.map_or_else(String::new, |(_, value)| value.to_string())
                });
                std::iter::once(cell.raw()).chain(more).collect::<Vec<_>>()
            });
            write(cells.collect())?;
        }
        file.into_inner().map_err(|error| error.to_string())
    }

    /// Neighbouring columns of one group: its heading and how many they are.
    fn groups(&self) -> Vec<(&str, usize)> {
        let of = self.columns.chunk_by(|a, b| a.group == b.group);
        of.map(|columns| (columns[0].group.as_str(), columns.len())).collect()
    }
}

impl Column {
    fn heading(&self) -> String {
        if self.group.is_empty() { self.title.clone() } else { format!("{} ({})", self.title, self.group) }
    }
}

fn escaped(text: &str) -> String {
    no_html(text).replace('|', "\\|").replace('\n', " ")
}

/// Text in Markdown in which nothing begins an element of HTML: a description comes from outside.
fn no_html(text: &str) -> String {
    let begins =
        |after: &str| after.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
    let parts: Vec<&str> = text.split('<').collect();
    parts.iter().enumerate().fold(String::new(), |text, (place, part)| {
        let bracket = if place == 0 {
            ""
        } else if begins(part) {
            "&lt;"
        } else {
            "<"
        };
        text + bracket + part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            name: "table-9".into(),
            place: 0,
            title: "Table IX: a test".into(),
            caption: "Profile mini.".into(),
            columns: vec![
                Column::words("mode", "Mode"),
                Column::numbers("auc", "here", "ROC-AUC"),
                Column::numbers("difference", "", "Difference"),
            ],
            rows: vec![
                vec![
                    Cell::Text("a|b".into()),
                    Cell::Mean { value: 0.728077, sd: 0.01, places: 4 },
                    Cell::Difference { value: -0.25, places: 2 },
                ],
                vec![Cell::Text("c".into()), Cell::Missing("no run".into()), Cell::None],
            ],
            notes: vec!["A note.".into()],
        }
    }

    #[test]
    fn markdown_shows_what_a_person_reads() {
        let expected = "# Table IX: a test\n\nProfile mini.\n\n\
                        | Mode | ROC-AUC (here) | Difference |\n| --- | ---: | ---: |\n\
                        | a\\|b | 0.7281 ± 0.0100 | \u{2212}0.25 |\n| c | no run | – |\n\nA note.\n";
        assert_eq!(table().markdown(), expected);
    }

    #[test]
    fn markdown_holds_no_html_of_a_description() {
        let mut table = table();
        let html = "<script>x</script> <!-- <img src=x onerror=y> <?x 1 < 2 <3";
        (table.title, table.caption, table.notes) = (html.into(), html.into(), vec![html.into()]);
        table.rows[0][0] = Cell::Text(html.into());
        let shown = "&lt;script>x&lt;/script> &lt;!-- &lt;img src=x onerror=y> &lt;?x 1 < 2 <3";
        assert_eq!(table.markdown().matches(shown).count(), 4, "{}", table.markdown());
    }

    #[test]
    fn csv_holds_full_precision_and_deviations_of_their_own() {
        let text = String::from_utf8(table().csv().unwrap()).unwrap();
        assert_eq!(text, "mode,auc,auc_sd,difference\na|b,0.728077,0.01,-0.25\nc,,,\n");
    }

    #[test]
    fn rows_have_anchors_on_a_page_and_none_in_the_file() {
        let mut table = table();
        let anchors = |table: &Table| -> Vec<String> {
            let html = table.linked_html("t", &|_, _| None);
            html.split("<tr id=\"").skip(1).map(|row| row.split('"').next().unwrap().to_owned()).collect()
        };
        assert_eq!(anchors(&table), ["t-a-b", "t-c"]);
        assert!(table.linked_html("t", &|_, _| None).contains("<a class=\"anchor\" href=\"#t-a-b\""));
        assert!(!table.html().contains("id=") && !table.html_page().contains("anchor"));
        table.rows[1][0] = Cell::Text("A | B!".into());
        assert_eq!(anchors(&table), ["t-row-1", "t-row-2"], "two rows of one name have numbers");
    }

    #[test]
    fn what_is_no_finite_number_is_written_as_undefined() {
        let dir = tempfile::tempdir().unwrap();
        let undefined = |cell: Cell| {
            let mut table = table();
            table.rows[0][1] = cell;
            table.write(dir.path()).unwrap();
            let read = Table::read(&dir.path().join(format!("{}.json", table.name))).unwrap();
            read.rows[0][1] == Cell::Missing("undefined".to_owned())
        };
        let (places, inf, nan) = (1, f64::INFINITY, f64::NAN);
        for cell in [
            Cell::Share { value: inf, places },
            Cell::Number { value: nan, places },
            Cell::Difference { value: -inf, places },
            Cell::Mean { value: 0.5, sd: nan, places },
            Cell::Estimate { value: 0.5, low: nan, high: 1.0, places },
            Cell::ShareEstimate { value: 0.5, low: 0.0, high: inf, places },
            Cell::Interval { low: -inf, high: 0.0, places },
            Cell::PValue(nan),
        ] {
            assert!(undefined(cell.clone()), "{cell:?}");
        }
        assert!(!undefined(Cell::Estimate { value: 0.5, low: 0.25, high: 0.75, places }));
    }

    #[test]
    fn json_reads_back_and_refuses_a_short_row() {
        let dir = tempfile::tempdir().unwrap();
        table().write(dir.path()).unwrap();
        assert_eq!(Table::read(&dir.path().join("table-9.json")).unwrap(), table());
        let mut short = table();
        short.rows[1].pop();
        let path = dir.path().join("short.json");
        write_json(&path, &short).unwrap();
        assert!(Table::read(&path).unwrap_err().to_string().contains("row 2"));
    }

    #[test]
    fn csv_has_a_column_for_each_end_of_an_interval() {
        let mut table = table();
        table.rows[0][2] = Cell::Interval { low: 0.25, high: 0.5, places: 2 };
        let text = String::from_utf8(table.csv().unwrap()).unwrap();
        assert_eq!(
            text,
            "mode,auc,auc_sd,difference,difference_low,difference_high\na|b,0.728077,0.01,,0.25,0.5\nc,,,,,\n"
        );
        assert_eq!(table.rows[0][2].shown(), "0.25 to 0.50");
        assert_eq!([0.0004, 0.25].map(|p| Cell::PValue(p).shown()), ["< 0.001", "0.250"]);
    }

    #[test]
    fn latex_and_html_escape_what_they_are_given() {
        let mut table = table();
        table.rows[0][0] = Cell::Text("50% of a_b & <c>".into());
        let latex = table.latex();
        assert!(
            latex.contains("50\\% of a\\_b \\& $<$c$>$ & 0.7281 $\\pm$ 0.0100 & $-$0.25 \\\\"),
            "{latex}"
        );
        assert!(
            latex.contains("\\multicolumn{1}{c}{here}") && latex.contains("\\cmidrule(lr){2-2}"),
            "{latex}"
        );
        let html = table.html_page();
        assert!(html.contains("50% of a_b &amp; &lt;c&gt;"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 4);
    }

    #[test]
    fn the_drawing_keeps_to_the_width_of_the_terminal_and_breaks_at_words() {
        let mut table = table();
        table.caption = "A caption of more words than fit into one line of the terminal.".into();
        table.columns.push(Column::numbers("at", "here", "at update"));
        table.columns.swap(2, 3);
        table.rows = vec![vec![
            Cell::Text("adapters of a ViLBERT".into()),
            Cell::Number { value: 0.728_077, places: 4 },
            Cell::Count(19_000),
            Cell::Difference { value: -0.25, places: 2 },
        ]];
        assert_eq!(
            table.drawn(Some(34)).lines().collect::<Vec<_>>(),
            [
                "Table IX: a test",
                "A caption of more words than fit",
                "into one line of the terminal.",
                "──────────────────────────────────",
                "         ──── here ────",
                "Mode     ROC-AUC     at Difference",
                "                 update",
                "══════════════════════════════════",
                "adapters  0.7281 19,000      −0.25",
                "of a",
                "ViLBERT",
                "──────────────────────────────────",
                "A note.",
            ]
        );
        assert_eq!(
            table.drawn(Some(33)).lines().skip(4).collect::<Vec<_>>(),
            [
                "Mode: adapters of a ViLBERT",
                "ROC-AUC (here): 0.7281",
                "at update (here): 19,000",
                "Difference: −0.25",
                "─────────────────────────────────",
                "A note.",
            ]
        );
        for columns in [20, 28, 40, 60] {
            let text = table.drawn(Some(columns));
            assert!(text.lines().all(|line| line.chars().count() <= columns), "{columns}: {text}");
            for word in ["ROC-AUC", "update", "Difference", "adapters", "ViLBERT", "0.7281", "19,000", "here"]
            {
                assert!(text.contains(word), "{columns}: {word}: {text}");
            }
        }
        assert!(self::table().drawn(None).contains("0.7281 ± 0.0100"));
    }

    #[test]
    fn numbers_are_grouped_and_signed() {
        assert_eq!(thousands(112_044_290), "112,044,290");
        assert_eq!([thousands(999), thousands(1000)], ["999", "1,000"]);
        assert_eq!(Cell::Difference { value: 0.012, places: 2 }.shown(), "+0.01");
        assert_eq!(Cell::Difference { value: -0.0001, places: 2 }.shown(), "0.00");
        // More decimals than `format!` takes cannot even be read.
        let read = |places: u32| {
            serde_json::from_str::<Cell>(&format!("{{\"number\": {{\"value\": 0.5, \"places\": {places}}}}}"))
        };
        assert_eq!(read(1).unwrap().shown(), "0.5");
        assert!(read(70_000).is_err());
        assert_eq!(Cell::Share { value: 0.005_298_5, places: 2 }.shown(), "0.53 %");
    }
}
