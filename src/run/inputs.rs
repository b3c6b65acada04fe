//! What a running step reads of the project, from its start to its end: whether it stayed as it was, and what becomes
//! of a file that the step took away. The result of a step whose inputs changed is not kept, also when they are at the
//! end as they were.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::pipeline::{Source, Step};
use crate::store::{Gone, Snapshot, Stamp, WorkDir};
use crate::workspace::Workspace;

/// What a person does next.
const AGAIN: &str = "run `repro make` again";

/// The files and folders of the project that a step reads, as they were when it started.
pub(super) struct ProjectInputs(Vec<(PathBuf, Snapshot)>);

/// What became of inputs that a step took away.
#[derive(Debug, Default)]
pub(super) struct PutBack {
    /// A sentence each.
    pub notes: Vec<String>,
    /// Whether one was not found: the step's folders may hold what is left of it.
    pub is_lost: bool,
}

impl ProjectInputs {
    /// Those of a step that starts now.
    ///
    /// # Errors
    /// When one of them is not any more what the step's key says.
    pub fn at_start(workspace: &Workspace, step: &Step) -> Result<Self, String> {
        let mut inputs = Vec::new();
        for input in &step.inputs {
            if let Source::File(path) = &input.source {
                // Before it is compared: a change that comes later shows at the end.
                inputs.push((path.clone(), workspace.snapshot(path)));
                if !workspace.is_unchanged(path) {
                    return Err(format!(
                        "its input ./{} changed before the step began; {AGAIN}",
                        path.display()
                    ));
                }
            }
        }
        Ok(Self(inputs))
    }

    /// Whether all of them are unchanged. A link that the step created to one of them is not a change.
    ///
    /// # Errors
    /// A sentence that says which one changed, and how.
    pub fn are_unchanged(&self, workspace: &Workspace, work: &WorkDir) -> Result<(), String> {
        for (path, then) in &self.0 {
            if then.holds() {
                continue;
            }
            if let Some(change) = then.change(&workspace.snapshot(path), || work.snapshot().names()) {
                let (name, changed) = (path.display(), shown(workspace, &change.path));
                return Err(format!(
                    "its input ./{name} changed while the step ran ({changed} {}), so the result is not kept; {AGAIN}",
                    change.what
                ));
            }
        }
        Ok(())
    }

    /// Puts back what the step moved into its own folders.
    pub fn put_back(&self, workspace: &Workspace, work: &WorkDir) -> PutBack {
        let mut put_back = PutBack::default();
        let gone: Vec<Gone> = self.0.iter().flat_map(|(_, then)| then.gone()).collect();
        if gone.is_empty() {
            return put_back;
        }
        let left = work.snapshot();
        for gone in gone {
            let name = shown(workspace, gone.path());
            let known = |stamp: &Stamp| {
                Some((stamp.size(), workspace.recorder().stat_cache().had(gone.path(), stamp)?))
            };
            let found = left.path_of(&gone).or_else(|| copy_of(&left, gone.file().and_then(known)?));
            let moved = found.map(|found| (found, rename_or_copy(found, gone.path())));
            put_back.is_lost |= !matches!(moved, Some((_, Ok(()))));
            put_back.notes.push(match moved {
                Some((found, Ok(()))) => {
                    let from = work.shown(found);
                    format!(
                        "its input {name} was taken away; it is back in its place, from {}",
                        from.display()
                    )
                }
                Some((found, Err(error))) => {
                    format!(
                        "its input {name} was taken away and cannot be put back from {}: {error}",
                        found.display()
                    )
                }
                None => format!("its input {name} is not there any more, nor in the step's work directory"),
            });
        }
        put_back
    }
}

/// A path as a person names it.
fn shown(workspace: &Workspace, path: &Path) -> String {
    match path.strip_prefix(workspace.locate(Path::new(""))) {
        Ok(inside) => format!("./{}", inside.display()),
        Err(_) => path.display().to_string(),
    }
}

/// A file of these bytes, where the step has copied one before it took it away.
fn copy_of(left: &Snapshot, (size, digest): (u64, Digest)) -> Option<&Path> {
    left.files_of(size).find(|path| Digest::of_file(path).is_ok_and(|found| found == digest))
}

fn rename_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices && from.is_file() => {
            fs::copy(from, to).map(drop)
        }
        other => other,
    }
}
