//! One published file as HTML: pictures and tables as such, JSON as names and values, short text as it is. All text is
//! escaped. A file that is something else, or too large, is left to its link.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What all files together may add to the page; beyond that, files are links.
pub const BUDGET: u64 = 24 << 20;
/// A text of more bytes is a link.
const LONGEST_TEXT: u64 = 256 << 10;
/// A picture of more bytes is a link.
const LARGEST_PICTURE: u64 = 4 << 20;
/// Rows of a table, and values of a JSON file, that are shown.
const ROWS: usize = 200;
/// What a part of an address keeps as it is: the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a file is, by its ending; the order is that in which forms of one thing are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Picture(&'static str),
    Table(u8),
    Markdown,
    Json,
    Text,
    Other,
}

impl Kind {
    pub fn by_ending(file: &Path) -> Self {
        match file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("svg") => Self::Picture("image/svg+xml"),
            Some("png") => Self::Picture("image/png"),
            Some("jpg" | "jpeg") => Self::Picture("image/jpeg"),
            Some("gif") => Self::Picture("image/gif"),
            Some("webp") => Self::Picture("image/webp"),
            Some("csv") => Self::Table(b','),
            Some("tsv") => Self::Table(b'\t'),
            Some("md") => Self::Markdown,
            Some("json") => Self::Json,
            Some("txt" | "log" | "tex" | "yaml" | "yml" | "toml" | "ron" | "jsonl") | None => Self::Text,
            _ => Self::Other,
        }
    }
}

/// The content of a file; `None` where its link is enough.
pub fn html(path: &Path, size: u64, budget: &mut u64) -> Option<String> {
    let kind = Kind::by_ending(path);
    let limit = if matches!(kind, Kind::Picture(_)) { LARGEST_PICTURE } else { LONGEST_TEXT };
    if kind == Kind::Other || size > limit || size > *budget {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    *budget -= size.min(*budget);
    if let Kind::Picture(kind) = kind {
        // In an `img` no script of an SVG runs, and nothing that it names is loaded.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let uri = format!("data:{kind};base64,{}", STANDARD.encode(&bytes));
        return Some(format!("<img src=\"{uri}\" alt=\"{}\">\n", escape(&name)));
    }
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
    Some(match kind {
        Kind::Table(delimiter) => separated(&text, delimiter).unwrap_or_else(|| preformatted(&text)),
        Kind::Markdown => markdown(&text),
        Kind::Json => serde_json::from_str(&text).map_or_else(|_| preformatted(&text), |value| json(&value)),
        _ => preformatted(&text),
    })
}

/// A part of a path as part of an address.
pub fn address(part: &str) -> String {
    utf8_percent_encode(part, ENCODED).to_string()
}

pub fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

fn preformatted(text: &str) -> String {
    format!("<pre>{}</pre>\n", escape(text))
}

/// A CSV file as a table, its first line the heading; `None` when it is not one.
fn separated(text: &str, delimiter: u8) -> Option<String> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(text.as_bytes());
    let rows: Result<Vec<Vec<String>>, csv::Error> =
        reader.records().map(|row| Ok(row?.iter().map(ToOwned::to_owned).collect())).collect();
    let rows = rows.ok()?;
    let (head, body) = rows.split_first()?;
    Some(table(head, body))
}

fn table(head: &[String], body: &[Vec<String>]) -> String {
    let cell = |text: &String| match text.trim().trim_end_matches('%').trim_end().parse::<f64>() {
        Ok(_) => format!("<td class=\"number\">{}</td>", escape(text)),
        Err(_) => format!("<td>{}</td>", escape(text)),
    };
    let heads: String = head.iter().map(|text| format!("<th scope=\"col\">{}</th>", escape(text))).collect();
    let rows: String = body
        .iter()
        .take(ROWS)
        .map(|row| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>()))
        .collect();
    let more = match body.len().saturating_sub(ROWS) {
        0 => String::new(),
        more => format!("<p class=\"soft\">… and {more} more rows in the file.</p>\n"),
    };
    format!(
        "<div class=\"wide\" tabindex=\"0\">\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n{more}"
    )
}

/// Markdown: headings and pipe tables as such, everything else as it is written.
fn markdown(text: &str) -> String {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|');
        let line = line.strip_suffix('|').unwrap_or(line).replace("\\|", "\u{0}");
        line.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    };
    let is_row = |line: &&str| line.trim_start().starts_with('|');
    let is_rule = |line: &&str| is_row(line) && line.chars().all(|letter| "|:- \t".contains(letter));
    let lines: Vec<&str> = text.lines().collect();
    let (mut html, mut plain, mut at) = (String::new(), Vec::new(), 0);
    let flush = |plain: &mut Vec<&str>, html: &mut String| {
        let text = plain.join("\n");
        if !text.trim().is_empty() {
            html.push_str(&preformatted(text.trim_matches('\n')));
        }
        plain.clear();
    };
    while at < lines.len() {
        let begins = is_row(&lines[at]) && lines.get(at + 1).is_some_and(is_rule);
        if begins {
            flush(&mut plain, &mut html);
            let body: Vec<Vec<String>> =
                lines[at + 2..].iter().take_while(|line| is_row(line)).map(|line| cells(line)).collect();
            html.push_str(&table(&cells(lines[at]), &body));
            at += 2 + body.len();
            continue;
        }
        match lines[at].strip_prefix('#') {
            Some(heading) => {
                flush(&mut plain, &mut html);
                html.push_str(&format!("<h4>{}</h4>\n", escape(heading.trim_start_matches('#').trim())));
            }
            None => plain.push(lines[at]),
        }
        at += 1;
    }
    flush(&mut plain, &mut html);
    html
}

/// JSON: an object as names and values, nested names joined by dots; anything else as it is written.
fn json(value: &Value) -> String {
    let mut rows = Vec::new();
    if value.is_object() && flatten("", value, &mut rows) {
        return table(&["Name".to_owned(), "Value".to_owned()], &rows);
    }
    preformatted(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Adds the plain values of an object; false where it holds lists of objects, which are no names and values.
fn flatten(at: &str, value: &Value, rows: &mut Vec<Vec<String>>) -> bool {
    match value {
        Value::Object(fields) => fields.iter().all(|(name, value)| {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            flatten(&at, value, rows)
        }),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => false,
        Value::String(text) => {
            rows.push(vec![at.to_owned(), text.clone()]);
            true
        }
        plain => {
            rows.push(vec![at.to_owned(), plain.to_string()]);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_file_is_escaped() {
        let evil = "<script>\"'&";
        let shown = "&lt;script&gt;&quot;&#39;&amp;";
        for html in [
            separated(&format!("a,\"{}\"\n1,2\n", evil.replace('"', "\"\"")), b',').unwrap(),
            markdown(&format!("# {evil}\n{evil}\n\n| a |\n| --- |\n| {evil} |\n")),
            json(&serde_json::json!({ evil: evil })),
            json(&serde_json::json!([evil, [1]])),
        ] {
            assert!(html.contains("&lt;script&gt;") && !html.contains("<script"), "{html}");
        }
        assert!(
            separated("a,b\n\"x<\",1.5\n", b',')
                .unwrap()
                .contains("<td>x&lt;</td><td class=\"number\">1.5</td>")
        );
        assert_eq!(escape(evil), shown);
    }

    #[test]
    fn markdown_tables_and_metrics_become_tables() {
        let html = markdown("# Title\n\nWords.\n\n| a | b |\n| :-- | --: |\n| x \\| y | 2 |\nafter");
        assert!(html.starts_with("<h4>Title</h4>\n<pre>Words.</pre>\n<div"), "{html}");
        assert!(
            html.contains("<td>x | y</td><td class=\"number\">2</td>")
                && html.ends_with("<pre>after</pre>\n"),
            "{html}"
        );
        let html = json(&serde_json::json!({"val": {"f1": 0.5}, "name": "x"}));
        assert!(html.contains("<td>val.f1</td><td class=\"number\">0.5</td>"), "{html}");
        assert!(json(&serde_json::json!({"rows": [{"a": 1}]})).starts_with("<pre>"));
    }

    #[test]
    fn large_and_unknown_files_are_left_to_their_link() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).unwrap();
            folder.path().join(name)
        };
        let mut budget = 10;
        let shown = |path: &Path, budget: &mut u64| html(path, path.metadata().unwrap().len(), budget);
        assert!(shown(&file("a.txt", b"12345678"), &mut budget).is_some());
        assert_eq!((budget, shown(&file("b.txt", b"123"), &mut budget)), (2, None));
        let mut budget = BUDGET;
        assert_eq!(shown(&file("weights.bin", b"x"), &mut budget), None);
        assert_eq!(shown(&file("c.txt", b"\xff\x00"), &mut budget), None, "not text");
        assert!(
            shown(&file("d.csv", b"a,b\n1\n"), &mut budget).unwrap().starts_with("<pre>"),
            "rows of two lengths"
        );
    }
}
