//! Rewrites the state log with its valid lines.

use std::collections::HashSet;
use std::io;

use super::{Event, State};

impl State {
    /// Drops superseded and damaged lines if that pays off; the caller holds the lock. `keeps_file` decides whether a
    /// line about a file is kept.
    pub fn compact(&mut self, keeps_file: &mut dyn FnMut(&str) -> bool) -> io::Result<()> {
        self.refresh()?;
        let mut lines: Vec<(usize, String)> = Vec::new();
        let mut trees = HashSet::new();
        // An unreadable record may be of a later version, so its last readable predecessor is kept as well.
        let live: Vec<usize> = self.live();
        let mut kept: Vec<usize> =
            live.iter().flat_map(|event| [Some(*event), self.readable(*event)]).flatten().collect();
        kept.sort_unstable();
        kept.dedup();
        for event in kept {
            trees.extend(self.parts(event).map(|(_, tree, _)| tree));
            let Event::Ran { line, .. } = &self.events[event] else { continue };
            let text = self.log.text(line);
            let rest = text.split_once(' ').map_or("", |(_, rest)| rest);
            let word = if self.is_synced(event) { "record" } else { "recent" };
            lines.push((line.start, format!("{word} {rest}")));
        }
        for line in &self.manifests {
            let text = self.log.text(line);
            // One line for each tree that a kept execution names.
            let tree = text.split(' ').nth(1).and_then(|tree| tree.parse().ok());
            if tree.is_some_and(|tree| trees.remove(&tree)) {
                lines.push((line.start, text.to_owned()));
            }
        }
        // From newest to oldest: the first line of a path is the valid one.
        for line in self.files.iter().rev() {
            let text = self.log.text(line);
            if text.strip_prefix("file ").is_some_and(&mut *keeps_file) {
                lines.push((line.start, text.to_owned()));
            }
        }
        let valid = self.up_to_date.values().filter(|(_, events)| *events == self.events.len());
        lines.extend(valid.map(|(line, _)| (line.start, self.log.text(line).to_owned())));
        // There are few of these lines.
        lines.extend(self.failures.lines().map(|line| (line.start, self.log.text(line).to_owned())));
        lines.extend(self.versions.iter().map(|line| (line.start, self.log.text(line).to_owned())));
        let live = lines.iter().map(|(_, text)| text.len() + 18).sum();
        if !self.log.is_wasteful(live) {
            return Ok(());
        }
        lines.sort_unstable();
        let lines: Vec<String> = lines.into_iter().map(|(_, text)| text).collect();
        let news = self.log.replace(&lines)?;
        self.take(news);
        Ok(())
    }

    /// Whether the log is long enough for [`State::compact`].
    pub fn may_compact(&self) -> bool {
        self.log.is_wasteful(0)
    }
}
