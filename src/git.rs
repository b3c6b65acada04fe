//! Reads files of other revisions through the program `git`, without checking anything out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::pipeline::nearest;

/// Why git does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct GitError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// The repository that a folder is in.
#[derive(Debug)]
pub struct Git {
    folder: PathBuf,
}

impl Git {
    /// Finds the repository around `folder`.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn open(folder: &Path) -> Result<Self, GitError> {
        let git = Self { folder: folder.to_owned() };
        if git.run(&["rev-parse", "--git-dir"])?.status.success() {
            return Ok(git);
        }
        Err(GitError {
            message: format!("{} is not in a git repository", folder.display()),
            hint: Some(
                "`repro diff` compares revisions: run it in a clone of the project, or name two profiles"
                    .to_owned(),
            ),
        })
    }

    fn run(&self, args: &[&str]) -> Result<Output, GitError> {
        Command::new("git").arg("-C").arg(&self.folder).args(args).output().map_err(|error| GitError {
            message: format!("`git` cannot be run: {error}"),
            hint: Some("install git, or put it on the PATH".to_owned()),
        })
    }

    /// The commit that a name means.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn revision(&self, name: &str) -> Result<String, GitError> {
        let commit = format!("{name}^{{commit}}");
        let found = self.run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])?;
        if found.status.success() {
            return Ok(String::from_utf8_lossy(&found.stdout).trim().to_owned());
        }
        let names = self.run(&["for-each-ref", "--format=%(refname:short)"])?;
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        Err(GitError {
            message: format!("git knows no revision `{name}`"),
            hint: nearest(name, names.lines().chain(["HEAD"])),
        })
    }

    /// A file of a revision, its path relative to the folder; `None` when the revision does not have it.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn file(&self, revision: &str, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let found = self.run(&["show", &format!("{revision}:./{path}")])?;
        Ok(found.status.success().then_some(found.stdout))
    }

    /// Whether a revision has a file or folder.
    pub fn has(&self, revision: &str, path: &Path) -> bool {
        let object = format!("{revision}:./{}", path.display());
        self.run(&["cat-file", "-e", &object]).is_ok_and(|found| found.status.success())
    }

    /// Whether the next revision would have a file.
    pub fn tracks(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        self.run(&["ls-files", "--error-unmatch", "--", &path]).is_ok_and(|found| found.status.success())
    }

    /// The objects of a revision's files below a folder, by path relative to the folder here.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn objects(&self, revision: &str, below: &str) -> Result<BTreeMap<String, String>, GitError> {
        let found = self.run(&["ls-tree", "-r", "-z", revision, "--", &format!("{below}/")])?;
        let text = String::from_utf8_lossy(&found.stdout);
        let entry = |entry: &str| {
            // `MODE blob OBJECT<tab>PATH`
            let (head, path) = entry.split_once('\t')?;
            Some((path.to_owned(), head.rsplit(' ').next()?.to_owned()))
        };
        Ok(text.split('\0').filter_map(entry).collect())
    }

    /// The objects that files here would become in a commit, in their order; paths relative to the folder. What git's
    /// settings and attributes change on the way into a commit, they change here too.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn hash_files(&self, paths: &[&str]) -> Result<Vec<String>, GitError> {
        let mut objects = Vec::with_capacity(paths.len());
        // Well below what a command line may hold.
        for some in paths.chunks(500) {
            let found = self.run(&[&["hash-object", "--"], some].concat())?;
            let text = String::from_utf8_lossy(&found.stdout);
            if !found.status.success() || text.lines().count() != some.len() {
                let problem = String::from_utf8_lossy(&found.stderr);
                return Err(GitError {
                    message: format!("`git hash-object` failed: {}", problem.trim()),
                    hint: None,
                });
            }
            objects.extend(text.lines().map(ToOwned::to_owned));
        }
        Ok(objects)
    }

    /// The bytes of an object, as they are in the repository.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn object(&self, object: &str) -> Result<Option<Vec<u8>>, GitError> {
        let found = self.run(&["cat-file", "blob", object])?;
        Ok(found.status.success().then_some(found.stdout))
    }

    /// The files of a revision below a folder, their paths relative to the repository's folder here.
    ///
    /// # Errors
    /// When git cannot be run or refuses.
    pub fn files(&self, revision: &str, below: &str) -> Result<Vec<String>, GitError> {
        let found =
            self.run(&["ls-tree", "-r", "-z", "--name-only", revision, "--", &format!("{below}/")])?;
        let names = String::from_utf8_lossy(&found.stdout).into_owned();
        Ok(names.split('\0').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect())
    }
}
