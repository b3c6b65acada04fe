//! Errors in a pipeline file: their position, the problem, and the nearest valid name. This module does not print
//! them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, SourceCode};
use ron::error::SpannedError;

use super::excerpt::Excerpt;

/// The text of a pipeline file and of the files that it names, each with its path, for errors that point into them.
#[derive(Debug, Clone)]
pub(super) struct Text<'a> {
    /// The pipeline file first.
    files: Vec<FileText<'a>>,
}

#[derive(Debug, Clone)]
pub(super) struct FileText<'a> {
    path: &'a Path,
    text: &'a str,
    /// The offset of each line, so that an error of each of 10,000 steps does not count lines from the top.
    lines: Vec<usize>,
}

/// A part of one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    file: usize,
    range: Range<usize>,
}

impl<'a> Text<'a> {
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        Self { files: vec![FileText::new(path, text)] }
    }

    /// Adds a file that the pipeline file names.
    pub fn add(&mut self, path: &'a Path, text: &'a str) {
        self.files.push(FileText::new(path, text));
    }

    /// The path of the pipeline file.
    pub fn path(&self) -> &'a Path {
        self.files[0].path
    }

    /// The place of `part`, which must be a slice of one of the texts.
    pub fn span(&self, part: &str) -> Span {
        let place = |end: usize| {
            self.files.iter().position(|file| {
                let start = file.text.as_ptr() as usize;
                (start..start + file.text.len() + end).contains(&(part.as_ptr() as usize))
            })
        };
        // A part without characters may be at the end of its text.
        let file = place(0).or_else(|| place(1)).unwrap_or(0);
        let text = self.files[file].text;
        let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
        Span { file, range: start..(start + part.len()).min(text.len()) }
    }

    /// The file of a part, relative to the pipeline file's folder, when it is not that file itself.
    pub fn other_file(&self, part: &str) -> Option<PathBuf> {
        let file = self.span(part).file;
        let root = self.path().parent().unwrap_or(Path::new(""));
        (file > 0)
            .then(|| self.files[file].path.strip_prefix(root).unwrap_or(self.files[file].path).to_owned())
    }

    /// The line of a part, from 1.
    pub fn line(&self, part: &str) -> usize {
        let span = self.span(part);
        self.files[span.file].line(span.range.start)
    }

    /// The line and column of a part, both from 1, columns in characters.
    pub fn position(&self, part: &str) -> (usize, usize) {
        let span = self.span(part);
        self.files[span.file].position(span.range.start)
    }

    /// An error about `span`.
    pub fn error(&self, span: Span, message: impl Into<String>) -> PipelineError {
        self.files[span.file].error(span.range, message.into())
    }

    /// An error of the parser in `part`, with its place there.
    pub fn parse_error(&self, part: &str, error: &SpannedError) -> PipelineError {
        use ron::Error::{NoSuchEnumVariant, NoSuchStructField};
        let Span { file, range: whole } = self.span(part);
        let within = FileText::new(self.files[file].path, part);
        let start = within.offset(error.span.start.line, error.span.start.col);
        let end = within.offset(error.span.end.line, error.span.end.col).max(start);
        let span =
            |range: Range<usize>| Span { file, range: whole.start + range.start..whole.start + range.end };
        match &error.code {
            NoSuchStructField { expected, found, .. } | NoSuchEnumVariant { expected, found, .. } => {
                // The parser reports where it stood after the name; the name itself is what to point at.
                let at = part[..end].rfind(found.as_str()).unwrap_or(start);
                self.error(span(at..at + found.len()), format!("unknown field `{found}`"))
                    .nearest(found, expected.iter().copied())
            }
            code => self.error(span(start..end), code.to_string()),
        }
    }
}

impl<'a> FileText<'a> {
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { path, text, lines: std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect() }
    }

    /// The byte offset of a line and column, both from 1, columns in characters.
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let rest = &self.text[start..];
        start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at)
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The line and column of a byte offset, both from 1, columns in characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor_boundary(self.text, offset);
        let line = self.line(offset);
        (line, self.text[self.lines[line - 1]..offset].chars().count() + 1)
    }

    pub fn error(&self, span: Range<usize>, message: String) -> PipelineError {
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
            message,
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
