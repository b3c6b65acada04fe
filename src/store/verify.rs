//! Verifies results: reports those that do not match their digest, and keeps how a rerun of a step compared with its result.
//! `Writer::drop_damaged` then drops a damaged one, so that its step runs again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::verified::{ResultError, VerifiedPath};
use super::{ContentStore, StoreError, Writer, files};
use crate::compare::Difference;
use crate::digest::Digest;
use crate::key::StageKey;

/// A result whose bytes do not match its digest, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedTree {
    /// Its digest.
    pub tree: Digest,
    /// The steps that wrote it, with their profiles.
    pub steps: BTreeSet<(String, String)>,
    /// The first problems, one per file.
    pub problems: Vec<String>,
}

/// The outcome of the check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// The number of hashed results.
    pub trees: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// The damaged ones, by digest.
    pub damaged: Vec<DamagedTree>,
    /// The unreadable ones, by digest. They may be intact.
    pub unreadable: Vec<DamagedTree>,
}

/// A comparison of two runs of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RerunVerdict {
    /// When the two were compared, in milliseconds since 1970.
    pub when_ms: u64,
    /// How they compare.
    pub outcome: RerunOutcome,
}

/// How two runs of one key compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum RerunOutcome {
    /// The bytes were the same.
    Same,
    /// The numbers were the same to within the declared tolerance.
    Within {
        /// That tolerance.
        tolerance: f64,
    },
    /// They were not.
    Differs {
        /// The declared tolerance, if one is declared.
        tolerance: Option<f64>,
        /// The files that differ.
        files: Vec<Difference>,
    },
}

impl ContentStore {
    /// How the last rerun of a key compared with its result.
    pub fn verdict(&self, key: &StageKey) -> Option<RerunVerdict> {
        let text = fs::read_to_string(self.root.join("verdicts").join(key.to_string())).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Keeps how a rerun compared, in place of an earlier one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep_verdict(&self, key: &StageKey, verdict: &RerunVerdict) -> Result<(), StoreError> {
        let folder = self.root.join("verdicts");
        let path = folder.join(key.to_string());
        fs::create_dir_all(&folder)
            .and_then(|()| Ok(serde_json::to_vec(verdict)?))
            .and_then(|text| files::write_whole(&path, &text, false))
            .map_err(StoreError::io(&path, "write"))
    }

    /// Hashes the results of all steps and profiles for which `is_selected` holds, on all cores. After each result it
    /// calls `on_progress` with the number of checked results and the total.
    pub fn verify(
        &self,
        is_selected: &dyn Fn(&str, &str) -> bool,
        on_progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Verified {
        let mut by_tree: BTreeMap<Digest, (BTreeSet<(String, String)>, u64)> = BTreeMap::new();
        for record in self.records() {
            if is_selected(&record.step, &record.profile) && self.has_bytes(&record.tree) {
                let (steps, bytes) = by_tree.entry(record.tree).or_default();
                steps.insert((record.step, record.profile));
                *bytes = record.bytes;
            }
        }
        let bytes = by_tree.values().fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes));
        let trees: Vec<_> =
            by_tree.into_iter().map(|(tree, (steps, _))| (tree, steps, self.tree_folder(&tree))).collect();
        let (next, done, doubtful) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(trees.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((tree, steps, path)) = trees.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if VerifiedPath::check(path, tree).is_err() {
                            doubtful.lock().unwrap_or_else(PoisonError::into_inner).push((*tree, steps));
                        }
                        on_progress(done.fetch_add(1, Ordering::Relaxed) + 1, trees.len());
                    }
                });
            }
        });
        let doubtful = doubtful.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut damaged, mut unreadable) = (Vec::new(), Vec::new());
        for (tree, steps) in doubtful {
            let found = |problems| DamagedTree { tree, steps: steps.clone(), problems };
            match self.open_tree(&tree) {
                Err(ResultError::Damaged(problems)) => damaged.push(found(problems)),
                Err(ResultError::Unreadable(error)) => unreadable.push(found(vec![error.to_string()])),
                // Another process has removed or replaced it meanwhile.
                Err(ResultError::Missing) | Ok(_) => {}
            }
        }
        damaged.sort_by_key(|found| found.tree);
        unreadable.sort_by_key(|found| found.tree);
        Verified { trees: trees.len(), bytes, damaged, unreadable }
    }
}

impl Writer {
    /// Drops a damaged tree: removes its bytes and the records of the executions that wrote it, so that its steps run
    /// again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn drop_damaged(&self, tree: &Digest) -> Result<(), StoreError> {
        let records = self.store().records();
        for record in records.iter().filter(|record| record.tree == *tree) {
            self.forget(&record.key_text.key())?;
        }
        self.forget_bytes(tree)
    }
}
