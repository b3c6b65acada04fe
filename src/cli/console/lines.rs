//! The lines about steps that stay, on a terminal as in a file. They are escaped.

use crate::cli::terminal_text::{Color, Colors};
use crate::cli::{format, harmless};

/// Which step a line is about, as far as the run has come.
#[derive(Debug, Clone)]
pub struct Place {
    /// How many steps had begun with it, and how many there are; `None` if it never began.
    pub number: Option<(usize, usize)>,
    /// Its name.
    pub step: String,
}

impl Place {
    fn begin(&self) -> String {
        match self.number {
            Some((number, of)) => harmless(&format!("[{number}/{of}] {} ", self.step)),
            None => harmless(&format!("{} ", self.step)),
        }
    }

    /// That it ended well; `value` is the last one that it reported.
    pub fn done(&self, colors: Colors, seconds: f64, same: bool, value: &str) -> String {
        let rest = format::done(seconds, same);
        let rest = rest.strip_prefix("done").unwrap_or(&rest);
        let line = format!("{rest}  {value}");
        self.begin() + &colors.paint(Color::Good, "done") + &harmless(line.trim_end())
    }

    /// That it failed, and why.
    pub fn failed(&self, colors: Colors, problem: &str, needs_human: bool) -> String {
        match needs_human {
            // What to do is printed at the end, for all steps at once.
            true => self.begin() + &colors.paint(Color::Notice, "needs you"),
            false => self.begin() + &colors.paint(Color::Bad, "failed") + &harmless(&format!(": {problem}")),
        }
    }
}

/// A warning.
pub fn warning(colors: Colors, text: &str) -> String {
    colors.message(&format!("warning: {text}"))
}
