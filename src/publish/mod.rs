//! Publishing: copies trees from the store to `reports/<profile>/` for people to read. It writes only files that
//! differ and removes only files that an earlier publish wrote. It does not know how trees are built.
//!
//! Several pipelines in one folder may publish to a profile of one name. Each removes only its own files, and none
//! overwrites a file of another.

mod clash;
mod ledger;

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::pipeline::Pipeline;
use crate::recorder::Recorder;
use crate::store::{ResultError, VerifiedPath, Writer, files};
use crate::tree::{Entry, Manifest, shown};
use clash::Owner;
use ledger::{Files, Ledger, Ledgers, Other};

/// In the reports of a profile: a report is written here before it is moved into place. Nothing is published here.
pub const UNFINISHED: &str = ".unfinished";

/// The name of a page for a browser.
const PAGE: &str = "index.html";

/// The reports of one profile.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    /// The folder of all profiles.
    root: PathBuf,
    folder: PathBuf,
    profile: String,
    ledgers: Ledgers,
}

/// A tree to publish.
#[derive(Debug)]
pub struct Part<'a> {
    /// The step that wrote it.
    pub step: &'a str,
    /// The target folder, below the reports folder.
    pub below: &'a Path,
    /// Its files.
    pub manifest: Manifest,
    /// Its digest.
    pub tree: Digest,
}

/// The outcome of a publish.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Files written, relative to the reports folder of the profile.
    pub written: Vec<PathBuf>,
    /// Files removed because no step publishes them any longer.
    pub removed: Vec<PathBuf>,
    /// Files that no step publishes any longer and that a person has edited: they stay, and belong to the person now.
    pub edited: Vec<PathBuf>,
}

/// The reports cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Two steps publish one file, or a file and a folder of one name.
    #[error(
        "`{first}` and `{second}` both publish {}{}; give one of them another `publish` folder",
        file.display(),
        if *is_file { "" } else { ", one as a file and one as a folder or with different capitalization" }
    )]
    Conflict {
        /// The file, relative to the reports folder.
        file: PathBuf,
        /// Whether both publish this same file.
        is_file: bool,
        /// The first step.
        first: String,
        /// The second step.
        second: String,
    },
    /// Another pipeline in the same folder has published the file.
    #[error(
        "`{step}` publishes {}, which `{other}` of {} has published; rename one of the profiles or `publish` folders",
        file.display(),
        pipeline.display()
    )]
    Foreign {
        /// The file, relative to the reports folder.
        file: PathBuf,
        /// The step of this pipeline.
        step: String,
        /// The step of the other one.
        other: String,
        /// The pipeline file of the other one.
        pipeline: PathBuf,
    },
    /// A step publishes to the folder of unfinished reports.
    #[error("`{step}` publishes {}: the name {UNFINISHED} is reserved", file.display())]
    Reserved {
        /// The file, relative to the reports folder.
        file: PathBuf,
        /// The step.
        step: String,
    },
    /// The result of a publishing step is not usable.
    #[error("cannot publish the result of step `{step}`: {source}")]
    Result {
        /// The step.
        step: String,
        /// The reason.
        source: ResultError,
    },
    /// A file cannot be read or written.
    #[error("{}: cannot {act}: {source}", shown(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed, as a verb.
        act: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

impl PublishError {
    /// The step in the pipeline file that the error is about, if there is one.
    pub fn step(&self) -> Option<&str> {
        match self {
            Self::Conflict { second: step, .. }
            | Self::Foreign { step, .. }
            | Self::Reserved { step, .. } => Some(step),
            Self::Result { .. } | Self::Io { .. } => None,
        }
    }
}

/// A file to write.
struct Stale {
    file: PathBuf,
    /// The verified source.
    source: PathBuf,
    executable: bool,
}

/// A file that nothing publishes any longer, with the digest it was published with.
struct Leftover {
    path: PathBuf,
    digest: Digest,
}

impl Reports {
    /// The reports of the pipeline's profile in `root` (`reports`), which need not exist; the store is in `cache`.
    pub fn new(root: PathBuf, pipeline: &Pipeline, cache: &Path) -> Self {
        let file = pipeline.absolute_file();
        let (folder, profile) = (root.join(&pipeline.profile), pipeline.profile.clone());
        Self { root, folder, profile, ledgers: Ledgers::new(cache, file) }
    }

    /// The reports folder of the profile.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The page among what is published: `index.html`, that of the highest folder if there are several.
    pub fn page(&self, parts: &[Part]) -> Option<PathBuf> {
        let pages = parts.iter().filter(|part| part.manifest.at(PAGE).is_some());
        // Components leave out a `.`, the folder of the profile itself.
        let pages =
            pages.map(|part| self.folder.join(part.below).join(PAGE).components().collect::<PathBuf>());
        pages.min_by_key(|page| page.components().count())
    }

    /// The files that a published tree becomes, with their digests.
    pub fn files(&self, below: &Path, manifest: &Manifest) -> Vec<(PathBuf, Digest)> {
        published_files(below, manifest).map(|(file, _, digest)| (self.folder.join(file), digest)).collect()
    }

    /// Whether all files of a tree are in the reports, unchanged.
    pub fn hold(&self, below: &Path, manifest: &Manifest, recorder: &Recorder) -> bool {
        published_files(below, manifest)
            .all(|(file, _, identity)| has(&self.folder.join(file), identity, recorder))
    }

    /// Whether the ledger lists all files of `parts`.
    pub fn is_noted(&self, parts: &[Part], recorder: &Recorder) -> bool {
        let ledger = self.ledgers.own(recorder);
        let noted = ledger.profiles.get(&self.profile);
        parts.iter().all(|part| noted.and_then(|steps| steps.get(part.step)) == Some(&part.files()))
    }

    /// The files that this pipeline has published and publishes no longer.
    pub fn left_over(&self, pipeline: &Pipeline, parts: &[Part], recorder: &Recorder) -> Vec<PathBuf> {
        let (mut own, others) = (self.ledgers.own(recorder), self.ledgers.others(recorder));
        let left = self.to_remove(pipeline, parts, &mut own, &others);
        left.into_iter().map(|left| left.path).collect()
    }

    /// The files that differ from `parts`, and the files that nothing publishes any longer.
    pub fn differing(&self, pipeline: &Pipeline, parts: &[Part], recorder: &Recorder) -> Vec<PathBuf> {
        let files = parts.iter().flat_map(|part| published_files(part.below, &part.manifest));
        let mut found: Vec<PathBuf> = files
            .filter(|(file, _, identity)| !has(&self.folder.join(file), *identity, recorder))
            .map(|(file, ..)| file)
            .collect();
        let left = self.left_over(pipeline, parts, recorder).into_iter();
        found.extend(left.map(|path| path.strip_prefix(&self.folder).map_or(path.clone(), Path::to_owned)));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Updates the reports to `parts`, the trees of all requested steps that publish. `open` opens a tree. Files that
    /// this pipeline published before and publishes no longer are removed.
    ///
    /// # Errors
    /// When two steps publish one file or a result is not usable (then nothing is written), or a write fails.
    pub fn publish(
        &self,
        _writer: &Writer,
        pipeline: &Pipeline,
        parts: &[Part],
        open: &dyn Fn(&Digest) -> Result<VerifiedPath, ResultError>,
        recorder: &Recorder,
    ) -> Result<Published, PublishError> {
        let others = self.ledgers.others(recorder);
        let owners = clash::owners(parts)?;
        clash::refuse_foreign(&owners, &self.profile, &others)?;
        let stale = self.stale(&owners, open, recorder)?;
        let old = self.ledgers.own(recorder);
        let mut ledger = old.clone();
        let left = self.to_remove(pipeline, parts, &mut ledger, &others);
        let mut published = Published::default();
        // Removal comes first: a folder may replace a file.
        for Leftover { path, digest } in left {
            if has(&path, digest, recorder) {
                self.remove(&path)?;
                published.removed.push(path);
            } else {
                published.edited.push(path);
            }
        }
        let unfinished = self.folder.join(UNFINISHED);
        let io = |path: &Path, act| {
            let path = path.to_owned();
            move |source| PublishError::Io { path, act, source }
        };
        // The rest of a killed publish.
        if unfinished.exists() {
            files::remove(&unfinished).map_err(io(&unfinished, "remove"))?;
        }
        for Stale { file, source, executable } in stale {
            self.copy(&source, &file, executable, &unfinished)?;
            published.written.push(file);
        }
        if !published.written.is_empty() {
            files::remove(&unfinished).map_err(io(&unfinished, "remove"))?;
        }
        if ledger != old {
            self.ledgers.keep(&ledger).map_err(io(&self.ledgers.own_file(), "write"))?;
        }
        for gone in others.iter().filter(|other| !other.is_there) {
            files::remove(&gone.file).map_err(io(&gone.file, "remove"))?;
        }
        Ok(published)
    }

    /// The files whose reports differ from the result, each with its verified source.
    fn stale(
        &self,
        owners: &BTreeMap<PathBuf, Owner>,
        open: &dyn Fn(&Digest) -> Result<VerifiedPath, ResultError>,
        recorder: &Recorder,
    ) -> Result<Vec<Stale>, PublishError> {
        let (mut stale, mut opened) = (Vec::new(), HashMap::new());
        for (file, owner) in owners {
            if has(&self.folder.join(file), owner.identity, recorder) {
                continue;
            }
            let failed = |source| PublishError::Result { step: owner.step.to_owned(), source };
            let tree = match opened.entry(owner.tree) {
                hash_map::Entry::Occupied(tree) => tree.into_mut(),
                hash_map::Entry::Vacant(place) => place.insert(open(&owner.tree).map_err(failed)?),
            };
            let source = tree.within(&owner.entry.path);
            let source = source.ok_or(ResultError::Missing).map_err(failed)?;
            let executable = owner.entry.executable;
            stale.push(Stale { file: file.clone(), source: source.into(), executable });
        }
        Ok(stale)
    }

    /// Records in the ledger what `parts` publish. Returns what these steps had published before.
    fn note(&self, ledger: &mut Ledger, parts: &[Part]) -> Files {
        let mut before = Files::new();
        if parts.is_empty() {
            return before;
        }
        let steps = ledger.profiles.entry(self.profile.clone()).or_default();
        for part in parts {
            before.extend(steps.insert(part.step.to_owned(), part.files()).unwrap_or_default());
        }
        before
    }

    /// Files that this pipeline, or a deleted pipeline of its folder, has published and that nothing publishes any
    /// longer. Updates the ledger.
    fn to_remove(
        &self,
        pipeline: &Pipeline,
        parts: &[Part],
        ledger: &mut Ledger,
        others: &[Other],
    ) -> Vec<Leftover> {
        let current = Current::of(pipeline);
        let before = self.note(ledger, parts);
        let mut left: Vec<(PathBuf, Digest)> =
            before.into_iter().map(|(file, digest)| (self.folder.join(file), digest)).collect();
        for (profile, steps) in &ledger.profiles {
            for (step, files) in steps {
                let gone = files.iter().filter(|(file, _)| !current.has(profile, step, file));
                left.extend(gone.map(|(file, digest)| (self.root.join(profile).join(file), *digest)));
            }
        }
        current.keep_only(ledger);
        let mut kept: BTreeSet<PathBuf> = self.files_of(ledger).map(|(path, _)| path).collect();
        for other in others {
            match other.is_there {
                true => kept.extend(self.files_of(&other.ledger).map(|(path, _)| path)),
                false => left.extend(self.files_of(&other.ledger)),
            }
        }
        left.retain(|(path, _)| !kept.contains(path) && self.is_own(path));
        left.sort_unstable();
        left.dedup_by(|a, b| a.0 == b.0);
        left.into_iter().map(|(path, digest)| Leftover { path, digest }).collect()
    }

    /// The files of a ledger, with their digests.
    fn files_of<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = (PathBuf, Digest)> + 'a {
        ledger.profiles.iter().flat_map(move |(profile, steps)| {
            let files = steps.values().flatten();
            files.map(move |(file, digest)| (self.root.join(profile).join(file), *digest))
        })
    }

    /// Whether the file exists and no link on the way leads out of the reports.
    fn is_own(&self, path: &Path) -> bool {
        let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        let mut folders = path.ancestors().skip(1).take_while(|folder| *folder != self.root);
        is_file && folders.all(|folder| fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir()))
    }

    fn copy(
        &self,
        source: &Path,
        file: &Path,
        executable: bool,
        unfinished: &Path,
    ) -> Result<(), PublishError> {
        let target = self.folder.join(file);
        let folder = target.parent().unwrap_or(&self.folder);
        let io = |path: &Path, act| {
            let path = path.to_owned();
            move |source| PublishError::Io { path, act, source }
        };
        for folder in [folder, unfinished] {
            fs::create_dir_all(folder).map_err(io(folder, "create the folder"))?;
        }
        // With the modes of any new file, set by the umask: people may edit a report.
        let mode = Permissions::from_mode(if executable { 0o777 } else { 0o666 });
        let mut new = tempfile::Builder::new()
            .permissions(mode)
            .tempfile_in(unfinished)
            .map_err(io(unfinished, "write in"))?;
        // The kernel copies from file to file, or clones if it can. A link would carry a person's edit into the
        // store.
        File::open(source)
            .and_then(|mut bytes| io::copy(&mut bytes, new.as_file_mut()))
            .map_err(io(source, "copy"))?;
        new.persist(&target).map_err(|error| io(&target, "write")(error.error))?;
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), PublishError> {
        files::remove(path).map_err(|source| PublishError::Io {
            path: path.to_owned(),
            act: "remove",
            source,
        })?;
        // Removes folders that became empty, up to the first one that is not.
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// The files that a pipeline publishes, as far as they are known without results.
struct Current<'a> {
    pipeline: &'a Pipeline,
    steps: HashMap<&'a str, &'a Path>,
}

impl<'a> Current<'a> {
    fn of(pipeline: &'a Pipeline) -> Self {
        Self { pipeline, steps: pipeline.publishing() }
    }

    /// Whether this file of a step is still published. For another profile, only its existence is known.
    fn has(&self, profile: &str, step: &str, file: &Path) -> bool {
        if profile != self.pipeline.profile {
            return self.pipeline.profiles.iter().any(|known| known == profile);
        }
        self.steps.get(step).is_some_and(|below| *below == Path::new(".") || file.starts_with(below))
    }

    /// Removes from a ledger what is no longer published.
    fn keep_only(&self, ledger: &mut Ledger) {
        for (profile, steps) in &mut ledger.profiles {
            for (step, files) in &mut *steps {
                files.retain(|file, _| self.has(profile, step, file));
            }
            steps.retain(|step, _| {
                *profile != self.pipeline.profile || self.steps.contains_key(step.as_str())
            });
        }
        ledger.profiles.retain(|profile, _| self.pipeline.profiles.contains(profile));
    }
}

impl Part<'_> {
    /// The published files with their digests.
    fn files(&self) -> Files {
        published_files(self.below, &self.manifest).map(|(file, _, identity)| (file, identity)).collect()
    }
}

/// Whether a file has these bytes and this executable bit.
fn has(path: &Path, identity: Digest, recorder: &Recorder) -> bool {
    path.is_file() && recorder.digest(path).is_ok_and(|found| found == identity)
}

/// Each file of a tree: its target, its entry, and its digest.
fn published_files<'a>(
    below: &'a Path,
    manifest: &'a Manifest,
) -> impl Iterator<Item = (PathBuf, &'a Entry, Digest)> {
    manifest.entries().iter().filter_map(move |entry| {
        let target =
            below.join(&entry.path).components().filter(|c| *c != std::path::Component::CurDir).collect();
        Some((target, entry, entry.identity()?))
    })
}
