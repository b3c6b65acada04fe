//! The output of a run: a live view on a terminal, otherwise plain lines, or JSON lines for `--json`.

mod lines;
mod live;
mod view;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::format;
use super::terminal_text::Colors;
use crate::escape::escaped_json;
use crate::run::{Event, Observer};
use lines::Place;

/// How often a long step says how far it is where lines stay for good.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The observer that fits where the output goes. The view of a run begins with its first event.
pub struct Console {
    json: bool,
    run: Option<Box<dyn Observer>>,
}

impl Console {
    pub fn new(json: bool) -> Self {
        Self { json, run: None }
    }

    fn start(json: bool) -> Box<dyn Observer> {
        let is_dumb = || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if json {
            Box::new(JsonLines)
        } else if std::io::stderr().is_terminal() && !is_dumb() {
            Box::new(live::Live::start())
        } else {
            Box::new(Plain::default())
        }
    }
}

impl Observer for Console {
    fn on(&mut self, event: &Event) {
        let text = match event {
            Event::Waiting { owner } => format!("waiting for {owner}, which has this cache to itself"),
            Event::Notice { text } => format!("warning: {text}"),
            event => {
                let json = self.json;
                return self.run.get_or_insert_with(|| Self::start(json)).on(event);
            }
        };
        // Between runs; a live view would be drawn over it.
        self.run = None;
        print_err!("{text}");
    }
}

/// Events as JSON lines on standard output.
struct JsonLines;

impl Observer for JsonLines {
    fn on(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // A closed output does not stop the work.
            let _ = writeln!(std::io::stdout(), "{}", escaped_json(&line));
        }
    }
}

/// A line when a step begins and one when it ends; in between, for long ones, one a minute.
#[derive(Default)]
struct Plain {
    running: BTreeMap<String, Said>,
}

struct Said {
    number: (usize, usize),
    at: Instant,
    began: Instant,
}

impl Observer for Plain {
    fn on(&mut self, event: &Event) {
        match *event {
            Event::Planned { estimated_seconds: Some(seconds), .. } => {
                print_err!("by earlier runs this takes about {}", format::duration(seconds));
            }
            Event::Started { step, number, of, .. } => {
                print_err!("[{number}/{of}] {step} …");
                let now = Instant::now();
                self.running.insert(step.to_owned(), Said { number: (number, of), at: now, began: now });
            }
            Event::Progress { step, done, total, unit } => {
                let Some(said) = self.running.get_mut(step) else { return };
                if said.at.elapsed() >= SAID_EVERY {
                    said.at = Instant::now();
                    let rate = done as f64 / said.began.elapsed().as_secs_f64();
                    let left =
                        format::duration(total.saturating_sub(done) as f64 / rate.max(f64::MIN_POSITIVE));
                    let (so_far, rate) = (format::so_far(done, total, unit), format::rate(rate, unit));
                    let (number, of) = said.number;
                    print_err!("[{number}/{of}] {step} {so_far}, {rate}/s, {left} left");
                }
            }
            Event::Keeping { step, files, bytes } => {
                let Some((number, of)) = self.running.get(step).map(|said| said.number) else { return };
                print_err!("[{number}/{of}] {step}: {}", format::keeping(files, bytes));
            }
            Event::Finished { step, seconds, same, .. } => {
                print_line(&self.place(step).done(Colors::stderr(), seconds, same, ""));
            }
            Event::Fetched { step, bytes } => print_err!("{}", format::fetched(step, bytes)),
            Event::HeldByOther { step, by } => print_err!("{}", format::held_by_others(step, by)),
            Event::Damaged { step } => print_err!("warning: {}", format::damaged(step)),
            Event::Warned { step, text } => print_err!("warning: step `{step}`: {text}"),
            Event::Failed { step, problem, needs_human } => {
                print_line(&self.place(step).failed(Colors::stderr(), problem, needs_human));
            }
            Event::Stopping => print_err!("stopping; once more to stop at once"),
            Event::Planned { .. }
            | Event::Scalar { .. }
            | Event::Placed { .. }
            | Event::Waiting { .. }
            | Event::Notice { .. } => {}
        }
    }
}

impl Plain {
    /// Where a step is that has ended.
    fn place(&mut self, step: &str) -> Place {
        Place { number: self.running.remove(step).map(|said| said.number), step: step.to_owned() }
    }
}

/// Prints a line that is escaped already.
fn print_line(line: &str) {
    // One write, as for other messages; a closed terminal does not stop the work.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
