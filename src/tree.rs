//! The digest of a folder, by way of its manifest: a line for every file with digest, size and path.
//! The digest of the manifest's text is the folder's digest, so a manifest proves itself, and the digest of
//! any path within a tree is known from the manifest alone, without the tree's bytes.
//!
//! What counts: relative paths, bytes, whether the owner may execute a file, and that an empty folder is there. What
//! does not: times, owners, other permissions, the order in which files were written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use crate::digest::Digest;
use crate::escape::escaped_bytes;

const KIND: &str = "repro tree v1";
const EXECUTABLE: &str = "repro executable v1";
/// From this many files on, hashing is shared among threads.
const MANY_FILES: usize = 64;

/// A file of a tree, or an empty folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path within the tree, `/`-separated; ends in `/` for an empty folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The digest of the file's bytes; `None` for an empty folder.
    pub digest: Option<Digest>,
    /// Whether its owner may execute the file.
    pub executable: bool,
}

impl Entry {
    /// The digest of the file as a step reads it: of its bytes, and of the executable bit where it is set.
    pub fn identity(&self) -> Option<Digest> {
        self.digest.map(|bytes| identity(bytes, self.executable))
    }
}

/// The digest of a file with these bytes. Without the executable bit it is the digest of the bytes.
pub fn identity(bytes: Digest, executable: bool) -> Digest {
    if executable { Digest::of_kind(EXECUTABLE, &bytes.bytes()) } else { bytes }
}

/// Whether the owner of a file may execute it.
pub fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o100 != 0
}

/// All files of a tree, sorted by the bytes of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(Vec<Entry>);

/// A folder that cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Something in it cannot be read. What it holds is not known.
    #[error("{}: cannot be read: {source}", shown(path))]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something that a tree cannot hold.
    #[error("{}: {problem}", shown(path))]
    Unfit {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl TreeError {
    /// What could not be read.
    pub fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Unreadable { path, source }
    }

    fn unfit(path: &Path, problem: &'static str) -> Self {
        Self::Unfit { path: path.to_owned(), problem }
    }
}

/// A path as messages show it: control characters and bytes that are not UTF-8 are escaped.
pub fn shown(path: &Path) -> String {
    escaped_bytes(path.as_os_str().as_encoded_bytes()).replace('\n', "\\n")
}

/// Whether a path stays below the folder it is joined to: no path from outside may lead elsewhere.
pub fn is_plain(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    // `components` passes over `.` and empty parts, which would be a second spelling.
    let parts = text.split(|byte| *byte == b'/');
    parts.into_iter().all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0))
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

impl Manifest {
    /// Reads and hashes every file below `root`.
    ///
    /// # Errors
    /// On a symbolic link or anything else that is neither file nor folder, a name that is not Unicode, and what
    /// cannot be read.
    pub fn of_folder(root: &Path) -> Result<Self, TreeError> {
        Self::of_folder_by(root, &mut |_, _| {}, &|path, _| Digest::of_file(path))
    }

    /// As [`Manifest::of_folder`], with digests of bytes from `hash`, which threads share. `announce` is called with the
    /// number of files and bytes before they are hashed.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`], and what `hash` returns.
    pub fn of_folder_by(
        root: &Path,
        announce: &mut dyn FnMut(usize, u64),
        hash: &(dyn Fn(&Path, &Metadata) -> io::Result<Digest> + Sync),
    ) -> Result<Self, TreeError> {
        let mut found = walk(root)?;
        announce(found.len(), found.iter().map(|(entry, _)| entry.size).fold(0, u64::saturating_add));
        if found.len() < MANY_FILES {
            hash_files(root, &mut found, &mut |path, metadata| hash(path, metadata))?;
        } else {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let share = found.len().div_ceil(threads);
            std::thread::scope(|scope| {
                let workers: Vec<_> = found
                    .chunks_mut(share)
                    .map(|chunk| {
                        scope.spawn(move || {
                            hash_files(root, chunk, &mut |path, metadata| hash(path, metadata))
                        })
                    })
                    .collect();
                workers.into_iter().try_for_each(|worker| match worker.join() {
                    Ok(result) => result,
                    Err(_) => Err(TreeError::unfit(root, "the hashing of its files broke off")),
                })
            })?;
        }
        Ok(Self(found.into_iter().map(|(entry, _)| entry).collect()))
    }

    /// As [`Manifest::of_folder`], with digests of bytes from `hash` (a stat cache, say) instead of from the files.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`], and what `hash` returns.
    pub fn of_folder_with(
        root: &Path,
        mut hash: impl FnMut(&Path, &Metadata) -> io::Result<Digest>,
    ) -> Result<Self, TreeError> {
        let mut found = walk(root)?;
        hash_files(root, &mut found, &mut hash)?;
        Ok(Self(found.into_iter().map(|(entry, _)| entry).collect()))
    }

    /// The files and empty folders, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The text whose digest is the tree's, a line each: `<digest> <size> <path>`. Behind the size stands `x` for a
    /// file that may be executed, and `q` for a path that holds a line break, which is written as `\\n` then, and
    /// `\\` as `\\\\`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            let has_break = entry.path.contains('\n');
            let flags = match (entry.executable, has_break) {
                (false, false) => "",
                (true, false) => "x",
                (false, true) => "q",
                (true, true) => "xq",
            };
            let quoted = has_break.then(|| entry.path.replace('\\', "\\\\").replace('\n', "\\n"));
            let path = quoted.as_ref().unwrap_or(&entry.path);
            // Writing to a string cannot fail.
            let _ = match entry.digest {
                Some(digest) => writeln!(text, "{digest} {}{flags} {path}", entry.size),
                None => writeln!(text, "- 0{flags} {path}"),
            };
        }
        text
    }

    /// Reads what [`Manifest::text`] wrote.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, a path that leads out of the tree and sizes that no disk holds
    /// included.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut total: u64 = 0;
        for line in text.split_terminator('\n') {
            let entry = parse_line(line).ok_or("its list of files cannot be read")?;
            if !is_plain(Path::new(entry.path.strip_suffix('/').unwrap_or(&entry.path))) {
                return Err(format!(
                    "it names a file outside of the tree: {}",
                    shown(Path::new(&entry.path))
                ));
            }
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err("its list of files is not in order".to_owned());
            }
            total = total.checked_add(entry.size).ok_or("its files are larger than any disk")?;
            entries.push(entry);
        }
        Ok(Self(entries))
    }

    /// The tree's digest.
    pub fn digest(&self) -> Digest {
        Digest::of_kind(KIND, self.text().as_bytes())
    }

    /// The digest of a file or folder within the tree, or `None` when there is none of that path.
    pub fn at(&self, path: &str) -> Option<Digest> {
        if let Ok(index) = self.0.binary_search_by(|entry| entry.path.as_str().cmp(path)) {
            return self.0[index].identity();
        }
        self.below(path).map(|folder| folder.digest())
    }

    /// The manifest of a folder within the tree, or `None` when there is none of that path.
    pub fn below(&self, path: &str) -> Option<Self> {
        let prefix = format!("{path}/");
        // Paths that begin with one prefix stand together in byte order.
        let start = self.0.partition_point(|entry| entry.path.as_str() < prefix.as_str());
        let inside: Vec<Entry> = self.0[start..]
            .iter()
            .take_while(|entry| entry.path.starts_with(&prefix))
            .map(|entry| Entry { path: entry.path[prefix.len()..].to_owned(), ..entry.clone() })
            .collect();
        if inside.is_empty() {
            return None;
        }
        Some(Self(inside.into_iter().filter(|entry| !entry.path.is_empty()).collect()))
    }

    /// The digests of the top-level files and folders.
    pub fn top_level(&self) -> BTreeMap<String, Digest> {
        let mut digests = BTreeMap::new();
        for entry in &self.0 {
            let name = entry.path.split('/').next().unwrap_or_default();
            if !digests.contains_key(name)
                && let Some(digest) = self.at(name)
            {
                digests.insert(name.to_owned(), digest);
            }
        }
        digests
    }

    /// The size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|entry| entry.size).sum()
    }
}

/// What a line of [`Manifest::text`] says.
fn parse_line(line: &str) -> Option<Entry> {
    let (digest, rest) = line.split_once(' ')?;
    let (size, path) = rest.split_once(' ')?;
    let (size, has_break) = size.strip_suffix('q').map_or((size, false), |size| (size, true));
    let (size, executable) = size.strip_suffix('x').map_or((size, false), |size| (size, true));
    // A number has one spelling.
    let number: u64 = size.parse().ok().filter(|number: &u64| number.to_string() == size)?;
    let digest = if digest == "-" { None } else { Some(digest.parse().ok()?) };
    let path = if has_break { unquoted(path)? } else { path.to_owned() };
    let is_folder = path.ends_with('/');
    let is_sound = is_folder == digest.is_none() && !(is_folder && (number > 0 || executable));
    is_sound.then_some(Entry { path, size: number, digest, executable })
}

/// The path that is written with `\\n` for a line break; `None` where it holds none.
fn unquoted(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(match letters.next()? {
                'n' => '\n',
                '\\' => '\\',
                _ => return None,
            }),
            other => plain.push(other),
        }
    }
    plain.contains('\n').then_some(plain)
}

/// A file or empty folder that was found, and what the system says of it.
type Found = (Entry, Metadata);

fn hash_files(
    root: &Path,
    found: &mut [Found],
    hash: &mut dyn FnMut(&Path, &Metadata) -> io::Result<Digest>,
) -> Result<(), TreeError> {
    for (entry, metadata) in found.iter_mut().filter(|(_, metadata)| metadata.is_file()) {
        let path = root.join(&entry.path);
        entry.digest = Some(hash(&path, metadata).map_err(TreeError::unreadable(&path))?);
    }
    Ok(())
}

/// Every file and empty folder below `root`, sorted, digests still missing.
fn walk(root: &Path) -> Result<Vec<Found>, TreeError> {
    let mut found: Vec<Found> = Vec::new();
    let root_metadata = fs::symlink_metadata(root).map_err(TreeError::unreadable(root))?;
    let mut folders = vec![(root.to_owned(), String::new(), root_metadata)];
    while let Some((folder, prefix, folder_metadata)) = folders.pop() {
        let before = found.len() + folders.len();
        for item in fs::read_dir(&folder).map_err(TreeError::unreadable(&folder))? {
            let item = item.map_err(TreeError::unreadable(&folder))?;
            let path = item.path();
            let name = item.file_name();
            let name =
                name.to_str().ok_or_else(|| TreeError::unfit(&path, "its name is not UTF-8; rename it"))?;
            // Does not follow links: a link's target may change without a trace in the folder.
            let metadata = item.metadata().map_err(TreeError::unreadable(&path))?;
            let relative = format!("{prefix}{name}");
            if metadata.is_dir() {
                folders.push((path, format!("{relative}/"), metadata));
            } else if metadata.is_file() {
                let (size, executable) = (metadata.len(), is_executable(&metadata));
                found.push((Entry { path: relative, size, digest: None, executable }, metadata));
            } else if metadata.is_symlink() {
                let problem = "it is a symbolic link; a tree may hold only files and folders";
                return Err(TreeError::unfit(&path, problem));
            } else {
                let problem = "it is neither a file nor a folder; a tree may hold only files and folders";
                return Err(TreeError::unfit(&path, problem));
            }
        }
        if found.len() + folders.len() == before && !prefix.is_empty() {
            found.push((Entry { path: prefix, size: 0, digest: None, executable: false }, folder_metadata));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests;
