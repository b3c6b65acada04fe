//! Reads the disk and the environment for a plan, and notes each question with its answer, so that
//! [`crate::up_to_date`] can ask the same again. It does not know what the answers are for.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stage_api::Environment;

use crate::digest::Digest;
use crate::environment::Versions;
use crate::store::{ContentStore, StatCache, StoreError};
use crate::tree::TreeError;

/// The questions so far, each with its newest answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Files and folders that were read, with their digests.
    pub files: BTreeMap<PathBuf, Digest>,
    /// Paths of which only the presence counts, and whether they were there.
    pub presence: BTreeMap<PathBuf, bool>,
    /// What counts of the machine, and what it was.
    pub environment: Vec<(Environment, Vec<(String, String)>)>,
    /// Whether something could not be read: the same question may have another answer soon.
    pub is_unsure: bool,
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
    pub fn environment(&self, of: &Environment) -> Result<Vec<(String, String)>, String> {
        let found = self.versions.borrow_mut().environment(of);
        if *of != Environment::default() {
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

    /// Runs version commands again at their next use; returns whether any was used before.
    pub fn ask_versions_again(&self) -> bool {
        self.versions.borrow_mut().ask_again()
    }

    /// The stat cache, for reads that no plan depends on.
    pub fn stat_cache(&self) -> RefMut<'_, StatCache> {
        self.digests.borrow_mut()
    }

    /// All that was read so far.
    pub fn notes(&self) -> Notes {
        self.notes.borrow().clone()
    }

    /// Versions of tools, for reads that no plan depends on.
    pub fn versions(&self) -> RefMut<'_, Versions> {
        self.versions.borrow_mut()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_noted_as_missing() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(&ContentStore::open(&folder.path().join("cache")).unwrap());
        let (socket, missing) = (folder.path().join("socket"), folder.path().join("missing"));
        let _open = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        recorder.digest(&missing).unwrap_err();
        assert!(!recorder.notes().is_unsure);
        recorder.digest(&socket).unwrap_err();
        assert!(recorder.notes().is_unsure);
        assert_eq!(recorder.notes().presence, BTreeMap::from([(missing, false)]));
    }
}
