//! The output of a run: a live view on a terminal, otherwise plain lines, or JSON lines for `--json`.

mod live;
mod view;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::format;
use crate::escape::escaped_json;
use crate::run::{Event, Observer};

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
    number: String,
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
                let number = format!("[{number}/{of}]");
                print_err!("{number} {step} …");
                let now = Instant::now();
                self.running.insert(step.to_owned(), Said { number, at: now, began: now });
            }
            Event::Progress { step, done, total, unit } => {
                let Some(said) = self.running.get_mut(step) else { return };
                if said.at.elapsed() >= SAID_EVERY {
                    said.at = Instant::now();
                    let rate = done as f64 / said.began.elapsed().as_secs_f64();
                    let left =
                        format::duration(total.saturating_sub(done) as f64 / rate.max(f64::MIN_POSITIVE));
                    let (so_far, rate) = (format::so_far(done, total, unit), format::rate(rate, unit));
                    print_err!("{} {step} {so_far}, {rate}/s, {left} left", said.number);
                }
            }
            Event::Keeping { step, files, bytes } => {
                let number = self.running.get(step).map(|said| said.number.as_str()).unwrap_or_default();
                print_err!("{number} {step}: {}", format::keeping(files, bytes));
            }
            Event::Finished { step, seconds, same, .. } => {
                let number = self.running.remove(step).map(|said| said.number).unwrap_or_default();
                print_err!("{number} {step} {}", format::done(seconds, same));
            }
            Event::Fetched { step, bytes } => print_err!("{}", format::fetched(step, bytes)),
            Event::HeldByOther { step, by } => print_err!("{}", format::held_by_others(step, by)),
            Event::Damaged { step } => print_err!("warning: {}", format::damaged(step)),
            Event::Warned { step, text } => print_err!("warning: step `{step}`: {text}"),
            Event::Failed { step, .. } => print_err!("{step} failed"),
            Event::Stopping => print_err!("stopping; once more to stop at once"),
            Event::Planned { .. }
            | Event::Scalar { .. }
            | Event::Placed { .. }
            | Event::Waiting { .. }
            | Event::Notice { .. } => {}
        }
    }
}
