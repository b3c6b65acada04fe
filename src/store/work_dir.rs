//! Work directories, `work/<key>-…/`: the folder in which one running step writes. A
//! step that leaves it in order passes it to the next step: creating and removing files is expensive. It does
//! not know what of the output is kept.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lock::Claim;
use super::{ContentStore, Snapshot, StoreError, files, is_folder};
use crate::key::StageKey;

/// In a work directory: the log, and the current directory of a command.
pub(super) const LOG: &str = "log";
pub(super) const CWD: &str = "cwd";
/// The end of the name of a work directory that is being removed.
const GONE: &str = "-gone";
/// The folder of work directories that only people remove.
const RECOVERED: &str = "recovered";

/// The work directory of one running step and its scratch folder.
#[derive(Debug)]
pub struct WorkDir {
    /// The key that runs.
    pub key: StageKey,
    /// Empty at first; becomes the tree.
    pub out: PathBuf,
    /// Survives a failed attempt of the key. The step creates it if it needs it.
    pub scratch: PathBuf,
    /// The log, empty at first.
    pub log: PathBuf,
    /// The current directory of a command, empty at first.
    pub folder: PathBuf,
    pub(super) work_dir: PathBuf,
    /// Whether the log is kept after the step.
    keeps_log: bool,
    /// Whether a job on a cluster runs in it.
    pub(super) is_job: bool,
    _claim: Claim,
}

impl WorkDir {
    fn new(
        key: StageKey,
        work_dir: PathBuf,
        claim: Claim,
        [out, scratch, log, folder]: [PathBuf; 4],
    ) -> Self {
        Self { key, out, scratch, log, folder, work_dir, keeps_log: false, is_job: false, _claim: claim }
    }

    /// All folders that the step may have written, where a file that it moved may be.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of_trees([self.work_dir.as_path(), &self.scratch])
    }

    /// A path within the step's folders, as the step may write it.
    pub fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.work_dir).unwrap_or(path)
    }

    /// The job directory of a key.
    pub(super) fn job_dir(key: StageKey, work_dir: PathBuf, claim: Claim) -> Self {
        let [out, scratch, log, folder] = ["out", "scratch", LOG, CWD].map(|name| work_dir.join(name));
        Self { is_job: true, ..Self::new(key, work_dir, claim, [out, scratch, log, folder]) }
    }

    /// The same with a scratch folder that survives a failed attempt, and a log that is kept.
    pub(super) fn lasting(self, store: &ContentStore) -> Self {
        let scratch = store.root().join("scratch").join(self.key.to_string());
        Self { scratch, keeps_log: true, ..self }
    }
}

/// Work directories that a step has left in order. The next step uses one of them.
#[derive(Debug, Default)]
pub(super) struct WorkDirs {
    spare: RefCell<Vec<PathBuf>>,
}

impl WorkDirs {
    /// Drops them all.
    pub(super) fn forget(&self) {
        self.spare.take();
    }

    /// Each attempt gets its own name: a process of an earlier attempt may still be ending and must not write into
    /// this one. Only a directory that is in order is reused.
    pub(super) fn set_up(
        &self,
        store: &ContentStore,
        key: StageKey,
        claim: Claim,
    ) -> Result<WorkDir, StoreError> {
        let work = store.root().join("work");
        let spare = self.spare.borrow_mut().pop().and_then(|spare| {
            let (_, ending) = spare.file_name()?.to_str()?.split_once('-')?;
            let work_dir = work.join(format!("{key}-{ending}"));
            fs::rename(spare, &work_dir).ok().map(|()| work_dir)
        });
        let work_dir = match spare {
            Some(work_dir) => work_dir,
            None => {
                let work_dir = tempfile::Builder::new().prefix(&format!("{key}-")).tempdir_in(&work);
                let work_dir = work_dir.map_err(StoreError::io(&work, "create a folder in it"))?.keep();
                let (log, place) = (work_dir.join(LOG), work_dir.join(CWD));
                fs::write(&log, "").map_err(StoreError::io(&log, "write"))?;
                fs::create_dir(&place).map_err(StoreError::io(&place, "create the folder"))?;
                work_dir
            }
        };
        let out = work_dir.join("out");
        fs::create_dir(&out).map_err(StoreError::io(&out, "create the folder"))?;
        let [scratch, log, folder] = ["scratch", LOG, CWD].map(|name| work_dir.join(name));
        Ok(WorkDir::new(key, work_dir, claim, [out, scratch, log, folder]))
    }

    /// Clears the work directory of a run; its scratch folder and its log stay.
    pub(super) fn leave(&self, store: &ContentStore, work: WorkDir) -> Result<(), StoreError> {
        if work.keeps_log {
            keep_logs(store, &work.work_dir, &work.key)?;
        }
        if is_in_order(&work).unwrap_or(false) {
            self.spare.borrow_mut().push(work.work_dir);
            return Ok(());
        }
        remove(&work.work_dir)
    }
}

/// The path that a work directory had before its removal began.
pub(super) fn name_of(work_dir: &Path) -> PathBuf {
    let name = work_dir.as_os_str().to_string_lossy();
    PathBuf::from(name.strip_suffix(GONE).unwrap_or(&name))
}

/// Removes a work directory. It is renamed first, because its owner may be about to pass it to the next step.
pub(super) fn remove(work_dir: &Path) -> Result<(), StoreError> {
    let mut aside = work_dir.as_os_str().to_owned();
    if aside.as_encoded_bytes().ends_with(GONE.as_bytes()) {
        return files::remove(work_dir).map_err(StoreError::io(work_dir, "remove"));
    }
    aside.push(GONE);
    match fs::rename(work_dir, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io(work_dir, "move aside")(error)),
        Ok(()) => files::remove(Path::new(&aside)).map_err(StoreError::io(work_dir, "remove")),
    }
}

/// Moves a work directory to where nothing removes it. Returns the new path.
pub(super) fn keep_aside(store: &ContentStore, work_dir: &Path) -> Result<PathBuf, StoreError> {
    let folder = store.root().join(RECOVERED);
    let kept = folder.join(work_dir.file_name().unwrap_or_default());
    fs::create_dir_all(&folder)
        .and_then(|()| files::move_folder(work_dir, &kept))
        .map_err(StoreError::io(work_dir, "keep"))?;
    Ok(kept)
}

/// Whether the work directory of a dead run holds a file or folder that is older than its output folder. Such a file
/// was moved there and may be the only copy. Without creation times the answer is no.
pub(super) fn holds_older(work_dir: &Path) -> bool {
    let since = fs::symlink_metadata(work_dir.join("out")).and_then(|metadata| metadata.created());
    since.is_ok_and(|since| {
        ["out", CWD, "tmp"].iter().any(|name| is_older_inside(&work_dir.join(name), since))
    })
}

fn is_older_inside(folder: &Path, since: SystemTime) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|item| {
        let Ok(metadata) = item.metadata() else { return false };
        // A file that has another name is not lost with this one.
        let is_lost = metadata.is_dir() || metadata.is_file() && metadata.nlink() == 1;
        is_lost && metadata.created().is_ok_and(|created| created < since)
            || metadata.is_dir() && is_older_inside(&item.path(), since)
    })
}

/// Moves the logs of an execution to `logs/`, and replaces those of an earlier one.
pub(super) fn keep_logs(store: &ContentStore, work_dir: &Path, key: &StageKey) -> Result<(), StoreError> {
    let kept = store.log(key);
    for (new, kept) in [
        (work_dir.join(LOG), kept.clone()),
        (work_dir.join(LOG).with_extension("jsonl"), kept.with_extension("jsonl")),
    ] {
        let has_text =
            fs::symlink_metadata(&new).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
        let done = if has_text { fs::rename(&new, &kept) } else { files::remove(&kept) };
        done.map_err(StoreError::io(&kept, "write"))?;
    }
    Ok(())
}

/// Whether a work directory is as a new one, so that it can be reused.
fn is_in_order(work: &WorkDir) -> io::Result<bool> {
    let names = fs::read_dir(&work.work_dir)?.map(|item| item.map(|item| item.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names == [CWD, LOG]
        && is_folder(&work.folder)
        && fs::read_dir(&work.folder)?.next().is_none()
        && fs::symlink_metadata(&work.log).is_ok_and(|log| log.is_file() && log.len() == 0))
}
