//! Draws the view of a run on a terminal: again and again in place, what has ended scrolling away above. It asks
//! for the terminal's size each time, so that a resized window is redrawn.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use console::{Term, measure_text_width};

use super::view::View;
use crate::cli::terminal_text::{Colors, wrapped};
use crate::run::{Event, Observer};

/// How often the view is drawn.
const EVERY: Duration = Duration::from_millis(200);

/// The observer for a terminal.
pub struct Live {
    screen: Arc<RemoteCache>,
    thread: Option<JoinHandle<()>>,
}

struct RemoteCache {
    screen: Mutex<Screen>,
    ended: Condvar,
}

struct Screen {
    view: View,
    /// The widths of the lines on the terminal.
    drawn: Vec<usize>,
    /// Lines that go above the view with the next drawing.
    above: Vec<String>,
    is_over: bool,
}

impl RemoteCache {
    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Live {
    pub fn start() -> Self {
        let screen = Screen {
            view: View::new(Instant::now(), Colors::stderr()),
            drawn: Vec::new(),
            above: Vec::new(),
            is_over: false,
        };
        let screen = Arc::new(RemoteCache { screen: Mutex::new(screen), ended: Condvar::new() });
        let shared = Arc::clone(&screen);
        let thread = std::thread::spawn(move || {
            let mut screen = shared.lock();
            while !screen.is_over {
                screen.draw();
                let waited = shared.ended.wait_timeout(screen, EVERY);
                screen = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
        });
        Self { screen, thread: Some(thread) }
    }
}

impl Observer for Live {
    fn on(&mut self, event: &Event) {
        let mut screen = self.screen.lock();
        let line = screen.view.on(event, Instant::now());
        // Each line on its own: what was drawn in its place is erased up to the end.
        screen.above.extend(line.iter().flat_map(|line| line.split('\n')).map(str::to_owned));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.screen.lock().is_over = true;
        self.screen.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only draws; if it panicked there is nothing left to save.
            let _ = thread.join();
        }
        self.screen.lock().clear();
    }
}

impl Screen {
    fn draw(&mut self) {
        let (height, width) = Term::stderr().size();
        let (height, width) = (usize::from(height), usize::from(width));
        // The first row stays free: a terminal that is cleared from its first row on may keep what it showed.
        let lines = self.view.lines(width, height.saturating_sub(1), Instant::now());
        self.put(&lines, width);
    }

    fn clear(&mut self) {
        let (_, width) = Term::stderr().size();
        self.put(&[], usize::from(width));
    }

    /// Replaces what is drawn by what scrolls away and `lines`. A terminal that became narrower has broken the
    /// old lines: they take more rows now.
    fn put(&mut self, lines: &[String], width: usize) {
        let rows: usize = self.drawn.iter().map(|drawn| drawn.div_ceil(width.max(1)).max(1)).sum();
        let mut text = String::new();
        if rows > 0 {
            text.push_str(&format!("\x1b[{rows}A"));
        }
        text.push('\r');
        let above = self.above.drain(..).map(|line| {
            let indent = line.len() - line.trim_start_matches(' ').len();
            line[..indent].to_owned() + &wrapped(&line[indent..], indent, Some(width))
        });
        for line in above.chain(lines.iter().cloned()) {
            text.push_str(&line.replace('\n', "\x1b[K\n"));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.iter().map(|line| measure_text_width(line)).collect();
        // A closed terminal does not stop the work.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}
