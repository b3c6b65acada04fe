//! The lockfile `pipeline.lock`, committed next to the pipeline file: digests of downloads without a digest in the
//! pipeline. The first output of such a step is recorded. Later, a different output is an error, on every machine
//! with the file.
//!
//! ```text
//! # comment
//! paper/x152/detectron_model_x152.pth 9f3c…
//! ```
//!
//! A line holds profile, step, path in the output, and the BLAKE3 digest (as `b3sum` prints it). It knows no stages.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::store::{StoreError, files};

const HEAD: &str = "# What the pipeline downloaded, by BLAKE3 digest, recorded at first use and checked from then on.\n\
                    # Keep this file with the pipeline. If you remove a line, the next run of its step records it again.\n";

/// The recorded digests.
#[derive(Debug, Clone, Default)]
pub struct Lockfile {
    file: PathBuf,
    /// The digest of the file when it was last read or written, if it exists.
    text: Option<Digest>,
    known: BTreeMap<String, Digest>,
}

impl Lockfile {
    /// Reads the lockfile of a pipeline file; it may be missing.
    ///
    /// # Errors
    /// When the file is unreadable or a line is invalid, for example after an incomplete merge.
    pub fn load(pipeline: &Path) -> Result<Self, StoreError> {
        Self::read(pipeline.with_extension("lock"))
    }

    /// The current content of the lockfile.
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

    /// The lockfile.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The digest of the lockfile when it was last read or written; `None` if it was missing.
    pub fn text(&self) -> Option<Digest> {
        self.text
    }

    /// Checks outputs of a step against the recorded digests.
    ///
    /// # Errors
    /// A message with both digests and advice.
    pub fn check(&self, profile: &str, step: &str, outputs: &BTreeMap<String, Digest>) -> Result<(), String> {
        for (path, digest) in outputs {
            let name = format!("{profile}/{step}/{path}");
            if let Some(pinned) = self.known.get(&name).filter(|pinned| *pinned != digest) {
                return Err(format!(
                    "`{path}` has changed: its digest is {digest}, but {} records {pinned}. If it was damaged on the \
                     way, run again or use another source. If there is a new version, remove \
                     the line `{name}` and run again",
                    self.file.display()
                ));
            }
        }
        Ok(())
    }

    /// Records outputs of a step that are not recorded yet.
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
    fn later_outputs_are_checked_against_recorded_digests() {
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
    fn an_invalid_line_is_reported_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        for line in ["<<<<<<< HEAD", "x 12", "paper/x/a 12", &format!("paper/x {}", Digest::of_bytes(b""))] {
            fs::write(dir.path().join("pipeline.lock"), format!("# head\n\n{line}\n")).unwrap();
            let error = Lockfile::load(&dir.path().join("pipeline.ron")).unwrap_err().to_string();
            assert!(error.contains("pipeline.lock:3: "), "{error}");
        }
    }
}
