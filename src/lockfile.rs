//! `pipeline.lock`, beside the pipeline file and kept with it: the digests of what steps brought from the outside world
//! and nobody had said beforehand. The first output of such a step is noted; any other is refused afterwards, here and on
//! every machine that has the file.
//!
//! ```text
//! # comment
//! paper/x152/detectron_model_x152.pth 9f3c…
//! ```
//!
//! A line is profile, step, path in its output, and the BLAKE3 digest (`b3sum` prints the same). It knows no stages.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::store::{StoreError, files};

const HEAD: &str = "# What the pipeline downloaded, by BLAKE3 digest, noted at first use and checked from then on.\n\
                    # Keep this file with the pipeline. A line that is removed is noted anew when its step runs again.\n";

/// The noted digests.
#[derive(Debug, Clone, Default)]
pub struct Lockfile {
    file: PathBuf,
    /// The digest of the file as it was read or written last, if it was there.
    text: Option<Digest>,
    known: BTreeMap<String, Digest>,
}

impl Lockfile {
    /// Reads the lock file of a pipeline file; there need be none.
    ///
    /// # Errors
    /// A file that cannot be read, and a line that is none of its own (a merge that was left half done, say).
    pub fn load(pipeline: &Path) -> Result<Self, StoreError> {
        Self::read(pipeline.with_extension("lock"))
    }

    /// What the lock file says now.
    ///
    /// # Errors
    /// As [`Lockfile::load`].
    pub fn reload(&self) -> Result<Self, StoreError> {
        Self::read(self.file.clone())
    }

    fn read(file: PathBuf) -> Result<Self, StoreError> {
        let text = match files::read_text(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io(&file, "read")(error)),
        };
        let digest = text.as_ref().map(|text| Digest::of_bytes(text.as_bytes()));
        let text = text.unwrap_or_default();
        let mut known = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pin = line.rsplit_once(' ').and_then(|(name, digest)| Some((name, digest.parse().ok()?)));
            let Some((name, digest)) = pin.filter(|(name, _)| name.matches('/').count() >= 2) else {
                return Err(StoreError::Lockfile { file, line: number });
            };
            if known.insert(name.trim().to_owned(), digest).is_some_and(|other| other != digest) {
                return Err(StoreError::Lockfile { file, line: number });
            }
        }
        Ok(Self { file, text: digest, known })
    }

    /// The lock file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The digest of the lock file as it was read or written last; `None` when it was not there.
    pub fn text(&self) -> Option<Digest> {
        self.text
    }

    /// Whether nothing that is noted of a step speaks against these outputs.
    ///
    /// # Errors
    /// A sentence with both digests and what to do.
    pub fn check(&self, profile: &str, step: &str, outputs: &BTreeMap<String, Digest>) -> Result<(), String> {
        for (path, digest) in outputs {
            let name = format!("{profile}/{step}/{path}");
            if let Some(pinned) = self.known.get(&name).filter(|pinned| *pinned != digest) {
                return Err(format!(
                    "`{path}` is not what it was: its digest is {digest}, {} has {pinned}. Either it was damaged or \
                     changed on the way, then run again or get it elsewhere; or there is a new version, then remove \
                     the line `{name}` and run again",
                    self.file.display()
                ));
            }
        }
        Ok(())
    }

    /// Notes the outputs of a step that are not noted yet.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, profile: &str, step: &str, outputs: &BTreeMap<String, Digest>) -> io::Result<()> {
        let before = self.known.len();
        for (path, digest) in outputs {
            self.known.entry(format!("{profile}/{step}/{path}")).or_insert(*digest);
        }
        if self.known.len() == before {
            return Ok(());
        }
        let lines: String = self.known.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
        let text = format!("{HEAD}{lines}");
        files::write_whole(&self.file, text.as_bytes(), true)?;
        self.text = Some(Digest::of_bytes(text.as_bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_noted_is_held_against_what_comes_later() {
        let dir = tempfile::tempdir().unwrap();
        let pipeline = dir.path().join("pipeline.ron");
        let outputs = |bytes: &[u8]| BTreeMap::from([("a b.bin".to_owned(), Digest::of_bytes(bytes))]);
        let mut lockfile = Lockfile::load(&pipeline).unwrap();
        lockfile.check("paper", "x", &outputs(b"1")).unwrap();
        lockfile.add("paper", "x", &outputs(b"1")).unwrap();
        let lockfile = Lockfile::load(&pipeline).unwrap();
        lockfile.check("paper", "x", &outputs(b"1")).unwrap();
        lockfile.check("mini", "x", &outputs(b"2")).unwrap();
        let problem = lockfile.check("paper", "x", &outputs(b"2")).unwrap_err();
        for digest in [outputs(b"1"), outputs(b"2")] {
            assert!(problem.contains(&digest["a b.bin"].to_string()), "{problem}");
        }
        assert!(problem.contains("pipeline.lock") && problem.contains("remove the line `paper/x/a b.bin`"));
    }

    #[test]
    fn a_line_that_is_none_is_told_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for line in ["<<<<<<< HEAD", "x 12", "paper/x/a 12", &format!("paper/x {}", Digest::of_bytes(b""))] {
            fs::write(dir.path().join("pipeline.lock"), format!("# head\n\n{line}\n")).unwrap();
            let error = Lockfile::load(&dir.path().join("pipeline.ron")).unwrap_err().to_string();
            assert!(error.contains("pipeline.lock:3: "), "{error}");
        }
    }
}
