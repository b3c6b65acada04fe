//! What the state log says, line by line, and where to find it: records by key and by step, digests of files by
//! path. A line is a word and what belongs to it:
//!
//! ```text
//! record <key> <tree> {…}    an execution whose bytes are on the disk for good
//! recent <key> <tree> {…}    an execution whose bytes the system may still hold in memory
//! synced <at>                the bytes of all executions that stand before that byte are on the disk for good
//! tree <tree> <manifest>     what is in the tree of an execution that wrote few files
//! forgotten <key>            the execution of that key above counts no more
//! file <stamp> <digest> …    the digest of a file of the project, by its stamp
//! version {…}                what a version command printed
//! up-to-date <request> {…}   what a request depends on that was up to date by the executions above
//! ```
//!
//! A later line goes over an earlier one of the same key or path. It decodes only what is asked for: judging needs
//! the tree of a key, not the record.

mod compact;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::log::{Damage, Line, Log, News};
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::Manifest;

/// A longer manifest stands in a file of its own, in bytes: the log is read whole, manifests seldom.
const LONGEST_MANIFEST: usize = 1024;

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

/// A point of the log: up to where it was read, and of which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    file: Option<(u64, u64)>,
    at: usize,
}

/// The log with an index over it. Each part of the index is made when it is first asked for.
#[derive(Debug)]
pub(super) struct State {
    log: Log,
    events: Vec<Event>,
    /// Up to where a `synced` line vouches for events.
    synced: usize,
    files: Vec<Line>,
    versions: Vec<Line>,
    manifests: Vec<Line>,
    /// By tree: what is in it; as of so many lines.
    trees: (HashMap<Digest, Line>, usize),
    /// By request: the line that it was last found up to date, and by how many events.
    up_to_date: HashMap<Digest, (Line, usize)>,
    /// By key: its newest execution, an index into `events`; as of so many events.
    keys: (HashMap<Digest, usize>, usize),
    /// Events whose record was decoded.
    readable: HashSet<usize>,
    /// By profile and step: when its newest execution began, and which event that is; as of so many events.
    steps: (HashMap<String, (u64, usize)>, usize),
}

/// The few fields that tell whose record it is.
#[derive(Deserialize)]
struct Whose<'a> {
    #[serde(borrow)]
    step: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    profile: std::borrow::Cow<'a, str>,
    started_ms: u64,
}

/// An execution as judging sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ran {
    pub tree: Digest,
    /// Whether a power cut can no longer take its bytes.
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

    /// Reads what others appended; says whether that was anything.
    pub fn refresh(&mut self) -> io::Result<bool> {
        let news = self.log.refresh()?;
        Ok(self.take(news))
    }

    fn take(&mut self, news: News) -> bool {
        let lines = match news {
            News::More(lines) => lines,
            News::Anew(lines) => {
                self.events.clear();
                self.files.clear();
                self.versions.clear();
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
                    self.events.push(Event::Ran { line: line.clone(), is_synced: word == "record" });
                }
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
                // Of a later program that writes this same layout.
                _ => {}
            }
        }
        !lines.is_empty()
    }

    /// Appends lines; with the lock held.
    pub fn append(&mut self, lines: &[String], durable: bool) -> io::Result<()> {
        self.refresh()?;
        let lines = self.log.append(lines, durable)?;
        self.take(News::More(lines));
        Ok(())
    }

    /// What was found damaged.
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
        // One that cannot be read hides none that can.
        let of_step = |record: &RunRecord| record.profile == profile && record.step == step;
        self.decode(event).or_else(|| self.records().into_iter().rfind(of_step))
    }

    /// Every record that counts, oldest first.
    pub fn records(&mut self) -> Vec<RunRecord> {
        let mut found: Vec<RunRecord> =
            self.live().into_iter().filter_map(|event| self.decode(self.readable(event)?)).collect();
        found.sort_by(|a, b| (a.started_ms, a.key_text.as_str()).cmp(&(b.started_ms, b.key_text.as_str())));
        found
    }

    /// What is in a tree, where a line says so.
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

    /// What was kept of `request` when it was found up to date, if that was by all the executions that are known now.
    pub fn up_to_date(&self, request: &Digest) -> Option<&str> {
        let (line, events) = self.up_to_date.get(request)?;
        // What a damaged line said may have been an execution.
        let is_valid = *events == self.events.len() && self.log.damaged().is_empty();
        is_valid.then(|| self.log.text(line).splitn(3, ' ').nth(2))?
    }

    /// Notes that a request is up to date by what was known at `mark`; with the lock held.
    pub fn keep_up_to_date(&mut self, mark: Mark, request: &Digest, note: &str) -> io::Result<()> {
        let known = self.events.len();
        self.refresh()?;
        // Another process has executed something since: then nothing is certain.
        let is_same = self.log.file() == mark.file && self.events.len() == known;
        if is_same { self.append(&[format!("up-to-date {request} {note}")], false) } else { Ok(()) }
    }

    /// Whether executions were recorded that no `synced` vouches for.
    pub fn has_unsynced(&self) -> bool {
        (self.synced..self.events.len()).any(|event| !self.is_synced(event))
    }

    /// How far the log was read.
    pub fn mark(&self) -> Mark {
        Mark { file: self.log.file(), at: self.log.len() }
    }

    /// Notes that the bytes of all executions before `mark` are on the disk for good; with the lock held.
    pub fn vouch(&mut self, mark: Mark) -> io::Result<()> {
        self.refresh()?;
        // In a log written anew meanwhile the mark means nothing; the next one will.
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

    /// An execution whose record can be read: this one, or else the last one of its key before it.
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
                        // Which step it was of, and what was the one before, is found out afresh.
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
        // What it was found by is what it says.
        (record.key_text.key().0 == key && record.tree == tree).then_some(record)
    }
}

fn place(profile: &str, step: &str) -> String {
    format!("{profile}\n{step}")
}

/// The line of an execution.
pub(super) fn ran_line(record: &RunRecord, is_synced: bool) -> serde_json::Result<String> {
    let word = if is_synced { "record" } else { "recent" };
    Ok(format!("{word} {} {} {}", record.key_text.key(), record.tree, serde_json::to_string(record)?))
}

/// The line of a tree, if there are few enough files in it: a file of its own for each manifest would cost a short
/// step more than all else that is kept of it.
pub(super) fn tree_line(tree: &Digest, manifest: &Manifest) -> Option<String> {
    let text = manifest.text();
    // No path holds the character NUL.
    (text.len() <= LONGEST_MANIFEST).then(|| format!("tree {tree} {}", text.replace('\n', "\0")))
}

/// The line that takes a record back.
pub(super) fn forgotten_line(key: &StageKey) -> String {
    format!("forgotten {key}")
}
