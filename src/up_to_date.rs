//! Whether a request is up to date, without a plan: a plan that found nothing to do is kept with all that it read, and
//! holds as long as no step was executed since and every answer is the same.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stage_api::Environment;

use crate::digest::Digest;
use crate::recorder::{Notes, Recorder};
use crate::store::StoreError;
use crate::workspace::Workspace;

const KIND: &str = "repro dependency snapshot v1";

/// How many steps `request` needs, if it was found up to date and nothing of that has changed.
pub fn check(workspace: &Workspace, request: &Digest) -> Option<usize> {
    let snapshot: DependencySnapshot = serde_json::from_str(&workspace.store().up_to_date(request)?).ok()?;
    snapshot.holds(workspace.recorder()).then_some(snapshot.steps)
}

/// Keeps that `request`, which needs so many steps, is up to date by all that was read through `workspace`.
///
/// # Errors
/// When the store cannot be written.
pub fn remember(workspace: &Workspace, request: &Digest, steps: usize) -> Result<(), StoreError> {
    let snapshot = DependencySnapshot::new(steps, workspace.recorder().notes());
    match snapshot.and_then(|snapshot| serde_json::to_string(&snapshot).ok()) {
        Some(text) => workspace.store().keep_up_to_date(request, &text),
        None => Ok(()),
    }
}

/// A plan that found nothing to do: what it has read outside of the state log, and what it found.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DependencySnapshot {
    /// How many steps were needed, all fresh.
    steps: usize,
    files: Vec<String>,
    /// The digest of the files' digests.
    content: Digest,
    presence: Vec<(String, bool)>,
    environment: Vec<(Environment, Vec<(String, String)>)>,
}

impl DependencySnapshot {
    /// `None` when something could not be read or has a name that is not UTF-8.
    fn new(steps: usize, notes: Notes) -> Option<Self> {
        let text = |path: &PathBuf| path.to_str().map(ToOwned::to_owned);
        let presence = notes.presence.iter().map(|(path, is_there)| Some((text(path)?, *is_there)));
        let snapshot = Self {
            steps,
            files: notes.files.keys().map(text).collect::<Option<_>>()?,
            content: content(notes.files.values().copied()),
            presence: presence.collect::<Option<_>>()?,
            environment: notes.environment,
        };
        (!notes.is_unsure).then_some(snapshot)
    }

    /// Asks all questions again; returns whether every answer is the same.
    fn holds(&self, recorder: &Recorder) -> bool {
        let mut digests = Vec::with_capacity(self.files.len());
        for file in &self.files {
            match recorder.stat_cache().digest(Path::new(file)) {
                Ok(digest) => digests.push(digest),
                Err(_) => return false,
            }
        }
        let is_same = |(of, was): &(Environment, Vec<(String, String)>)| {
            recorder.versions().environment(of).as_ref() == Ok(was)
        };
        content(digests.into_iter()) == self.content
            && self.presence.iter().all(|(path, was_there)| Path::new(path).exists() == *was_there)
            && self.environment.iter().all(is_same)
    }
}

fn content(digests: impl Iterator<Item = Digest>) -> Digest {
    let all: Vec<u8> = digests.flat_map(|digest| digest.bytes()).collect();
    Digest::of_kind(KIND, &all)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::ContentStore;

    #[test]
    fn a_snapshot_holds_until_an_answer_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&folder.path().join("cache")).unwrap();
        let (read, missing) = (folder.path().join("read"), folder.path().join("missing"));
        fs::write(&read, "1").unwrap();
        let recorder = Recorder::new(&store);
        recorder.digest(&read).unwrap();
        recorder.digest(&missing).unwrap_err();
        assert!(!recorder.exists(&missing));
        let snapshot = DependencySnapshot::new(1, recorder.notes()).unwrap();
        let holds = || snapshot.holds(&Recorder::new(&store));
        assert!(holds());
        fs::write(&missing, "").unwrap();
        assert!(!holds());
        fs::remove_file(&missing).unwrap();
        assert!(holds());
        fs::write(&read, "2").unwrap();
        assert!(!holds());
    }
}
