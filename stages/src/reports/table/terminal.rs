//! A table drawn for a terminal. It does not know what the numbers mean.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Width};
use textwrap::core::display_width;
use textwrap::{Options, WordSeparator, WordSplitter};

use super::Table;

/// Marks the ends of columns in the line below the header, until their places are known.
const END_OF_COLUMN: char = '╪';

impl Table {
    /// Title, caption, the table and the notes. With a limit, lines break at words to fit `columns`; where not even the
    /// longest words fit next to each other, each row becomes a list of its cells.
    pub fn drawn(&self, columns: Option<usize>) -> String {
        let body = match columns {
            Some(columns) if self.min_width(0) > columns => self.list(columns),
            _ => self.grid(columns),
        };
        let mut text =
            format!("{}\n{}\n{body}", broken(&self.title, columns), broken(&self.caption, columns));
        for note in &self.notes {
            text += &format!("{}\n", broken(note, columns));
        }
        text
    }

    /// The columns that the table needs at least, with so many spaces after each cell.
    fn min_width(&self, padding: usize) -> usize {
        self.min_widths().iter().map(|width| width + padding + 1).sum::<usize>().saturating_sub(1)
    }

    /// The longest word of each column; a heading that several share stays on one line.
    fn min_widths(&self) -> Vec<usize> {
        let longest = |text: &str| text.split_whitespace().map(display_width).max().unwrap_or(0);
        let mut widths: Vec<usize> = self.columns.iter().map(|column| longest(&column.title)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width =
                    longest(&cell.value()).max(longest(&cell.interval().unwrap_or_default())).max(*width);
            }
        }
        for (first, last) in self.shared() {
            let there = widths[first..=last].iter().sum::<usize>() + last - first;
            widths[last] += display_width(&self.columns[first].group).saturating_sub(there);
        }
        widths
    }

    /// The first and the last column of each heading that columns share.
    fn shared(&self) -> Vec<(usize, usize)> {
        let mut next = 0;
        let spans = self.groups().into_iter().map(|(heading, columns)| {
            next += columns;
            (heading, (next - columns, next - 1))
        });
        spans.filter(|(heading, _)| !heading.is_empty()).map(|(_, span)| span).collect()
    }

    fn grid(&self, columns: Option<usize>) -> String {
        let mut drawn = comfy_table::Table::new();
        let separator = LineStyle::none().fill('═').junction(END_OF_COLUMN);
        drawn.load_style(UTF8_HORIZONTAL_ONLY.header_separator(separator));
        if let Some(columns) = columns {
            drawn.set_content_arrangement(ContentArrangement::Dynamic);
            drawn.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
        }
        drawn.set_header(self.columns.iter().map(|column| column.title.as_str()));
        for row in &self.rows {
            drawn.add_row(row.iter().map(|cell| match cell.interval() {
                Some(interval) => format!("{}\n{interval}", cell.value()),
                None => cell.value(),
            }));
        }
        let padding = u16::from(columns.is_none_or(|columns| self.min_width(1) <= columns));
        for ((drawn, column), width) in drawn.column_iter_mut().zip(&self.columns).zip(self.min_widths()) {
            drawn.set_padding((0, padding));
            let width = u16::try_from(width).unwrap_or(u16::MAX).saturating_add(padding);
            drawn.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
            if column.numeric {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines: Vec<String> = drawn.lines().collect();
        let ends = lines.iter().find(|line| line.contains(END_OF_COLUMN));
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            text += &format!("{}\n", line.replace(END_OF_COLUMN, "═").trim_end());
            // Below the upper border.
            if let Some(ends) = ends.filter(|_| number == 0 && !self.shared().is_empty()) {
                text += &format!("{}\n", self.shared_headings(ends).trim_end());
            }
        }
        text
    }

    /// The headings that columns share, each in the middle of its columns, which end where `ends` has its marks.
    fn shared_headings(&self, ends: &str) -> String {
        let mut starts = vec![0];
        starts.extend(ends.chars().enumerate().filter(|(_, c)| *c == END_OF_COLUMN).map(|(at, _)| at + 1));
        starts.push(ends.chars().count() + 1);
        let mut line = String::new();
        for (first, last) in self.shared() {
            let (Some(from), Some(to)) = (starts.get(first), starts.get(last + 1)) else { break };
            let (at, heading) = (display_width(&line), &self.columns[first].group);
            let room = (to - 1 - from).saturating_sub(display_width(heading) + 2);
            let rule = |length: usize| "─".repeat(length);
            let heading = match room {
                0 => heading.clone(),
                room => format!("{} {heading} {}", rule(room / 2), rule(room - room / 2)),
            };
            line += &format!("{}{heading}", " ".repeat(from.saturating_sub(at)));
        }
        line
    }

    /// Each row as a list of its cells, between rules.
    fn list(&self, columns: usize) -> String {
        let rule = "─".repeat(columns) + "\n";
        let mut text = rule.clone();
        for row in &self.rows {
            for (column, cell) in self.columns.iter().zip(row) {
                let line = format!("{}: {}", column.heading(), cell.shown());
                // The lines after the first are indented by two columns.
                let line = broken(&line, Some(columns.saturating_sub(2))).replace('\n', "\n  ");
                text += &format!("{line}\n");
            }
            text += &rule;
        }
        text
    }
}

/// `text` in lines that end at words.
fn broken(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let options = Options::new(columns).break_words(false);
    let options =
        options.word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options)
}
