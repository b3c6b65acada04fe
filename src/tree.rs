//! The digest of a folder, through its manifest: one line per file with digest, size and path. The folder's digest is
//! the digest of the manifest's text, so a manifest proves itself. The digest of any path within a tree follows from
//! the manifest alone, without the bytes.
//!
//! Included are relative paths, bytes, the owner's permission to execute, and empty folders. Not included are times,
//! owners, other permissions, and the order of writing.

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
/// From this number of files on, several threads hash.
const PARALLEL_FROM_FILES: usize = 64;

/// A file of a tree, or an empty folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path within the tree, `/`-separated; ends in `/` for an empty folder.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The digest of the file's bytes; `None` for an empty folder.
    pub digest: Option<Digest>,
    /// Whether its owner may execute the file.
    pub executable: bool,
}

impl Entry {
    /// The digest of the file as a step reads it: of its bytes, and of the executable bit if it is set.
    pub fn identity(&self) -> Option<Digest> {
        self.digest.map(|bytes| identity(bytes, self.executable))
    }
}

/// The digest of a file with these bytes. Without the executable bit, it is the digest of the bytes.
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

/// The folder cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A part of it cannot be read, so its content is unknown.
    #[error("cannot read {}: {source}", shown(path))]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// It holds something that a tree cannot hold.
    #[error("{}: {problem}", shown(path))]
    Unfit {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        problem: &'static str,
    },
}

impl TreeError {
    /// The unreadable path.
    pub fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Unreadable { path, source }
    }

    fn unfit(path: &Path, problem: &'static str) -> Self {
        Self::Unfit { path: path.to_owned(), problem }
    }
}

/// A path for messages: control characters and invalid UTF-8 are escaped.
pub fn shown(path: &Path) -> String {
    escaped_bytes(path.as_os_str().as_encoded_bytes()).replace('\n', "\\n")
}

/// Whether a path stays below the folder it is joined to. Paths from outside are checked with it.
pub fn is_plain(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    // `components` skips `.` and empty parts, which would allow a second spelling.
    let parts = text.split(|byte| *byte == b'/');
    parts.into_iter().all(|part| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0))
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

impl Manifest {
    /// Reads and hashes every file below `root`.
    ///
    /// # Errors
    /// For a symbolic link or a special file, a name that is not Unicode, and an unreadable file.
    pub fn of_folder(root: &Path) -> Result<Self, TreeError> {
        Self::of_folder_by(root, &mut |_, _| {}, &|path, _| Digest::of_file(path))
    }

    /// Like [`Manifest::of_folder`], with digests from `hash`, which several threads call. Before that, it calls
    /// `announce` with the number of files and bytes.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`], and the errors of `hash`.
    pub fn of_folder_by(
        root: &Path,
        announce: &mut dyn FnMut(usize, u64),
        hash: &(dyn Fn(&Path, &Metadata) -> io::Result<Digest> + Sync),
    ) -> Result<Self, TreeError> {
        let mut found = walk(root)?;
        announce(found.len(), found.iter().map(|(entry, _)| entry.size).fold(0, u64::saturating_add));
        if found.len() < PARALLEL_FROM_FILES {
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
                    Err(_) => Err(TreeError::unfit(root, "a thread that hashes its files panicked")),
                })
            })?;
        }
        Ok(Self(found.into_iter().map(|(entry, _)| entry).collect()))
    }

    /// Like [`Manifest::of_folder`], with digests from `hash` (for example a stat cache) instead of the files.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`], and the errors of `hash`.
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

    /// The text whose digest is the tree's, one line per entry: `<digest> <size> <path>`. After the size, `x` marks
    /// an executable file, and `q` a path with a line break, which is written as `\\n`, with `\\` as `\\\\`.
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

    /// Parses the output of [`Manifest::text`].
    ///
    /// # Errors
    /// The reason, as a sentence. Paths that lead out of the tree and impossible sizes are errors too.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut total: u64 = 0;
        for line in text.split_terminator('\n') {
            let entry = parse_line(line).ok_or("its list of files is not valid")?;
            if !is_plain(Path::new(entry.path.strip_suffix('/').unwrap_or(&entry.path))) {
                return Err(format!(
                    "it names a file outside of the tree: {}",
                    shown(Path::new(&entry.path))
                ));
            }
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err("its list of files is not sorted".to_owned());
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

    /// The digest of a file or folder within the tree, or `None` if the path does not exist.
    pub fn at(&self, path: &str) -> Option<Digest> {
        if let Ok(index) = self.0.binary_search_by(|entry| entry.path.as_str().cmp(path)) {
            return self.0[index].identity();
        }
        self.below(path).map(|folder| folder.digest())
    }

    /// The manifest of a folder within the tree, or `None` if the path does not exist.
    pub fn below(&self, path: &str) -> Option<Self> {
        let prefix = format!("{path}/");
        // Paths with one prefix are adjacent in byte order.
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

/// Parses a line of [`Manifest::text`].
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

/// Decodes a path with `\\n` for line breaks; `None` if it contains none.
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

/// A file or empty folder that was found, and its metadata.
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

/// All files and empty folders below `root`, sorted, without digests.
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
            // Does not follow links: the target of a link may change without a trace in the folder.
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
