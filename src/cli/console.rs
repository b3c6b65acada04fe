//! How a run looks: a line per running step on a terminal, plain lines elsewhere, JSON lines for a machine.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::words;
use crate::run::{Event, Observer};

/// The observer that fits where the output goes.
pub fn observer(json: bool) -> Box<dyn Observer> {
    if json {
        Box::new(JsonLines)
    } else if std::io::stderr().is_terminal() {
        Box::new(Live::default())
    } else {
        Box::new(Plain::default())
    }
}

/// Events as JSON lines on standard output.
struct JsonLines;

impl Observer for JsonLines {
    fn on(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // Nobody listening any more is no reason to stop working.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// A line when a step begins and one when it ends.
#[derive(Default)]
struct Plain {
    numbers: BTreeMap<String, String>,
}

impl Observer for Plain {
    fn on(&mut self, event: &Event) {
        match *event {
            Event::Started { step, number, of, .. } => {
                let number = format!("[{number}/{of}]");
                tell!("{number} {step} …");
                self.numbers.insert(step.to_owned(), number);
            }
            Event::Finished { step, seconds, same, .. } => {
                let number = self.numbers.remove(step).unwrap_or_default();
                tell!("{number} {step} {}", done(seconds, same));
            }
            Event::Elsewhere { step, by } => tell!("{}", elsewhere(step, by)),
            Event::Damaged { step } => tell!("warning: {}", words::damaged(step)),
            Event::Warned { step, text } => tell!("warning: step `{step}`: {text}"),
            Event::Failed { step, .. } => tell!("{step} failed"),
            Event::Stopping => tell!("stopping; once more to stop at once"),
            Event::Judged { .. } | Event::Progress { .. } | Event::Scalar { .. } => {}
        }
    }
}

fn done(seconds: f64, same: bool) -> String {
    format!("done in {}{}", words::duration(seconds), if same { ", same output as before" } else { "" })
}

fn elsewhere(step: &str, by: Option<&str>) -> String {
    format!("{step} is being run by {}", by.unwrap_or("another process"))
}

/// A bar per running step; finished ones scroll away above.
#[derive(Default)]
struct Live {
    bars: MultiProgress,
    running: BTreeMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    number: String,
    scalar: String,
}

impl Live {
    fn style(measured: bool) -> ProgressStyle {
        let template = if measured {
            "{prefix} {bar:20} {pos}/{len}  {per_sec}, {eta} left  {msg}"
        } else {
            "{prefix} {spinner} {elapsed}  {msg}"
        };
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }

    fn line(&self, text: &str) {
        // A terminal that went away is no reason to stop working.
        let _ = self.bars.println(text);
    }
}

impl Observer for Live {
    fn on(&mut self, event: &Event) {
        match *event {
            Event::Started { step, number, of, .. } => {
                let number = format!("[{number}/{of}]");
                let bar = self.bars.add(ProgressBar::new_spinner());
                bar.set_style(Self::style(false));
                bar.set_prefix(format!("{number} {step}"));
                bar.enable_steady_tick(Duration::from_millis(200));
                self.running.insert(step.to_owned(), Bar { bar, number, scalar: String::new() });
            }
            Event::Progress { step, done, total } => {
                if let Some(Bar { bar, .. }) = self.running.get(step) {
                    if bar.length() != Some(total) {
                        bar.set_style(Self::style(true));
                        bar.set_length(total);
                    }
                    bar.set_position(done);
                }
            }
            Event::Scalar { step, name, value: Some(value), .. } => {
                if let Some(running) = self.running.get_mut(step) {
                    running.scalar = format!("{name} {value:.4}");
                    running.bar.set_message(running.scalar.clone());
                }
            }
            Event::Finished { step, seconds, same, .. } => {
                if let Some(Bar { bar, number, scalar }) = self.running.remove(step) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                    self.line(format!("{number} {step} {}  {scalar}", done(seconds, same)).trim_end());
                }
            }
            Event::Failed { step, .. } => {
                if let Some(Bar { bar, .. }) = self.running.remove(step) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                self.line(&format!("{step} failed"));
            }
            Event::Elsewhere { step, by } => self.line(&elsewhere(step, by)),
            Event::Damaged { step } => self.line(&format!("warning: {}", words::damaged(step))),
            Event::Warned { step, text } => self.line(&format!("warning: step `{step}`: {text}")),
            Event::Stopping => self.line("stopping; once more to stop at once"),
            Event::Judged { .. } | Event::Scalar { value: None, .. } => {}
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for Bar { bar, .. } in self.running.values() {
            bar.finish_and_clear();
        }
    }
}
