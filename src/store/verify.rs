//! Hashes what the store holds and says what is not what its name says. It repairs nothing: what is damaged is put
//! away, so that the step that made it runs again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::{ContentStore, StoreError, Writer};
use crate::digest::Digest;
use crate::tree::{Manifest, TreeError};

/// No more files of a damaged result are named.
const NAMED_FILES: usize = 5;

/// A result whose bytes are not what they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedTree {
    /// Its digest.
    pub tree: Digest,
    /// The steps that wrote it, with their profiles.
    pub steps: BTreeSet<(String, String)>,
    /// What is wrong, a file or a problem each; the first few.
    pub problems: Vec<String>,
}

/// What hashing has shown.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// How many results were hashed.
    pub trees: usize,
    /// How many bytes they have.
    pub bytes: u64,
    /// Those that are damaged, by digest.
    pub damaged: Vec<DamagedTree>,
}

impl ContentStore {
    /// Hashes the results of records for which `wanted` holds (of a step and its profile), on all cores; `told`
    /// hears after each how many of how many are done.
    pub fn verify(
        &self,
        wanted: &dyn Fn(&str, &str) -> bool,
        told: &(dyn Fn(usize, usize) + Sync),
    ) -> Verified {
        let mut by_tree: BTreeMap<Digest, (BTreeSet<(String, String)>, u64)> = BTreeMap::new();
        for record in self.records() {
            if wanted(&record.step, &record.profile) && self.has_bytes(&record.tree) {
                let (steps, bytes) = by_tree.entry(record.tree).or_default();
                steps.insert((record.step, record.profile));
                *bytes = record.bytes;
            }
        }
        let bytes = by_tree.values().map(|(_, bytes)| bytes).sum();
        let trees: Vec<_> =
            by_tree.into_iter().map(|(tree, (steps, _))| (tree, steps, self.tree(&tree))).collect();
        let (next, done, doubtful) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(trees.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((tree, steps, path)) = trees.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = Manifest::of_folder(path);
                        if !found.as_ref().is_ok_and(|found| found.digest() == *tree) {
                            let found = (*tree, steps, found);
                            doubtful.lock().unwrap_or_else(PoisonError::into_inner).push(found);
                        }
                        told(done.fetch_add(1, Ordering::Relaxed) + 1, trees.len());
                    }
                });
            }
        });
        let doubtful = doubtful.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut damaged: Vec<DamagedTree> = doubtful
            .into_iter()
            .map(|(tree, steps, found)| {
                let problems = problems(&found, self.recorded_manifest(&tree).as_ref());
                DamagedTree { tree, steps: steps.clone(), problems }
            })
            .collect();
        damaged.sort_by_key(|found| found.tree);
        Verified { trees: trees.len(), bytes, damaged }
    }
}

impl Writer {
    /// Puts a damaged tree away: its bytes go, and the executions that wrote it count no more, so that its steps run
    /// again.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn condemn(&self, tree: &Digest) -> Result<(), StoreError> {
        let records = self.store().records();
        for record in records.iter().filter(|record| record.tree == *tree) {
            self.forget(&record.key_text.key())?;
        }
        self.forget_bytes(tree)
    }
}

/// How a damaged tree differs from what it should be.
fn problems(found: &Result<Manifest, TreeError>, known: Option<&Manifest>) -> Vec<String> {
    let found = match found {
        Err(error) => return vec![error.to_string()],
        Ok(found) => found,
    };
    let Some(known) = known else { return vec!["its bytes have another digest".to_owned()] };
    let entry = |manifest: &Manifest, path: &str| {
        let entries = manifest.entries();
        entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok().map(|at| entries[at].digest)
    };
    let mut problems: Vec<String> = known
        .entries()
        .iter()
        .filter_map(|was| match entry(found, &was.path) {
            None => Some(format!("{} is missing", was.path)),
            Some(digest) if digest != was.digest => Some(format!("{} has other bytes", was.path)),
            Some(_) => None,
        })
        .collect();
    let added = found.entries().iter().filter(|is| entry(known, &is.path).is_none());
    problems.extend(added.map(|is| format!("{} was not there", is.path)));
    if problems.len() > NAMED_FILES {
        let more = problems.len() - NAMED_FILES;
        problems.truncate(NAMED_FILES);
        problems.push(format!("and {more} more"));
    }
    problems
}
