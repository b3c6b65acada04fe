//! A table in HTML: the element that a page embeds, and a page of its own. It does not know what the numbers mean.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Cell, Table};

/// Enough to read a table on a page of its own.
const STYLE: &str = "body { font: 1rem/1.5 sans-serif; margin: 2rem; color-scheme: light dark; } \
    table { border-collapse: collapse; font-variant-numeric: tabular-nums; } \
    th, td { padding: .3rem .6rem; text-align: left; vertical-align: bottom; } \
    tbody th { font-weight: inherit; } td.number, .short, .interval { white-space: nowrap; } .interval { display: block; } \
    thead, tbody { border-top: 1px solid; border-bottom: 1px solid; } \
    .number { text-align: right; } .group { text-align: center; } .missing { font-style: italic; }";

/// Words of at most so many letters stay on one line.
const SHORT: usize = 12;

impl Table {
    /// The `<table>` element: neighbouring columns of one group under one heading.
    pub fn html(&self) -> String {
        self.written_html(None, &|_, _| None)
    }

    /// The same for a page where the table has the anchor `anchor`: each row has an anchor of its own,
    /// `table-2-hateful-memes-pe`, and a link to it, and the content of a row's column is a link where `target` gives one.
    pub fn linked_html(&self, anchor: &str, target: &dyn Fn(&[Cell], usize) -> Option<String>) -> String {
        self.written_html(Some(anchor), target)
    }

    fn written_html(
        &self,
        anchor: Option<&str>,
        target: &dyn Fn(&[Cell], usize) -> Option<String>,
    ) -> String {
        let rows = anchor.map(|_| self.row_names());
        let mut text = String::from("<table>\n<thead>\n");
        let groups = self.groups();
        // Writing to a string does not fail.
        if groups.len() > 1 {
            text.push_str("<tr>\n");
            for (place, (title, width)) in groups.iter().enumerate() {
                let starts = if place == 0 { "" } else { " starts" };
                let _ = match title.is_empty() {
                    true => writeln!(text, "<td class=\"{}\" colspan=\"{width}\"></td>", starts.trim()),
                    false => writeln!(
                        text,
                        "<th class=\"group{starts}\" colspan=\"{width}\" scope=\"colgroup\">{}</th>",
                        escaped(title)
                    ),
                };
            }
            text.push_str("</tr>\n");
        }
        text.push_str("<tr>\n");
        for (place, column) in self.columns.iter().enumerate() {
            let class = self.class(place, column.numeric);
            let _ = writeln!(text, "<th scope=\"col\" class=\"{class}\">{}</th>", escaped(&column.title));
        }
        text.push_str("</tr>\n</thead>\n<tbody>\n");
        for (at, row) in self.rows.iter().enumerate() {
            let id = anchor.zip(rows.as_ref()).map(|(anchor, rows)| format!("{anchor}-{}", rows[at]));
            match &id {
                Some(id) => text.push_str(&format!("<tr id=\"{id}\">\n")),
                None => text.push_str("<tr>\n"),
            }
            for (place, cell) in row.iter().enumerate() {
                let interval = cell
                    .interval()
                    .map(|interval| format!(" <span class=\"interval\">({})</span>", escaped(&interval)));
                let shown = escaped(&cell.value()) + &interval.unwrap_or_default();
                let shown = match target(row, place) {
                    Some(target) => format!("<a href=\"{}\">{shown}</a>", escaped(&target)),
                    None => shown,
                };
                if place == 0 {
                    let link = id.as_ref().map(|id| {
                        format!(" <a class=\"anchor\" href=\"#{id}\" aria-label=\"Link to this row\">#</a>")
                    });
                    let _ = writeln!(text, "<th scope=\"row\">{shown}{}</th>", link.unwrap_or_default());
                    continue;
                }
                let (kind, flush) = match cell {
                    Cell::Missing(_) => ("missing ", false),
                    Cell::None => ("none ", true),
                    // `Full-FT` is no place to break a line at.
                    Cell::Text(text) if text.chars().count() <= SHORT => ("short ", true),
                    _ => ("", true),
                };
                let class = self.class(place, flush && self.columns[place].numeric);
                let _ = writeln!(text, "<td class=\"{}\">{shown}</td>", format!("{kind}{class}").trim());
            }
            text.push_str("</tr>\n");
        }
        text.push_str("</tbody>\n</table>");
        text
    }

    /// A name for each row that fits into an address: its leading texts, as many as distinguish the rows, or its number.
    fn row_names(&self) -> Vec<String> {
        let words = self.columns.iter().take_while(|column| !column.numeric).count();
        let named = |count: usize| -> Vec<String> {
            let name =
                |row: &Vec<Cell>| slug(&row[..count].iter().map(Cell::value).collect::<Vec<_>>().join(" "));
            self.rows.iter().map(name).collect()
        };
        let distinct = |names: &Vec<String>| {
            names.iter().collect::<BTreeSet<_>>().len() == names.len()
                && names.iter().all(|name| !name.is_empty())
        };
        let by_number = || (1..=self.rows.len()).map(|number| format!("row-{number}")).collect();
        (1..=words).map(named).find(distinct).unwrap_or_else(by_number)
    }

    /// The table as a page of its own.
    pub fn html_page(&self) -> String {
        let title = escaped(&self.title);
        let notes: String = self.notes.iter().map(|note| format!("<p>{}</p>\n", escaped(note))).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{}</p>\n{}\n{notes}</body>\n</html>\n",
            escaped(&self.caption),
            self.html()
        )
    }

    /// The classes of a column's cells: numbers flush right, a rule where a group begins.
    fn class(&self, place: usize, number: bool) -> &'static str {
        let starts = place > 0 && self.columns[place].group != self.columns[place - 1].group;
        match (number, starts) {
            (true, true) => "number starts",
            (true, false) => "number",
            (false, true) => "starts",
            (false, false) => "",
        }
    }
}

/// Letters and digits of a text in small letters, one hyphen for whatever is between them.
fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
