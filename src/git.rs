//! Reads files of other revisions through the program `git`, without checking anything out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
                "`repro diff` compares with a commit: run it in a clone of the project, start a repository with `git \
                 init`, or name two profiles"
                    .to_owned(),
            ),
        })
    }

    fn run(&self, args: &[&str]) -> Result<Output, GitError> {
        self.command(args).output().map_err(|error| cannot_run(&error))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.folder).args(args);
        git
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
        if !self.run(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?.status.success() {
            return Err(GitError {
                message: format!("the git repository of {} has no commit", self.folder.display()),
                hint: Some(
                    "commit the pipeline file and `reports/` (`git add . && git commit`) to compare later results with \
                     them, or name two profiles"
                        .to_owned(),
                ),
            });
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

    /// The bytes of several objects, in their order, from one process.
    ///
    /// # Errors
    /// When git cannot be run or refuses, or does not have an object.
    pub fn contents(&self, objects: &[&str]) -> Result<Vec<Vec<u8>>, GitError> {
        let failed = |problem: &str| GitError {
            message: format!("`git cat-file --batch` failed: {problem}"),
            hint: None,
        };
        let mut all = Vec::with_capacity(objects.len());
        // All names fit into a pipe, so git never waits for this process to read while this one waits for git.
        for some in objects.chunks(500) {
            let mut git = self.command(&["cat-file", "--batch"]);
            git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = git.spawn().map_err(|error| cannot_run(&error))?;
            if let Some(mut names) = child.stdin.take() {
                let written = names.write_all((some.join("\n") + "\n").as_bytes());
                written.map_err(|error| failed(&error.to_string()))?;
            }
            let found = child.wait_with_output().map_err(|error| failed(&error.to_string()))?;
            let mut rest = found.stdout.as_slice();
            for object in some {
                // `OBJECT blob SIZE<newline>BYTES<newline>`
                let blob = rest.iter().position(|byte| *byte == b'\n').and_then(|end| {
                    let head = std::str::from_utf8(&rest[..end]).ok()?;
                    let size: usize = head.rsplit(' ').next()?.parse().ok()?;
                    let bytes = rest.get(end + 1..end + 1 + size)?;
                    rest = rest.get(end + 2 + size..)?;
                    Some(bytes.to_vec())
                });
                all.push(blob.ok_or_else(|| failed(&format!("no object {object}")))?);
            }
        }
        Ok(all)
    }
}

fn cannot_run(error: &io::Error) -> GitError {
    GitError {
        message: format!("`git` cannot be run: {error}"),
        hint: Some("install git, or put it on the PATH".to_owned()),
    }
}
