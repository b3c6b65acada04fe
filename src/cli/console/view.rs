//! What a person sees while steps run, as lines of text for a terminal of a given size. It knows nothing of how
//! they are drawn.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use console::{measure_text_width, pad_str, truncate_str};
use stage_api::Unit;

use super::lines::{Place, warning};
use crate::cli::terminal_text::{Color, Colors};
use crate::cli::{format, harmless};
use crate::run::Event;

/// How far back a rate looks.
const WINDOW: Duration = Duration::from_secs(15);
/// How often at most it takes note.
const SAMPLE: Duration = Duration::from_millis(500);

/// The state of a run, as far as it is shown.
pub struct View {
    began: Instant,
    running: BTreeMap<String, Row>,
    done: usize,
    failed: usize,
    of: usize,
    estimate: Option<f64>,
    stopping: bool,
    colors: Colors,
}

struct Row {
    number: usize,
    since: Instant,
    progress: Option<Progress>,
    scalar: String,
    /// What is done with its output.
    keeping: Option<String>,
}

/// How far a step is and how fast it goes.
struct Progress {
    done: u64,
    total: u64,
    unit: Unit,
    samples: VecDeque<(Instant, u64)>,
}

impl Progress {
    fn note(&mut self, done: u64, now: Instant) {
        self.done = done;
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE) {
            self.samples.push_back((now, done));
        }
        // One sample older than the window stays, so that a slow step has a rate too.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Units a second; `None` before two moments are known.
    fn rate(&self, now: Instant) -> Option<f64> {
        let (at, done) = self.samples.front()?;
        let seconds = now.duration_since(*at).as_secs_f64();
        let advance = self.done.saturating_sub(*done);
        (seconds >= SAMPLE.as_secs_f64() && advance > 0).then(|| advance as f64 / seconds)
    }

    /// The seconds that the rest takes at this rate.
    fn remaining(&self, now: Instant) -> Option<f64> {
        Some(self.total.saturating_sub(self.done) as f64 / self.rate(now)?)
    }
}

impl View {
    pub fn new(now: Instant, colors: Colors) -> Self {
        Self {
            began: now,
            running: BTreeMap::new(),
            done: 0,
            failed: 0,
            of: 0,
            estimate: None,
            stopping: false,
            colors,
        }
    }

    /// Takes note of an event; returns the line that it leaves behind for good, escaped.
    pub fn on(&mut self, event: &Event, now: Instant) -> Option<String> {
        match *event {
            Event::Planned { stale, waiting, estimated_seconds, .. } => {
                self.of = stale + waiting;
                self.estimate = estimated_seconds;
            }
            Event::Started { step, number, of, .. } => {
                self.of = of;
                let row = Row { number, since: now, progress: None, scalar: String::new(), keeping: None };
                self.running.insert(step.to_owned(), row);
            }
            Event::Progress { step, done, total, unit } => {
                let row = self.running.get_mut(step)?;
                // Another total is another piece of work.
                if row.progress.as_ref().is_none_or(|progress| progress.total != total) {
                    row.progress = Some(Progress { done, total, unit, samples: VecDeque::new() });
                }
                row.progress.as_mut()?.note(done, now);
            }
            // Shown until the step has a value.
            Event::Placed { step, place } => self.running.get_mut(step)?.scalar = place.to_owned(),
            Event::Scalar { step, name, value: Some(value), .. } => {
                self.running.get_mut(step)?.scalar = format!("{name} {value:.4}");
            }
            Event::Scalar { value: None, .. } | Event::Waiting { .. } | Event::Notice { .. } => {}
            Event::Keeping { step, files, bytes } => {
                let row = self.running.get_mut(step)?;
                (row.progress, row.keeping) = (None, Some(format::keeping(files, bytes)));
            }
            Event::Finished { step, seconds, same, .. } => {
                self.done += 1;
                let row = self.running.remove(step);
                let scalar = row.as_ref().map_or("", |row| row.scalar.as_str());
                return Some(self.place(step, row.as_ref()).done(self.colors, seconds, same, scalar));
            }
            Event::Fetched { step, bytes } => return Some(harmless(&format::fetched(step, bytes))),
            Event::HeldByOther { step, by } => return Some(harmless(&format::held_by_others(step, by))),
            Event::Damaged { step } => return Some(warning(self.colors, &format::damaged(step))),
            Event::Warned { step, text } => {
                return Some(warning(self.colors, &format!("step `{step}`: {text}")));
            }
            Event::Failed { step, problem, needs_human } => {
                self.failed += 1;
                let row = self.running.remove(step);
                return Some(self.place(step, row.as_ref()).failed(self.colors, problem, needs_human));
            }
            Event::Stopping => {
                self.stopping = true;
                return Some("stopping; once more to stop at once".to_owned());
            }
        }
        None
    }

    fn place(&self, step: &str, row: Option<&Row>) -> Place {
        Place { number: row.map(|row| (row.number, self.of)), step: step.to_owned() }
    }

    /// The lines for a terminal of `width` columns and `height` rows: a line per running step as far as there is
    /// room, then one for the whole. None is wider than the terminal, nor are there more than it has rows.
    pub fn lines(&self, width: usize, height: usize, now: Instant) -> Vec<String> {
        let mut rows: Vec<(&String, &Row)> = self.running.iter().collect();
        rows.sort_by_key(|(_, row)| row.number);
        // The total takes a row, and the cursor is below it.
        let room = height.saturating_sub(2);
        let shown = if rows.len() > room { room.saturating_sub(1) } else { rows.len() };
        let hidden = rows.len() - shown;
        rows.truncate(shown);
        // The richest form in which every line fits; names are shortened last.
        let forms =
            [(20, true, true), (20, true, false), (10, true, false), (0, true, false), (0, false, false)];
        let names = rows.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0);
        let shortened = std::iter::once((names.min((width / 2).max(8)), (0, false, false)));
        let mut lines = Vec::new();
        for (name_width, form) in forms.map(|form| (names, form)).into_iter().chain(shortened) {
            lines = rows.iter().map(|(name, row)| line(name, row, name_width, form, now)).collect();
            if lines.iter().all(|line: &String| measure_text_width(line) < width) {
                break;
            }
        }
        if hidden > 0 && room > 0 {
            lines.push(format!("… and {} more", format::count(hidden, "step")));
        }
        lines = lines.iter().map(|line| harmless(line.trim_end())).collect();
        lines.push(self.whole(now));
        // The last column stays free: some terminals begin a new line there.
        lines.iter().map(|line| truncate_str(line, width.saturating_sub(1), "…").into_owned()).collect()
    }

    fn whole(&self, now: Instant) -> String {
        let seconds = now.duration_since(self.began).as_secs_f64();
        let mut line = format!("[{}/{}] {} running", self.done, self.of, self.running.len());
        if self.failed > 0 {
            line.push_str(", ");
            line.push_str(&self.colors.paint(Color::Bad, &format!("{} failed", self.failed)));
        }
        if self.stopping {
            line.push_str(", ");
            line.push_str(&self.colors.paint(Color::Notice, "stopping"));
        }
        line.push_str(&format!(", {}", format::clock(seconds)));
        if let Some(left) = self.remaining(now).filter(|left| *left >= 1.0) {
            // Without an estimate, nothing is known of the steps that have not begun.
            let bound = if self.estimate.is_some() { "about" } else { "at least" };
            line.push_str(&format!(", {bound} {} left", format::clock(left)));
        }
        line
    }

    /// The seconds until the run ends. By the estimate from earlier runs, but no less than the running steps still take at
    /// their rates. This is the only remaining time that the view has.
    fn remaining(&self, now: Instant) -> Option<f64> {
        let steps = self.running.values().filter_map(|row| row.progress.as_ref()?.remaining(now));
        let run = self.estimate.map(|estimate| estimate - now.duration_since(self.began).as_secs_f64());
        steps.chain(run).reduce(f64::max).filter(|_| !self.stopping)
    }
}

/// A name without its middle, as families of steps differ at the end as well as at the beginning.
fn shorten(name: &str, width: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= width {
        return name.to_owned();
    }
    let tail = width.saturating_sub(1) / 2;
    let head = width.saturating_sub(1 + tail);
    letters[..head].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect()
}

/// One running step: `(columns of the bar, whether there is a rate, whether there is the last value)`.
fn line(
    name: &str,
    row: &Row,
    name_width: usize,
    (bar, rate, scalar): (usize, bool, bool),
    now: Instant,
) -> String {
    let name = shorten(name, name_width);
    let mut line = pad_str(&name, name_width, console::Alignment::Left, None).into_owned();
    let value = row.keeping.as_ref().unwrap_or(&row.scalar);
    let value = if scalar { format!("  {value}") } else { String::new() };
    let Some(progress) = &row.progress else {
        let elapsed = format::clock(now.duration_since(row.since).as_secs_f64());
        return format!("{line}  {elapsed}{value}").trim_end().to_owned();
    };
    let (done, total) = (progress.done.min(progress.total), progress.total.max(1));
    if bar > 0 {
        let full = (done as f64 / total as f64 * bar as f64) as usize;
        line.push_str(&format!("  {}{}", "█".repeat(full), "░".repeat(bar - full)));
    }
    if rate {
        line.push_str(&format!("  {}", format::so_far(done, progress.total, progress.unit)));
        if let Some(rate) = progress.rate(now) {
            line.push_str(&format!("  {}/s", format::rate(rate, progress.unit)));
        }
    } else {
        line.push_str(&format!("  {}%", done * 100 / total));
    }
    line + &value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(view: &mut View, step: &str, number: usize, at: Instant) {
        let event = Event::Started { step, device: "cpu", threads: 1, gpus: &[], number, of: 99 };
        assert_eq!(view.on(&event, at), None);
    }

    fn training(steps: usize) -> (View, Instant) {
        let began = Instant::now();
        let mut view = View::new(began, Colors::none());
        view.on(&Event::Planned { needed: 99, stale: 90, waiting: 9, estimated_seconds: Some(700.0) }, began);
        for number in 1..=steps {
            let step = format!("hmd-full-no-regions-{number}-train");
            started(&mut view, &step, number, began);
            for second in 0..=30u64 {
                let at = began + Duration::from_secs(second);
                view.on(
                    &Event::Progress { step: &step, done: second * 10, total: 600, unit: Unit::Items },
                    at,
                );
            }
            view.on(&Event::Scalar { step: &step, name: "train/loss", at: 300, value: Some(0.53) }, began);
        }
        (view, began + Duration::from_secs(30))
    }

    #[test]
    fn a_download_shows_sizes() {
        let began = Instant::now();
        let mut view = View::new(began, Colors::none());
        started(&mut view, "coco", 1, began);
        for second in 0..=10_u64 {
            let at = began + Duration::from_secs(second);
            let event = Event::Progress {
                step: "coco",
                done: second * 35_000_000,
                total: 1_400_000_000,
                unit: Unit::Bytes,
            };
            assert_eq!(view.on(&event, at), None);
        }
        let lines = view.lines(120, 20, began + Duration::from_secs(10));
        assert!(lines[0].contains("350.0 MB/1.4 GB  35.0 MB/s"), "{lines:?}");
        assert_eq!(lines[1], "[0/99] 1 running, 0:10, at least 0:30 left");
    }

    #[test]
    fn a_wide_terminal_shows_bar_count_rate_and_value_and_one_time_left() {
        let (view, now) = training(1);
        assert_eq!(
            view.lines(120, 24, now),
            [
                "hmd-full-no-regions-1-train  ██████████░░░░░░░░░░  300/600  10/s  train/loss 0.5300",
                "[0/99] 1 running, 0:30, about 11:10 left"
            ]
        );
    }

    #[test]
    fn a_narrow_one_keeps_what_counts() {
        let (view, now) = training(1);
        assert_eq!(
            view.lines(40, 24, now),
            ["hmd-full-no-regions-1-train  50%", "[0/99] 1 running, 0:30, about 11:10 le…"]
        );
    }

    #[test]
    fn nothing_is_ever_larger_than_the_terminal() {
        for steps in [0, 1, 3, 50] {
            let (view, now) = training(steps);
            for (width, height) in [(1, 1), (5, 2), (20, 3), (40, 10), (80, 24), (300, 100)] {
                let lines = view.lines(width, height, now);
                assert!(lines.len() < height.max(2), "{} lines in {height} rows", lines.len());
                for line in &lines {
                    assert!(measure_text_width(line) < width.max(2), "`{line}` in {width} columns");
                }
            }
        }
    }

    #[test]
    fn many_steps_are_counted_where_there_is_no_room() {
        let (view, now) = training(50);
        let lines = view.lines(80, 12, now);
        assert_eq!(lines.len(), 11);
        assert_eq!(lines[9], "… and 41 steps more");
    }

    #[test]
    fn the_time_left_is_never_less_than_that_of_a_running_step() {
        let (mut view, now) = training(1);
        view.estimate = Some(40.0);
        assert_eq!(view.lines(80, 24, now)[1], "[0/99] 1 running, 0:30, about 0:30 left");
        view.estimate = Some(90.0);
        assert_eq!(view.lines(80, 24, now)[1], "[0/99] 1 running, 0:30, about 1:00 left");
        view.on(&Event::Stopping, now);
        assert_eq!(view.lines(80, 24, now)[1], "[0/99] 1 running, stopping, 0:30");
    }

    #[test]
    fn a_failure_leaves_its_reason() {
        let (mut view, now) = training(2);
        let failed = |view: &mut View, step: &str, needs_human| {
            view.on(&Event::Failed { step, problem: "exit code 3:\n  broken\u{7}", needs_human }, now)
                .unwrap()
        };
        let line = failed(&mut view, "hmd-full-no-regions-2-train", false);
        assert_eq!(line, "[2/99] hmd-full-no-regions-2-train failed: exit code 3:\n  broken\\u{7}");
        assert_eq!(failed(&mut view, "archive", true), "archive needs you");
        assert!(view.lines(80, 24, now)[1].starts_with("[0/99] 1 running, 2 failed, 0:30"));
    }

    #[test]
    fn what_ends_leaves_a_line() {
        let (mut view, now) = training(1);
        let step = "hmd-full-no-regions-1-train";
        let tree = crate::digest::Digest::of_bytes(b"");
        let line = view.on(&Event::Finished { step, seconds: 61.0, tree, same: false }, now);
        assert_eq!(
            line.as_deref(),
            Some("[1/99] hmd-full-no-regions-1-train done in 1 min 1 s  train/loss 0.5300")
        );
        assert_eq!(view.lines(80, 24, now).len(), 1);
    }
}
