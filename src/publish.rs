//! Published trees: what a person reads, copied from the store to `reports/<profile>/`. It writes only what
//! differs and removes only what an earlier publish wrote; it does not know how trees came to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::store::{ResultError, StatCache, VerifiedPath, Writer, files};
use crate::tree::{Entry, Manifest, shown};

/// The reports of one profile.
#[derive(Debug, Clone)]
pub struct Reports {
    folder: PathBuf,
    profile: String,
}

/// A tree to publish.
#[derive(Debug)]
pub struct Part<'a> {
    /// The step that wrote it.
    pub step: &'a str,
    /// The folder below the reports folder it goes to.
    pub below: &'a Path,
    /// What is in it.
    pub manifest: Manifest,
    /// Its digest.
    pub tree: Digest,
}

/// What a publish did; paths relative to the reports folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Files written.
    pub written: Vec<PathBuf>,
    /// Files removed that no step publishes any more.
    pub removed: Vec<PathBuf>,
}

/// Reports that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Two steps write one file.
    #[error("`{first}` and `{second}` both publish {}; give one of them another `publish` folder", file.display())]
    Conflict {
        /// The file, relative to the reports folder.
        file: PathBuf,
        /// A step that publishes it.
        first: String,
        /// Another one.
        second: String,
    },
    /// A result that is to be published cannot be used.
    #[error("the result of step `{step}` is not published: {source}")]
    Result {
        /// The step.
        step: String,
        /// Why.
        source: ResultError,
    },
    /// The disk does not take it.
    #[error("{}: cannot {act}: {source}", shown(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        act: &'static str,
        /// Why it did not succeed.
        source: io::Error,
    },
}

/// Which files each step had published.
type Ledger = BTreeMap<String, BTreeSet<PathBuf>>;

impl Reports {
    /// The reports of `profile` in `folder` (`reports/<profile>`), which need not exist.
    pub fn new(folder: PathBuf, profile: &str) -> Self {
        Self { folder, profile: profile.to_owned() }
    }

    /// The reports folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The files that publishing a tree writes, with their digests.
    pub fn files(&self, below: &Path, manifest: &Manifest) -> Vec<(PathBuf, Digest)> {
        let files = published_files(below, manifest);
        files.filter_map(|(file, entry)| Some((self.folder.join(file), entry.identity()?))).collect()
    }

    /// Whether all files of a tree stand in the reports as the tree has them.
    pub fn hold(&self, below: &Path, manifest: &Manifest, digests: &mut StatCache) -> bool {
        published_files(below, manifest).all(|(file, entry)| self.has(&file, entry, digests))
    }

    /// The files, relative to the reports folder, that are not as `parts` have them.
    pub fn differing(&self, parts: &[Part], digests: &mut StatCache) -> Vec<PathBuf> {
        let files = parts.iter().flat_map(|part| published_files(part.below, &part.manifest));
        files.filter(|(file, entry)| !self.has(file, entry, digests)).map(|(file, _)| file).collect()
    }

    /// Brings the reports up to date with `parts`: all the trees that this pipeline publishes for what was
    /// asked. `open` opens a tree's bytes; `is_step` says whether a step of that name still publishes; files of others are removed.
    ///
    /// # Errors
    /// When two steps publish one file or a result cannot be used (then nothing is written), or the disk does not take it.
    pub fn publish(
        &self,
        writer: &Writer,
        parts: &[Part],
        open: &dyn Fn(&Digest) -> Result<VerifiedPath, ResultError>,
        is_step: &dyn Fn(&str) -> bool,
        digests: &mut StatCache,
    ) -> Result<Published, PublishError> {
        let mut owners: BTreeMap<PathBuf, &str> = BTreeMap::new();
        let mut stale: Vec<(PathBuf, PathBuf, bool)> = Vec::new();
        for part in parts {
            let mut opened = None;
            for (file, entry) in published_files(part.below, &part.manifest) {
                if let Some(first) = owners.insert(file.clone(), part.step) {
                    let (first, second) = (first.to_owned(), part.step.to_owned());
                    return Err(PublishError::Conflict { file, first, second });
                }
                if self.has(&file, entry, digests) {
                    continue;
                }
                let failed = |source| PublishError::Result { step: part.step.to_owned(), source };
                let tree = match &opened {
                    Some(tree) => tree,
                    None => opened.insert(open(&part.tree).map_err(failed)?),
                };
                let source = tree.within(&entry.path).ok_or(ResultError::Missing).map_err(failed)?;
                stale.push((file, source.into(), entry.executable));
            }
        }
        let ledger_file = writer.store().root().join("published").join(&self.profile);
        let mut ledger = read_ledger(&ledger_file);
        let mut published = Published::default();
        stale.sort_unstable();
        for (file, source, executable) in stale {
            self.copy(&source, &file, executable)?;
            published.written.push(file);
        }
        for part in parts {
            let files = owners.iter().filter(|(_, step)| **step == part.step);
            let new = files.map(|(file, _)| file.clone()).collect();
            let old = ledger.insert(part.step.to_owned(), new).unwrap_or_default();
            published.removed.extend(old);
        }
        let gone: Vec<String> = ledger.keys().filter(|step| !is_step(step)).cloned().collect();
        for step in gone {
            published.removed.extend(ledger.remove(&step).unwrap_or_default());
        }
        let kept: BTreeSet<&PathBuf> = ledger.values().flatten().collect();
        published.removed.retain(|file| {
            // The list is a file: what it names must not lead out of the reports.
            let path = files::path_below(&self.folder, file).filter(|_| !kept.contains(file));
            path.is_some_and(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()))
        });
        for file in &published.removed {
            self.remove(file)?;
        }
        let text = serde_json::to_string_pretty(&ledger).map_err(io::Error::from);
        text.and_then(|text| files::write_whole(&ledger_file, text.as_bytes(), false))
            .map_err(|source| PublishError::Io { path: ledger_file, act: "write", source })?;
        Ok(published)
    }

    fn has(&self, file: &Path, entry: &Entry, digests: &mut StatCache) -> bool {
        let path = self.folder.join(file);
        path.is_file() && digests.digest(&path).is_ok_and(|found| Some(found) == entry.identity())
    }

    fn copy(&self, source: &Path, file: &Path, executable: bool) -> Result<(), PublishError> {
        let target = self.folder.join(file);
        let folder = target.parent().unwrap_or(&self.folder);
        let io = |path: &Path, act| {
            let path = path.to_owned();
            move |source| PublishError::Io { path, act, source }
        };
        fs::create_dir_all(folder).map_err(io(folder, "create the folder"))?;
        // Under a name that follows from the file's: what a killed publish left there the next one takes away.
        let part = format!(".{}.part", target.file_name().unwrap_or_default().to_string_lossy());
        let mut new = files::remove(&folder.join(&part))
            .and_then(|()| {
                // As any new file: the umask says who else may read it. A report is a person's to edit.
                let mode = Permissions::from_mode(if executable { 0o777 } else { 0o666 });
                tempfile::Builder::new().prefix(&part).rand_bytes(0).permissions(mode).tempfile_in(folder)
            })
            .map_err(io(folder, "write in it"))?;
        // From file to file the kernel copies, or
        // clones where it can; a link would let a person's edit of a report into the store.
        File::open(source)
            .and_then(|mut bytes| io::copy(&mut bytes, new.as_file_mut()))
            .map_err(io(source, "copy"))?;
        new.persist(&target).map_err(|error| io(&target, "write")(error.error))?;
        Ok(())
    }

    fn remove(&self, file: &Path) -> Result<(), PublishError> {
        let path = self.folder.join(file);
        files::remove(&path).map_err(|source| PublishError::Io { path, act: "remove", source })?;
        // Folders that became empty go too; the first that is not empty ends it.
        let mut folder = file.parent();
        while let Some(inner) = folder.filter(|inner| !inner.as_os_str().is_empty()) {
            if fs::remove_dir(self.folder.join(inner)).is_err() {
                break;
            }
            folder = inner.parent();
        }
        Ok(())
    }
}

/// Each file of a tree, and where it goes.
fn published_files<'a>(
    below: &'a Path,
    manifest: &'a Manifest,
) -> impl Iterator<Item = (PathBuf, &'a Entry)> {
    manifest.entries().iter().filter(|entry| entry.digest.is_some()).map(move |entry| {
        let target = below.join(&entry.path);
        let target = target.components().filter(|c| *c != std::path::Component::CurDir).collect();
        (target, entry)
    })
}

/// A missing or damaged ledger is an empty one: then files of earlier steps stay.
fn read_ledger(path: &Path) -> Ledger {
    files::read_text(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
