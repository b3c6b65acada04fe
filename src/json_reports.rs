//! Reads the JSON reports of a profile, as they are on disk and as a git revision has them. It does not know what they
//! mean.

use std::fs;
use std::path::Path;

use crate::diff::JsonReports;
use crate::git::{Git, GitError};

/// Reports, and what is wrong with those that are left out.
#[derive(Debug, Default)]
pub struct ReadReports {
    /// What could be read.
    pub reports: JsonReports,
    /// A sentence for each file that is not JSON or cannot be read.
    pub problems: Vec<String>,
}

impl ReadReports {
    /// The reports below `reports/PROFILE/` on disk. No link is followed: it may lead out of the reports, or round in a
    /// circle.
    pub fn on_disk(root: &Path, profile: &str) -> Self {
        let below = root.join("reports").join(profile);
        let (mut found, mut folders) = (Self::default(), vec![below.clone()]);
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = item.path();
                let Ok(kind) = item.file_type() else { continue };
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "json") {
                    let name = path.strip_prefix(&below).unwrap_or(&path).to_string_lossy().into_owned();
                    match fs::read(&path) {
                        Ok(bytes) => found.add(name, &bytes, "now"),
                        Err(error) => {
                            found.problems.push(format!("{name} cannot be read and is left out: {error}"));
                        }
                    }
                }
            }
        }
        found
    }

    /// The reports below `reports/PROFILE/` at a revision.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn at_revision(git: &Git, revision: &str, profile: &str) -> Result<Self, GitError> {
        let below = format!("reports/{profile}");
        let mut found = Self::default();
        let mut files: Vec<(String, String)> = git.objects(revision, &below)?.into_iter().collect();
        files.retain(|(path, _)| Path::new(path).extension().is_some_and(|extension| extension == "json"));
        let objects: Vec<&str> = files.iter().map(|(_, object)| object.as_str()).collect();
        for ((path, _), bytes) in files.iter().zip(git.contents(&objects)?) {
            let name = path.strip_prefix(&below).unwrap_or(path).trim_start_matches('/');
            found.add(name.to_owned(), &bytes, revision);
        }
        Ok(found)
    }

    fn add(&mut self, name: String, bytes: &[u8], when: &str) {
        match serde_json::from_slice(bytes) {
            Ok(value) => drop(self.reports.insert(name, value)),
            Err(error) => {
                self.problems.push(format!("{name} ({when}) is not JSON and is left out: {error}"));
            }
        }
    }
}
