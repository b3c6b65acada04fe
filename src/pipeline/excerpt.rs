//! The lines of a pipeline file that an error shows, cut and escaped for a terminal: a line may be very long or
//! contain control characters. This module does not know the error.

use std::ops::Range;
use std::path::Path;

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use stage_api::secrets;

use crate::escape::is_obeyed;

/// Limits, in characters, of the shown text before the mark and from the mark on.
const MAX_BEFORE: usize = 60;
const MAX_FROM: usize = 100;

/// A part of a file with a marked range.
#[derive(Debug)]
pub(super) struct Excerpt {
    file: String,
    text: String,
    mark: Range<usize>,
    /// The number of lines of the file before the text.
    lines_before: usize,
    /// The column of the mark, from 0.
    column: usize,
}

impl Excerpt {
    /// An excerpt of `lines`. The marked line begins at `start`, and `mark` is relative to it. `place` holds the
    /// number of lines before them and the column of the mark, from 1.
    pub fn new(file: &Path, lines: &str, start: usize, mark: Range<usize>, place: (usize, usize)) -> Self {
        let (lines_before, column) = (place.0, place.1.saturating_sub(1));
        let lines = &starred(lines);
        let marked = lines[start..].lines().next().unwrap_or_default();
        let from = mark.start.min(marked.len());
        let mark = from..mark.end.clamp(from, marked.len());
        let mut text: String =
            lines[..start].lines().map(|line| head(line, MAX_BEFORE + MAX_FROM) + "\n").collect();
        text.push_str(&tail(&marked[..mark.start], MAX_BEFORE));
        let begin = text.len();
        text.push_str(&head(&marked[mark.clone()], MAX_FROM));
        let end = text.len();
        text.push_str(&head(&marked[mark.end..], MAX_FROM));
        text.push('\n');
        for line in lines[start..].lines().skip(1) {
            text.push_str(&(head(line, MAX_BEFORE + MAX_FROM) + "\n"));
        }
        let file = file.to_string_lossy().into_owned();
        Self { file, text, mark: begin..end, lines_before, column }
    }

    /// The marked range in the shown text.
    pub fn span(&self) -> Range<usize> {
        self.mark.clone()
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let read = self.text.read_span(span, before, after)?;
        // For the mark alone, the position in the file is reported.
        let column = if read.column() == 0 { 0 } else { self.column };
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            read.data(),
            *read.span(),
            self.lines_before + read.line(),
            column,
            read.line_count(),
        )))
    }
}

/// The first `max` characters.
fn head(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => harmless(text),
        Some((end, _)) => harmless(&text[..end]) + "…",
    }
}

/// The last `max` characters.
fn tail(text: &str, max: usize) -> String {
    match text.char_indices().rev().nth(max) {
        None => harmless(text),
        Some((before, c)) => format!("…{}", harmless(&text[before + c.len_utf8()..])),
    }
}

/// The text with visible characters in place of control characters.
fn harmless(text: &str) -> String {
    let shown = |c| match c {
        '\t' => ' ',
        c if is_obeyed(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

/// The lines with stars in place of the bytes of a secret, so that positions stay the same.
fn starred(lines: &str) -> String {
    secrets::replaced(lines, |secret| "*".repeat(secret.len()))
}

#[cfg(test)]
mod tests {
    use super::super::error::{FileText, PipelineError};

    fn picture(error: &PipelineError) -> String {
        let mut text = String::new();
        let theme = miette::GraphicalTheme::unicode_nocolor();
        miette::GraphicalReportHandler::new_themed(theme).render_report(&mut text, error).unwrap();
        text
    }

    #[test]
    fn a_line_of_any_length_and_characters_is_cut() {
        let fillers = [
            "x",
            "é",
            "語",
            "👩\u{200d}👩\u{200d}👧",
            "e\u{301}\u{301}",
            "\u{1b}[31m",
            "\t",
            "\u{202e}",
            "\r",
            "\0",
        ];
        for filler in fillers {
            for times in [0, 1, 59, 60, 61, 200, 40_000] {
                let line = filler.repeat(times);
                let text = format!("one\n{line}(wrong){line}\nthree\n");
                let file = FileText::new("pipeline.ron".as_ref(), &text);
                let at = text.find("(wrong)").unwrap();
                for span in [at..at + 7, at..at, at..text.len(), at..usize::MAX] {
                    let shown = picture(&file.error(span, "is wrong".to_owned()));
                    assert!(shown.contains("(wrong)") && shown.contains("three"), "{shown}");
                    assert!(shown.len() < 8000 && !shown.contains('\u{1b}'), "{filler:?} {times}: {shown}");
                    let place = format!("pipeline.ron:2:{}", line.chars().count() + 1);
                    assert!(shown.contains(&place), "{place}: {shown}");
                }
            }
        }
    }

    #[test]
    fn the_ends_of_a_file_are_shown() {
        for text in ["", "\n", "x", "x\n", "\n\n"] {
            let file = FileText::new("pipeline.ron".as_ref(), text);
            for at in 0..=text.len() + 1 {
                picture(&file.error(at..at, "is wrong".to_owned()));
            }
        }
    }
}
