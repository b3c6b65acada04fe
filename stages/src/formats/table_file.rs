//! Reads tables out of bytes: CSV, TSV and JSON lines, with named columns. It knows their forms, not what a column means.
//!
//! A file is JSON lines if its name says so (`.jsonl`, `.ndjson`, `.json`) or its first character is `{`. Otherwise it is
//! delimited text with names in its first line: by tabs in a `.tsv` or `.tab`, and else by whichever of comma, semicolon and
//! tab that line has most of.

use std::collections::HashMap;

use csv::{ReaderBuilder, StringRecord, Trim};
use serde_json::{Map, Value};

use super::dataset_files::{self, Text};
use super::file_kind;

/// A table.
#[derive(Debug, PartialEq)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows in the order of the file.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// Its first line in the file, from 1.
    pub line: usize,
    /// Its cells by column, the last ones left out where it has none; or why it is not a row.
    pub cells: Result<Vec<Cell>, String>,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// JSON without that name, or with `null`.
    Missing,
    /// A text; a number or a truth value of JSON as JSON writes it.
    Text(String),
    /// A list of texts, in JSON alone.
    List(Vec<String>),
}

impl Row {
    /// The cell of a column; [`Cell::Missing`] for a row that cannot be read.
    pub fn cell(&self, column: usize) -> &Cell {
        self.cells.as_ref().ok().and_then(|cells| cells.get(column)).unwrap_or(&Cell::Missing)
    }
}

/// Reads the table in the text of a file called `name`.
///
/// # Errors
/// A sentence about a file that is no table: other bytes than text, no names of columns, one name twice, a quote that is
/// never closed. A row that is wrong in itself is reported in its place.
pub fn read(name: &str, text: &Text) -> Result<Table, String> {
    let text = text.text.as_ref();
    if text.contains('\0') {
        return Err(file_kind::mismatch("CSV, TSV or JSON lines in UTF-8", text.as_bytes()));
    }
    let lower = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    let begin = text.trim_start().chars().next();
    if ends(&[".jsonl", ".ndjson", ".json"]) || begin == Some('{') {
        return match begin {
            Some('[') => Err("is one JSON array; write one object a line, as `to_json(…, orient=\"records\", lines=True)` of \
                              pandas does"
                .to_owned()),
            _ => Ok(json_lines(text)),
        };
    }
    delimited(text, if ends(&[".tsv", ".tab"]) { b'\t' } else { delimiter(text) })
}

/// The delimiter that the first line has most of, outside of quotes.
fn delimiter(text: &str) -> u8 {
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0)];
    for byte in text.trim_start().lines().next().unwrap_or_default().bytes() {
        quoted ^= byte == b'"';
        if let Some((_, count)) = counts.iter_mut().find(|(delimiter, _)| !quoted && *delimiter == byte) {
            *count += 1;
        }
    }
    // The first of equals.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| delimiter)
}

fn delimited(text: &str, delimiter: u8) -> Result<Table, String> {
    let mut records = Records::new(text.as_bytes(), delimiter, Trim::Headers);
    let names = records.next().transpose()?.map(|record| record.fields).unwrap_or_default();
    let columns: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    if columns.iter().all(String::is_empty) {
        return Err("has no line with the names of its columns".to_owned());
    }
    if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
        return Err(format!("names the column `{}` twice", file_kind::shown(twice.1)));
    }
    let mut rows = Vec::new();
    for record in records {
        let Record { line, lines, is_open, fields } = record?;
        let is_whole = fields.len() == columns.len();
        // A quote that is never closed takes the rows after it for its text.
        if is_open || (lines > 1 && !is_whole) {
            return Err(format!("line {line}: a quote is left open: the row goes on for {lines} lines"));
        }
        let cells = match is_whole {
            true => Ok(fields.iter().map(|cell| Cell::Text(cell.to_owned())).collect()),
            false => Err(format!("has {} fields, the first line {}", fields.len(), columns.len())),
        };
        rows.push(Row { line, cells });
    }
    Ok(Table { columns, rows })
}

fn json_lines(text: &str) -> Table {
    let (mut columns, mut places, mut rows) = (Vec::new(), HashMap::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let object = serde_json::from_str::<Map<String, Value>>(&dataset_files::mended(line));
        let cells = object.map_err(|error| file_kind::json_in_line(&error)).map(|object| {
            let mut cells = vec![Cell::Missing; columns.len()];
            for (name, value) in object {
                let at = *places.entry(name.clone()).or_insert_with(|| {
                    columns.push(name);
                    columns.len() - 1
                });
                if at >= cells.len() {
                    cells.resize(at + 1, Cell::Missing);
                }
                cells[at] = cell(value);
            }
            cells
        });
        rows.push(Row { line: number, cells });
    }
    Table { columns, rows }
}

fn cell(value: Value) -> Cell {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    match value {
        Value::Null => Cell::Missing,
        Value::Array(values) => Cell::List(values.into_iter().map(text).collect()),
        other => Cell::Text(text(other)),
    }
}

/// A record of delimited text.
pub struct Record {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// How many lines it has: a quoted field may hold ends of lines.
    pub lines: usize,
    /// Whether it goes on over ends of lines and has a quote without another.
    pub is_open: bool,
    /// Its fields.
    pub fields: StringRecord,
}

/// The records of delimited text, the first line among them; blank lines are none.
pub struct Records<'a> {
    bytes: &'a [u8],
    records: csv::StringRecordsIntoIter<&'a [u8]>,
    /// The line at the byte `counted`.
    line: usize,
    counted: usize,
}

impl<'a> Records<'a> {
    /// The records of `bytes`.
    pub fn new(bytes: &'a [u8], delimiter: u8, trim: Trim) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            .trim(trim)
            .from_reader(bytes);
        Self { bytes, records: reader.into_records(), line: 1, counted: 0 }
    }

    /// Counts lines up to `to`.
    fn count(&mut self, to: usize) -> usize {
        let to = to.clamp(self.counted, self.bytes.len());
        self.line += self.bytes[self.counted..to].iter().filter(|byte| **byte == b'\n').count();
        self.counted = to;
        self.line
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let fields = match self.records.next()? {
            Ok(fields) => fields,
            Err(error) => return Some(Err(error.to_string())),
        };
        // The position is that of the end of the record before: ends of lines come first.
        let before = fields.position().map_or(0, |position| position.byte() as usize);
        let is_end = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
        let start = before + self.bytes.get(before..).unwrap_or_default().iter().take_while(is_end).count();
        let end = self.records.reader().position().byte() as usize;
        let line = self.count(start);
        let within = self.bytes.get(start..end).unwrap_or_default().trim_ascii_end();
        let count = |what: u8| within.iter().filter(|byte| **byte == what).count();
        let lines = count(b'\n') + 1;
        Some(Ok(Record { line, lines, is_open: lines > 1 && count(b'"') % 2 == 1, fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Table, String> {
        read(name, &dataset_files::text(bytes))
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    #[test]
    fn delimited_text_has_its_rows_with_their_lines() {
        let csv = b"\xef\xbb\xbfid, text ,label\r\n1,\"a, \"\"b\"\"\nc\",0\r\n\r\n2, d ,\r\n3,e\r\n4,f,1";
        let table = read_bytes("memes.csv", csv).unwrap();
        assert_eq!(table.columns, ["id", "text", "label"]);
        let row =
            |line, cells: &[&str]| Row { line, cells: Ok(cells.iter().map(|cell| text(cell)).collect()) };
        assert_eq!(table.rows[0], row(2, &["1", "a, \"b\"\nc", "0"]));
        assert_eq!(table.rows[1], row(5, &["2", " d ", ""]));
        assert_eq!(table.rows[2], Row { line: 6, cells: Err("has 2 fields, the first line 3".to_owned()) });
        assert_eq!((table.rows[3].line, table.rows[3].cell(2)), (7, &text("1")));
        for (name, bytes) in [
            ("a.tsv", &b"id\ttext\n1\ta,b;c\n"[..]),
            ("a", b"id;text\n1;a,b\n"),
            ("a.txt", b"id\ttext\n1\ta\n"),
        ] {
            assert_eq!(read_bytes(name, bytes).unwrap().columns, ["id", "text"], "{name}");
        }
        assert_eq!(read_bytes("a.csv", b"\"a;b;c\",d\n").unwrap().columns, ["a;b;c", "d"]);
    }

    #[test]
    fn json_lines_have_the_columns_that_any_line_has() {
        let lines = b"{\"id\": 1, \"text\": \"a\"}\n\n{\"label\": [\"x\", 2], \"id\": \"b\", \"text\": null}\n{\n7\n{\"half\": \"\\ud83d\"}";
        let table = read_bytes("memes.jsonl", lines).unwrap();
        assert_eq!(table.columns, ["id", "text", "label", "half"]);
        assert_eq!([table.rows[0].cell(0), table.rows[0].cell(2)], [&text("1"), &Cell::Missing]);
        let list = Cell::List(vec!["x".to_owned(), "2".to_owned()]);
        assert_eq!([table.rows[1].cell(2), table.rows[1].cell(1)], [&list, &Cell::Missing]);
        assert_eq!(table.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
        assert!(table.rows[2].cells.as_ref().unwrap_err().starts_with("column 1: EOF"), "{table:?}");
        assert!(table.rows[3].cells.is_err());
        assert_eq!(table.rows[4].cell(3), &text("\u{fffd}"));
        assert_eq!(read_bytes("memes.csv", b" {\"id\": 1}\n").unwrap().columns, ["id"]);
    }

    #[test]
    fn what_is_no_table_is_named() {
        for (name, bytes, problem) in [
            ("a.csv", &b""[..], "has no line with the names of its columns"),
            ("a.csv", b"\n\n", "has no line with the names"),
            ("a.csv", b"id,text,id\n", "names the column `id` twice"),
            (
                "a.csv",
                b"id,text\n1,\"a\n2,b\n3,c\n",
                "line 2: a quote is left open: the row goes on for 3 lines",
            ),
            (
                "a.csv",
                b"id,text\n0,z\n\"1,a\n2,b\n3,\"c\n",
                "line 3: a quote is left open: the row goes on for 3 lines",
            ),
            ("a.json", b"[{\"id\": 1}]", "is one JSON array; write one object a line"),
            ("a.csv", b"PAR1\x15\0\x15", "is a Parquet file, not CSV, TSV or JSON lines in UTF-8"),
            ("a.csv", b"i\0d\0,\0", "is not CSV, TSV or JSON lines in UTF-8: it begins with"),
        ] {
            let error = read_bytes(name, bytes).unwrap_err();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
