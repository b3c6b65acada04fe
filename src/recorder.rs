//! Reads the disk and the environment while a plan is made, and notes each question with its answer. The up-to-date
//! check stores the notes and asks the same again. It does not know what the answers are for.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stage_api::Surroundings;

use crate::digest::Digest;
use crate::store::{ContentStore, StatCache, StoreError};
use crate::tree::TreeError;
use crate::versions::Versions;

const KIND: &str = "repro dependency snapshot v1";

/// What a plan has read outside of the state log, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DependencySnapshot {
    /// Files and folders that were read.
    files: Vec<String>,
    /// The digest of their digests.
    content: Digest,
    /// Paths of which only the presence counts, and whether they were there.
    presence: Vec<(String, bool)>,
    /// What counts of the machine, and what it was.
    environment: Vec<(Surroundings, Vec<(String, String)>)>,
}

/// The questions so far, each with its newest answer.
#[derive(Debug, Default)]
struct Notes {
    files: BTreeMap<PathBuf, Digest>,
    presence: BTreeMap<PathBuf, bool>,
    environment: Vec<(Surroundings, Vec<(String, String)>)>,
    /// Whether something could not be read: the same question may have another answer soon.
    is_unsure: bool,
}

/// The one way by which planning and publishing read files of the project, reports and the environment.
#[derive(Debug)]
pub struct Recorder {
    digests: RefCell<StatCache>,
    versions: RefCell<Versions>,
    notes: RefCell<Notes>,
}

impl Recorder {
    /// A recorder that knows by `store` which file had which digest and which tool which version.
    pub fn new(store: &ContentStore) -> Self {
        Self {
            digests: RefCell::new(store.stat_cache()),
            versions: RefCell::new(Versions::new(store.versions().into_iter())),
            notes: RefCell::default(),
        }
    }

    /// The digest of a file or folder.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn digest(&self, path: &Path) -> Result<Digest, TreeError> {
        let digest = self.digests.borrow_mut().digest(path);
        match &digest {
            Ok(digest) => self.note_file(path, Some(*digest)),
            Err(_) if path.exists() => self.notes.borrow_mut().is_unsure = true,
            Err(_) => self.note_file(path, None),
        }
        digest
    }

    /// Whether there is something in `path`.
    pub fn exists(&self, path: &Path) -> bool {
        let is_there = path.exists();
        self.note_presence(path, is_there);
        is_there
    }

    /// The variables and the version that count for a step, by name and value.
    ///
    /// # Errors
    /// A version command that cannot be run, or fails.
    pub fn environment(&self, of: &Surroundings) -> Result<Vec<(String, String)>, String> {
        let found = self.versions.borrow_mut().surroundings(of);
        if *of != Surroundings::default() {
            let mut notes = self.notes.borrow_mut();
            match &found {
                Ok(values) if notes.environment.iter().all(|(known, _)| known != of) => {
                    notes.environment.push((of.clone(), values.clone()));
                }
                Ok(_) => {}
                Err(_) => notes.is_unsure = true,
            }
        }
        found
    }

    /// Notes a file that was read by other means, with the digest of its bytes; `None` where there was none.
    pub fn note_file(&self, path: &Path, digest: Option<Digest>) {
        match digest {
            Some(digest) => drop(self.notes.borrow_mut().files.insert(path.to_owned(), digest)),
            None => self.note_presence(path, false),
        }
    }

    /// Notes whether there was something in `path`.
    pub fn note_presence(&self, path: &Path, is_there: bool) {
        self.notes.borrow_mut().presence.insert(path.to_owned(), is_there);
    }

    /// Runs version commands again when they are next asked for; returns whether any was asked for before.
    pub fn ask_versions_again(&self) -> bool {
        self.versions.borrow_mut().ask_again()
    }

    /// The stat cache, for reads that no plan depends on.
    pub fn stat_cache(&self) -> RefMut<'_, StatCache> {
        self.digests.borrow_mut()
    }

    /// All that was read so far; `None` when some of it could not be read or has a name that is not UTF-8.
    pub fn snapshot(&self) -> Option<DependencySnapshot> {
        let notes = self.notes.borrow();
        let text = |path: &PathBuf| path.to_str().map(ToOwned::to_owned);
        let presence = notes.presence.iter().map(|(path, is_there)| Some((text(path)?, *is_there)));
        let snapshot = DependencySnapshot {
            files: notes.files.keys().map(text).collect::<Option<_>>()?,
            content: content(notes.files.values().copied()),
            presence: presence.collect::<Option<_>>()?,
            environment: notes.environment.clone(),
        };
        (!notes.is_unsure).then_some(snapshot)
    }

    /// Asks all questions of `snapshot` again; returns whether every answer is the same.
    pub fn still_holds(&self, snapshot: &DependencySnapshot) -> bool {
        let mut digests = Vec::with_capacity(snapshot.files.len());
        for file in &snapshot.files {
            match self.digests.borrow_mut().digest(Path::new(file)) {
                Ok(digest) => digests.push(digest),
                Err(_) => return false,
            }
        }
        content(digests.into_iter()) == snapshot.content
            && snapshot.presence.iter().all(|(path, was_there)| Path::new(path).exists() == *was_there)
            && snapshot
                .environment
                .iter()
                .all(|(of, was)| self.versions.borrow_mut().surroundings(of).as_ref() == Ok(was))
    }

    /// Keeps in `store` what was learned of files and tools, so that the next process need not read them.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn save(&self, store: &ContentStore) -> Result<(), StoreError> {
        let versions = self.versions.borrow_mut().take_new();
        store.keep_metadata(&mut self.digests.borrow_mut(), &versions)
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
        let snapshot = recorder.snapshot().unwrap();
        let holds = || Recorder::new(&store).still_holds(&snapshot);
        assert!(holds());
        fs::write(&missing, "").unwrap();
        assert!(!holds());
        fs::remove_file(&missing).unwrap();
        assert!(holds());
        fs::write(&read, "2").unwrap();
        assert!(!holds());
    }

    #[test]
    fn what_cannot_be_read_gives_no_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&folder.path().join("cache")).unwrap();
        let recorder = Recorder::new(&store);
        let socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket"));
        recorder.digest(&folder.path().join("socket")).unwrap_err();
        assert_eq!(recorder.snapshot(), None);
        drop(socket);
    }
}
