//! The content of the state log, with an index: records by key and by step, digests of files by path. A line is a
//! word followed by its values:
//!
//! ```text
//! record <key> <tree> {…}    an execution whose bytes are synced
//! recent <key> <tree> {…}    an execution whose bytes may not be synced yet
//! synced <at>                the bytes of all executions before that byte of the log are synced
//! tree <tree> <manifest>     the manifest of a small tree
//! forgotten <key>            earlier executions of that key are void
//! failed <key> {…}           an execution that failed; void once one of that key succeeds
//! file <stamp> <digest> …    the digest of a project file, by its stamp
//! version {…}                the output of a version command
//! up-to-date <request> {…}   the dependency snapshot of a "nothing to do", based on the executions above
//! ```
//!
//! A later line supersedes an earlier one of the same key or path. Lines are decoded when they are needed: planning
//! needs the tree of a key, not the record.

mod compact;
mod failures;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use serde::Deserialize;

pub use failures::FailedRun;
use failures::Failures;
pub(super) use failures::failed_line;

use super::log::{Damage, Line, Log, News};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// In bytes. A longer manifest gets its own file: the log is read completely, a manifest rarely.
const MAX_MANIFEST_BYTES: usize = 1024;

/// A line about an execution.
#[derive(Debug, Clone)]
enum Event {
    Ran { line: Line, is_synced: bool },
    Forgotten(Line),
}

impl Event {
    fn line(&self) -> &Line {
        let (Self::Ran { line, .. } | Self::Forgotten(line)) = self;
        line
    }
}

/// A position in the log, and the file that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    file: Option<(u64, u64)>,
    at: usize,
}

/// The log with an index. Each part of the index is built at its first use.
#[derive(Debug)]
pub(super) struct State {
    log: Log,
    events: Vec<Event>,
    /// All events before this index are synced.
    synced: usize,
    files: Vec<Line>,
    versions: Vec<Line>,
    failures: Failures,
    manifests: Vec<Line>,
    /// The manifest of each tree, and how many lines are indexed.
    trees: (HashMap<Digest, Line>, usize),
    /// By request: the dependency snapshot of its last "nothing to do", and the number of events it is based on.
    up_to_date: HashMap<Digest, (Line, usize)>,
    /// By key: the index in `events` of its newest execution. The number counts the indexed events.
    keys: (HashMap<Digest, usize>, usize),
    /// Events whose record could be decoded.
    readable: HashSet<usize>,
    /// By profile and step: start time and index of its newest execution. The number counts the indexed events.
    steps: (HashMap<String, (u64, usize)>, usize),
}

/// The fields that identify the step of a record.
#[derive(Deserialize)]
struct Whose<'a> {
    #[serde(borrow)]
    step: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    profile: std::borrow::Cow<'a, str>,
    started_ms: u64,
}

/// An execution, as planning needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ran {
    pub tree: Digest,
    /// Whether its bytes are synced.
    pub is_synced: bool,
}

impl State {
    /// Reads the log in `path`, which need not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut state = Self {
            log: Log::new(path),
            events: Vec::new(),
            synced: 0,
            files: Vec::new(),
            versions: Vec::new(),
            failures: Failures::default(),
            manifests: Vec::new(),
            trees: Default::default(),
            up_to_date: HashMap::new(),
            keys: Default::default(),
            readable: HashSet::new(),
            steps: Default::default(),
        };
        state.refresh()?;
        Ok(state)
    }

    /// Reads what others have appended. Returns whether there was anything.
    pub fn refresh(&mut self) -> io::Result<bool> {
        let news = self.log.refresh()?;
        Ok(self.take(news))
    }

    fn take(&mut self, news: News) -> bool {
        let lines = match news {
            News::More(lines) => lines,
            News::Rewritten(lines) => {
                self.events.clear();
                self.files.clear();
                self.versions.clear();
                self.failures = Failures::default();
                self.manifests.clear();
                self.trees = Default::default();
                self.up_to_date.clear();
                self.synced = 0;
                self.keys = Default::default();
                self.readable.clear();
                self.steps = Default::default();
                lines
            }
        };
        for line in &lines {
            let text = self.log.text(line);
            let word = text.split_once(' ').map_or(text, |(word, _)| word);
            match word {
                "record" | "recent" => {
                    self.failures.forget(text);
                    self.events.push(Event::Ran { line: line.clone(), is_synced: word == "record" });
                }
                "failed" => self.failures.add(&self.log, line),
                "forgotten" => self.events.push(Event::Forgotten(line.clone())),
                "synced" => {
                    let at: usize = text.split_once(' ').and_then(|(_, at)| at.parse().ok()).unwrap_or(0);
                    self.synced = self.events.partition_point(|event| event.line().start < at);
                }
                "file" => self.files.push(line.clone()),
                "tree" => self.manifests.push(line.clone()),
                "version" => self.versions.push(line.clone()),
                "up-to-date" => {
                    let request = text.split(' ').nth(1).and_then(|request| request.parse().ok());
                    if let Some(request) = request {
                        self.up_to_date.insert(request, (line.clone(), self.events.len()));
                    }
                }
                // A later version of this program may write other words in this layout.
                _ => {}
            }
        }
        !lines.is_empty()
    }

    /// Appends lines; the caller holds the lock.
    pub fn append(&mut self, lines: &[String], durable: bool) -> io::Result<()> {
        self.refresh()?;
        let lines = self.log.append(lines, durable)?;
        self.take(News::More(lines));
        Ok(())
    }

    /// The damaged parts of the log.
    pub fn damaged(&self) -> &[Damage] {
        self.log.damaged()
    }

    /// The newest execution of a key.
    pub fn ran(&mut self, key: &StageKey) -> Option<Ran> {
        let event = self.find(key)?;
        let (_, tree, _) = self.parts(event)?;
        Some(Ran { tree, is_synced: self.is_synced(event) })
    }

    /// The record of a key.
    pub fn record(&mut self, key: &StageKey) -> Option<RunRecord> {
        let event = self.find(key)?;
        self.decode(event)
    }

    /// The newest record of a step in a profile.
    pub fn last(&mut self, profile: &str, step: &str) -> Option<RunRecord> {
        self.index_steps();
        let (_, event) = *self.steps.0.get(&place(profile, step))?;
        // An unreadable record does not hide readable ones.
        let of_step = |record: &RunRecord| record.profile == profile && record.step == step;
        self.decode(event).or_else(|| self.records().into_iter().rfind(of_step))
    }

    /// All valid records, oldest first.
    pub fn records(&mut self) -> Vec<RunRecord> {
        let mut found: Vec<RunRecord> =
            self.live().into_iter().filter_map(|event| self.decode(self.readable(event)?)).collect();
        found.sort_by(|a, b| (a.started_ms, a.key_text.as_str()).cmp(&(b.started_ms, b.key_text.as_str())));
        found
    }

    /// The manifest of a tree, if the log holds it.
    pub fn manifest(&mut self, tree: &Digest) -> Option<Manifest> {
        for line in &self.manifests[self.trees.1..] {
            let tree = self.log.text(line).split(' ').nth(1).and_then(|tree| tree.parse().ok());
            self.trees.0.extend(tree.map(|tree| (tree, line.clone())));
        }
        self.trees.1 = self.manifests.len();
        let text = self.log.text(self.trees.0.get(tree)?).splitn(3, ' ').nth(2)?;
        Manifest::parse(&text.replace('\0', "\n")).ok()
    }

    /// The lines about files, oldest first, without their first word.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter_map(|line| self.log.text(line).strip_prefix("file "))
    }

    /// The lines about version commands, oldest first, without their first word.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().filter_map(|line| self.log.text(line).strip_prefix("version "))
    }

    /// The dependency snapshot of the last "nothing to do" of `request`, if no execution was recorded since.
    pub fn up_to_date(&self, request: &Digest) -> Option<&str> {
        let (line, events) = self.up_to_date.get(request)?;
        // The damaged line may have been an execution.
        let is_valid = *events == self.events.len() && self.log.damaged().is_empty();
        is_valid.then(|| self.log.text(line).splitn(3, ' ').nth(2))?
    }

    /// Stores a dependency snapshot that is based on what was known at `mark`; the caller holds the lock.
    pub fn keep_up_to_date(&mut self, mark: Mark, request: &Digest, note: &str) -> io::Result<()> {
        let known = self.events.len();
        self.refresh()?;
        // If another process has recorded an execution meanwhile, the snapshot may be wrong.
        let is_same = self.log.file() == mark.file && self.events.len() == known;
        if is_same { self.append(&[format!("up-to-date {request} {note}")], false) } else { Ok(()) }
    }

    /// Whether there are executions that are not known to be synced.
    pub fn has_unsynced(&self) -> bool {
        (self.synced..self.events.len()).any(|event| !self.is_synced(event))
    }

    /// The position up to which the log was read.
    pub fn mark(&self) -> Mark {
        Mark { file: self.log.file(), at: self.log.len() }
    }

    /// Records that all executions before `mark` are synced; the caller holds the lock.
    pub fn vouch(&mut self, mark: Mark) -> io::Result<()> {
        self.refresh()?;
        // If the log was rewritten meanwhile, the mark is void.
        if self.log.file() == mark.file {
            self.append(&[format!("synced {}", mark.at)], false)
        } else {
            Ok(())
        }
    }

    fn is_synced(&self, event: usize) -> bool {
        event < self.synced || matches!(self.events[event], Event::Ran { is_synced: true, .. })
    }

    /// The newest execution of a key whose record can be read.
    fn find(&mut self, key: &StageKey) -> Option<usize> {
        self.index_keys();
        let event = *self.keys.0.get(&key.0)?;
        if self.readable.contains(&event) {
            return Some(event);
        }
        let readable = self.readable(event)?;
        self.readable.insert(readable);
        self.keys.0.insert(key.0, readable);
        Some(readable)
    }

    /// The last execution of its key, up to this one, whose record can be read.
    fn readable(&self, event: usize) -> Option<usize> {
        if self.decode(event).is_some() {
            return Some(event);
        }
        let (key, ..) = self.parts(event)?;
        for before in (0..event).rev() {
            match &self.events[before] {
                Event::Ran { .. } => {
                    if self.parts(before).is_some_and(|(other, ..)| other == key)
                        && self.decode(before).is_some()
                    {
                        return Some(before);
                    }
                }
                Event::Forgotten(line) if self.log.text(line) == forgotten_line(&StageKey(key)) => {
                    return None;
                }
                Event::Forgotten(_) => {}
            }
        }
        None
    }

    /// The newest execution of each key, in the order of the log.
    fn live(&mut self) -> Vec<usize> {
        self.index_keys();
        let mut live: Vec<usize> = self.keys.0.values().copied().collect();
        live.sort_unstable();
        live
    }

    fn index_keys(&mut self) {
        for event in self.keys.1..self.events.len() {
            match &self.events[event] {
                Event::Ran { .. } => {
                    if let Some((key, ..)) = self.parts(event) {
                        self.keys.0.insert(key, event);
                    }
                }
                Event::Forgotten(line) => {
                    let text = self.log.text(line);
                    if let Some(Ok(key)) = text.strip_prefix("forgotten ").map(str::parse::<Digest>) {
                        self.keys.0.remove(&key);
                        // The index of the steps is rebuilt: an earlier execution may be the newest again.
                        self.steps = Default::default();
                    }
                }
            }
        }
        self.keys.1 = self.events.len();
    }

    fn index_steps(&mut self) {
        self.index_keys();
        for event in self.steps.1..self.events.len() {
            let Some((key, _, json)) = self.parts(event) else { continue };
            if !self.keys.0.contains_key(&key) {
                continue;
            }
            let Ok(whose) = serde_json::from_str::<Whose>(json) else { continue };
            let (place, began) = (place(&whose.profile, &whose.step), whose.started_ms);
            if self.steps.0.get(&place).is_none_or(|(other, _)| *other <= began) {
                self.steps.0.insert(place, (began, event));
            }
        }
        self.steps.1 = self.events.len();
    }

    /// Key, tree and JSON of an execution's line.
    fn parts(&self, event: usize) -> Option<(Digest, Digest, &str)> {
        let Event::Ran { line, .. } = &self.events[event] else { return None };
        let (_, rest) = self.log.text(line).split_once(' ')?;
        let (key, rest) = rest.split_once(' ')?;
        let (tree, json) = rest.split_once(' ')?;
        Some((key.parse().ok()?, tree.parse().ok()?, json))
    }

    fn decode(&self, event: usize) -> Option<RunRecord> {
        let (key, tree, json) = self.parts(event)?;
        let record: RunRecord = serde_json::from_str(json).ok()?;
        // The line's key and tree must match those of its record.
        (record.key_text.key().0 == key && record.tree == tree).then_some(record)
    }
}

fn place(profile: &str, step: &str) -> String {
    format!("{profile}\n{step}")
}

/// The line for an execution.
pub(super) fn ran_line(record: &RunRecord, is_synced: bool) -> serde_json::Result<String> {
    let word = if is_synced { "record" } else { "recent" };
    Ok(format!("{word} {} {} {}", record.key_text.key(), record.tree, serde_json::to_string(record)?))
}

/// The line for the manifest of a small tree. A separate file per manifest would be the largest cost of storing a
/// short step.
pub(super) fn tree_line(tree: &Digest, manifest: &Manifest) -> Option<String> {
    let text = manifest.text();
    // No path holds the character NUL.
    (text.len() <= MAX_MANIFEST_BYTES).then(|| format!("tree {tree} {}", text.replace('\n', "\0")))
}

/// The line that makes a record void.
pub(super) fn forgotten_line(key: &StageKey) -> String {
    format!("forgotten {key}")
}
