//! Errors in a pipeline file: their position, the problem, and the nearest valid name. This module does not print
//! them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, SourceCode};

use super::excerpt::Excerpt;

/// The text of a pipeline file with its path, for errors that point into it.
#[derive(Debug, Clone)]
pub(super) struct Text<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    /// The offset of each line, so that an error of each of 10,000 steps does not count lines from the top.
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { path, text, lines: std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect() }
    }

    /// The byte range of `part`, which must be a slice of this text.
    pub fn span(&self, part: &str) -> Range<usize> {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let start = start.min(self.text.len());
        start..(start + part.len()).min(self.text.len())
    }

    /// The byte offset of a line and column, both from 1, columns in characters.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let rest = &self.text[start..];
        start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at)
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The line and column of a byte offset, both from 1, columns in characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor_boundary(self.text, offset);
        let line = self.line(offset);
        (line, self.text[self.lines[line - 1]..offset].chars().count() + 1)
    }

    /// An error about `span`.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> PipelineError {
        let (line, column) = self.position(span.start);
        let start = self.lines[line - 1];
        // With the line before and the line after it, for orientation.
        let around = line.saturating_sub(2)..(line + 2).min(self.lines.len());
        let excerpt = Excerpt::new(
            self.path,
            &self.text
                [self.lines[around.start]..self.lines.get(around.end).copied().unwrap_or(self.text.len())],
            start - self.lines[around.start],
            floor_boundary(self.text, span.start) - start
                ..floor_boundary(self.text, span.end).max(start) - start,
            (around.start, column),
        );
        PipelineError {
            file: self.path.to_owned(),
            position: Some((line, column)),
            message: message.into(),
            hint: None,
            source: Some(Box::new(excerpt)),
        }
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The pipeline file is not usable.
#[derive(Debug)]
pub struct PipelineError {
    /// The pipeline file.
    pub file: PathBuf,
    /// Line and column, from 1, if the error has a position in the file.
    pub position: Option<(usize, usize)>,
    /// The problem.
    pub message: String,
    /// A suggestion.
    pub hint: Option<String>,
    source: Option<Box<Excerpt>>,
}

impl PipelineError {
    /// An error about the file as a whole.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), position: None, message: message.into(), hint: None, source: None }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with "did you mean …" if one of `known` is similar to `unknown`, or else with the list.
    #[must_use]
    pub fn nearest<'k>(self, unknown: &str, known: impl IntoIterator<Item = &'k str>) -> Self {
        match nearest(unknown, known) {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }
}

/// Longer names are not compared, because the time grows with the square of the length.
const MAX_COMPARED_CHARS: usize = 200;

/// "did you mean `x`?" if a known name is similar, else the known names if there are few, else nothing.
pub fn nearest<'k>(unknown: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    let mut known: Vec<&str> = known.into_iter().filter(|name| name.len() <= MAX_COMPARED_CHARS).collect();
    if unknown.len() > MAX_COMPARED_CHARS {
        return None;
    }
    known.sort_unstable();
    known.dedup();
    let best = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)));
    match best {
        Some((score, name)) if score > 0.75 => Some(format!("did you mean `{name}`?")),
        Some(_) if known.len() <= 24 => Some(format!("known here: {}", known.join(", "))),
        _ => None,
    }
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for PipelineError {}

impl Diagnostic for PipelineError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_deref().map(|excerpt| excerpt as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.source.as_deref()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(excerpt.span()))))
    }
}
