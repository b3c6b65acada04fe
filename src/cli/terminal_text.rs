//! Text for people on a terminal: escaped, whatever it quotes; in colours by state, where the stream shows colours and
//! `NO_COLOR` is not set; broken at words. It does not know what the text means.

use std::fmt;
use std::io::IsTerminal;

use console::{Style, measure_text_width};
use textwrap::{Options, WordSeparator, WordSplitter};

use super::error::CliError;
use super::{harmless, print_bytes};
use crate::explain::State;

/// A column narrower than this is not broken into lines.
const MIN_WIDTH: usize = 24;

/// What a colour stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// It is as it should be.
    Good,
    /// Somebody may want to know.
    Notice,
    /// It depends on something else.
    Waiting,
    /// It failed.
    Bad,
    /// It may be skipped when reading.
    Quiet,
}

impl From<State> for Color {
    fn from(state: State) -> Self {
        match state {
            State::Fresh => Self::Good,
            State::Stale => Self::Notice,
            State::Waiting => Self::Waiting,
            State::Broken => Self::Bad,
            State::Unneeded => Self::Quiet,
        }
    }
}

/// Whether a stream shows colours.
#[derive(Debug, Clone, Copy)]
pub struct Colors(bool);

impl Colors {
    pub fn stdout() -> Self {
        Self(console::colors_enabled())
    }

    pub fn stderr() -> Self {
        Self(console::colors_enabled_stderr())
    }

    #[cfg(test)]
    pub fn none() -> Self {
        Self(false)
    }

    /// `text`, escaped, in a colour.
    pub fn paint(self, color: Color, text: &str) -> String {
        let style = match color {
            Color::Good => Style::new().green(),
            Color::Notice => Style::new().yellow(),
            Color::Waiting => Style::new().cyan(),
            Color::Bad => Style::new().red().bold(),
            Color::Quiet => Style::new().dim(),
        };
        style.force_styling(self.0).apply_to(harmless(text)).to_string()
    }

    /// A message, escaped, with the words that begin its lines (`error:`, `hint:`) in a colour.
    pub fn message(self, text: &str) -> String {
        const WORDS: [(&str, Color); 3] =
            [("error:", Color::Bad), ("warning:", Color::Notice), ("hint:", Color::Waiting)];
        let text = harmless(text);
        if !self.0 {
            return text;
        }
        let colored = text.split('\n').map(|line| {
            let found = WORDS.iter().find_map(|(word, color)| Some((word, color, line.strip_prefix(word)?)));
            found.map_or_else(|| line.to_owned(), |(word, color, rest)| self.paint(*color, word) + rest)
        });
        colored.collect::<Vec<_>>().join("\n")
    }
}

/// The columns of the terminal that standard output goes to; `None` if it goes elsewhere.
pub fn columns() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// `text` for a place that begins after `indent` columns of a terminal with so many: broken at words, each further line
/// below the first.
pub fn wrapped(text: &str, indent: usize, columns: Option<usize>) -> String {
    // The last column stays free: some terminals begin a new line there.
    let width = columns.map(|columns| columns.saturating_sub(indent + 1));
    let Some(width) = width.filter(|width| *width >= MIN_WIDTH) else { return text.to_owned() };
    // Names of steps and paths stay in one piece.
    let options = Options::new(width).break_words(false);
    let options =
        options.word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).join(&format!("\n{:indent$}", ""))
}

/// Text for standard output that grows piece by piece.
pub struct TerminalText {
    text: String,
    colors: Colors,
    columns: Option<usize>,
}

impl TerminalText {
    pub fn stdout() -> Self {
        Self { text: String::new(), colors: Colors::stdout(), columns: columns() }
    }

    /// Adds text as it is, escaped.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(&harmless(text));
    }

    /// Adds a line: words in columns of given widths, the first of them in a colour, then a text that is broken at words.
    pub fn row(&mut self, cells: &[(&str, usize)], color: Option<Color>, text: &str) {
        let mut line = String::new();
        let mut at = 0;
        for (number, (cell, width)) in cells.iter().enumerate() {
            let cell = harmless(cell);
            let padding = width.saturating_sub(measure_text_width(&cell)) + 2;
            at += measure_text_width(&cell) + padding;
            match color.filter(|_| number == 0) {
                Some(color) => line.push_str(&self.colors.paint(color, &cell)),
                None => line.push_str(&cell),
            }
            line.push_str(&" ".repeat(padding));
        }
        line.push_str(&wrapped(&harmless(text), at, self.columns));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Writes it to standard output.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn print(&self) -> Result<(), CliError> {
        print_bytes(self.text.as_bytes())
    }
}

impl fmt::Display for TerminalText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_words_below_the_first() {
        let text = "param about: \"a longer sentence\" -> \"another one\"";
        assert_eq!(
            wrapped(text, 10, Some(40)),
            "param about: \"a longer\n          sentence\" -> \"another one\""
        );
        assert_eq!(wrapped(text, 10, None), text);
        assert_eq!(wrapped(text, 70, Some(80)), text, "there is no room for a column");
        let path = "/a/path/that/is/much/longer/than-the-terminal/has/columns";
        assert_eq!(wrapped(path, 0, Some(30)), path, "a path stays in one piece");
    }

    #[test]
    fn colours_are_around_text_that_is_escaped() {
        let colors = Colors(true);
        assert_eq!(colors.paint(Color::Good, "fresh\u{1b}[2J"), "\u{1b}[32mfresh\\u{1b}[2J\u{1b}[0m");
        assert_eq!(
            colors.message("error: a\u{7}\n  error: b\nhint: c"),
            "\u{1b}[31m\u{1b}[1merror:\u{1b}[0m a\\u{7}\n  error: b\n\u{1b}[36mhint:\u{1b}[0m c"
        );
        assert_eq!(Colors::none().paint(Color::Bad, "failed"), "failed");
        assert_eq!(Colors::none().message("error: a"), "error: a");
    }

    #[test]
    fn rows_have_columns_and_end_without_spaces() {
        let mut text = TerminalText { text: String::new(), colors: Colors::none(), columns: Some(44) };
        text.row(&[("stale", 8), ("a", 3)], Some(Color::Notice), "param lr: 0.005 -> 0.004 (and 1 more)");
        text.row(&[("fresh", 8), ("abc", 3)], Some(Color::Good), "");
        assert_eq!(
            text.to_string(),
            "stale     a    param lr: 0.005 -> 0.004\n               (and 1 more)\nfresh     abc\n"
        );
    }
}
