//! The digest of a folder, by way of its manifest: a line for every file with digest, size and path.
//! The digest of the manifest's text is the folder's digest, so a manifest proves itself, and the digest of
//! any path within a tree is known from the manifest alone, without the tree's bytes.
//!
//! What counts: relative paths and bytes, and that an empty folder is there. What does not: times, owners,
//! permissions (the executable bit included), the order in which files were written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

const KIND: &str = "repro tree v1";
/// From this many files on, hashing is shared among threads.
const MANY_FILES: usize = 64;

/// A file of a tree, or an empty folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path within the tree, `/`-separated; ends in `/` for an empty folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The file's digest; `None` for an empty folder.
    pub digest: Option<Digest>,
}

/// All files of a tree, sorted by the bytes of their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(Vec<Entry>);

/// A folder that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TreeError {
    /// The offending file or folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl TreeError {
    fn new(path: &Path, problem: impl ToString) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl Manifest {
    /// Reads and hashes every file below `root`.
    ///
    /// # Errors
    /// On a symbolic link or anything else that is neither file nor folder, a name that is not Unicode or
    /// holds a line break, and what cannot be read.
    pub fn of_folder(root: &Path) -> Result<Self, TreeError> {
        Self::of_folder_announced(root, &mut |_, _| {})
    }

    /// As [`Manifest::of_folder`]; `announce` gets the numbers of files and bytes before they are hashed.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`].
    pub fn of_folder_announced(root: &Path, announce: &mut dyn FnMut(usize, u64)) -> Result<Self, TreeError> {
        let mut found = walk(root)?;
        announce(found.len(), found.iter().map(|entry| entry.size).fold(0, u64::saturating_add));
        if found.len() < MANY_FILES {
            hash_files(root, &mut found)?;
        } else {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let share = found.len().div_ceil(threads);
            std::thread::scope(|scope| {
                let workers: Vec<_> = found
                    .chunks_mut(share)
                    .map(|chunk| scope.spawn(move || hash_files(root, chunk)))
                    .collect();
                workers.into_iter().try_for_each(|worker| match worker.join() {
                    Ok(result) => result,
                    Err(_) => Err(TreeError::new(root, "the hashing of its files broke off")),
                })
            })?;
        }
        Ok(Self(found))
    }

    /// As [`Manifest::of_folder`], with digests from `hash` (a stat cache, say) instead of from the bytes.
    ///
    /// # Errors
    /// As [`Manifest::of_folder`], and what `hash` returns.
    pub fn of_folder_with(
        root: &Path,
        mut hash: impl FnMut(&Path, &Metadata) -> io::Result<Digest>,
    ) -> Result<Self, TreeError> {
        let mut found = walk(root)?;
        for entry in found.iter_mut().filter(|entry| !entry.path.ends_with('/')) {
            let path = root.join(&entry.path);
            let digest = fs::symlink_metadata(&path).and_then(|metadata| hash(&path, &metadata));
            entry.digest = Some(digest.map_err(|error| TreeError::new(&path, error))?);
        }
        Ok(Self(found))
    }

    /// The files and empty folders, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The text whose digest is the tree's: `<digest> <size> <path>` per line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            // Writing to a string cannot fail.
            let _ = match entry.digest {
                Some(digest) => writeln!(text, "{digest} {} {}", entry.size, entry.path),
                None => writeln!(text, "- 0 {}", entry.path),
            };
        }
        text
    }

    /// Reads what [`Manifest::text`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut entries = Vec::new();
        for line in text.lines() {
            let (digest, rest) = line.split_once(' ')?;
            let (size, path) = rest.split_once(' ')?;
            let digest = if digest == "-" { None } else { Some(digest.parse().ok()?) };
            entries.push(Entry { path: path.to_owned(), size: size.parse().ok()?, digest });
        }
        Some(Self(entries))
    }

    /// The tree's digest.
    pub fn digest(&self) -> Digest {
        Digest::of_kind(KIND, self.text().as_bytes())
    }

    /// The digest of a file or folder within the tree, or `None` when there is none of that path.
    pub fn at(&self, path: &str) -> Option<Digest> {
        if let Ok(index) = self.0.binary_search_by(|entry| entry.path.as_str().cmp(path)) {
            return self.0[index].digest;
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

fn hash_files(root: &Path, entries: &mut [Entry]) -> Result<(), TreeError> {
    for entry in entries.iter_mut().filter(|entry| !entry.path.ends_with('/')) {
        let path = root.join(&entry.path);
        entry.digest = Some(Digest::of_file(&path).map_err(|error| TreeError::new(&path, error))?);
    }
    Ok(())
}

/// Every file and empty folder below `root`, sorted, digests still missing.
fn walk(root: &Path) -> Result<Vec<Entry>, TreeError> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let before = found.len() + folders.len();
        for item in fs::read_dir(&folder).map_err(|error| TreeError::new(&folder, error))? {
            let item = item.map_err(|error| TreeError::new(&folder, error))?;
            let path = item.path();
            let name = item.file_name();
            let name = name.to_str().filter(|name| !name.contains('\n')).ok_or_else(|| {
                TreeError::new(&path, "its name is not Unicode or holds a line break; rename it")
            })?;
            // Does not follow links: a link's target may change without a trace in the folder.
            let metadata = item.metadata().map_err(|error| TreeError::new(&path, error))?;
            let relative = format!("{prefix}{name}");
            if metadata.is_dir() {
                folders.push((path, format!("{relative}/")));
            } else if metadata.is_file() {
                found.push(Entry { path: relative, size: metadata.len(), digest: None });
            } else {
                let kind =
                    if metadata.is_symlink() { "a symbolic link" } else { "neither a file nor a folder" };
                return Err(TreeError::new(
                    &path,
                    format!("it is {kind}; a tree may hold only files and folders"),
                ));
            }
        }
        if found.len() + folders.len() == before && !prefix.is_empty() {
            found.push(Entry { path: prefix, size: 0, digest: None });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    const FILES: [(&str, &str); 5] =
        [("a/b/deep.txt", "1"), ("a/x.txt", "2"), ("a.txt", "3"), ("a-b/c", "4"), ("z", "")];

    #[test]
    fn the_digest_depends_on_paths_and_bytes_only() {
        let one = folder(&FILES);
        let mut reversed = FILES;
        reversed.reverse();
        let two = folder(&reversed);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(two.path().join("z"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let digest = |f: &tempfile::TempDir| Manifest::of_folder(f.path()).unwrap().digest();
        assert_eq!(digest(&one), digest(&two));
        fs::write(two.path().join("a/x.txt"), "20").unwrap();
        assert_ne!(digest(&one), digest(&two));
        fs::write(two.path().join("a/x.txt"), "2").unwrap();
        assert_eq!(digest(&one), digest(&two));
        fs::create_dir(two.path().join("empty")).unwrap();
        assert_ne!(digest(&one), digest(&two), "an empty folder is part of a tree");
        fs::remove_dir(two.path().join("empty")).unwrap();
        fs::rename(two.path().join("z"), two.path().join("y")).unwrap();
        assert_ne!(digest(&one), digest(&two));
    }

    #[test]
    fn a_path_within_has_the_digest_it_would_have_alone() {
        let tree = folder(&FILES);
        let manifest = Manifest::of_folder(tree.path()).unwrap();
        let alone = |path| Manifest::of_folder(&tree.path().join(path)).unwrap().digest();
        assert_eq!(manifest.at("a"), Some(alone("a")));
        assert_eq!(manifest.at("a/b"), Some(alone("a/b")));
        assert_eq!(manifest.at("a/b/deep.txt"), Some(Digest::of_bytes(b"1")));
        assert_eq!(manifest.at("a.txt"), Some(Digest::of_bytes(b"3")));
        assert_eq!(manifest.at("a/nothing"), None);
        assert_eq!(manifest.at("b"), None);
        assert_eq!(manifest.top_level().keys().collect::<Vec<_>>(), ["a", "a-b", "a.txt", "z"]);
    }

    #[test]
    fn an_empty_folder_within_is_found() {
        let tree = folder(&[("a/x", "1")]);
        fs::create_dir_all(tree.path().join("a/none")).unwrap();
        let manifest = Manifest::of_folder(tree.path()).unwrap();
        assert_eq!(manifest.at("a/none"), Some(Manifest::default().digest()));
    }

    #[test]
    fn the_text_comes_back() {
        let tree = folder(&FILES);
        fs::create_dir(tree.path().join("with space")).unwrap();
        let manifest = Manifest::of_folder(tree.path()).unwrap();
        assert_eq!(Manifest::parse(&manifest.text()), Some(manifest));
        assert_eq!(Manifest::parse("nonsense\n"), None);
    }

    #[test]
    fn many_files_hash_as_few() {
        let files: Vec<(String, String)> =
            (0..300).map(|i| (format!("d{}/f{i}", i % 7), i.to_string())).collect();
        let borrowed: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        let tree = folder(&borrowed);
        let parallel = Manifest::of_folder(tree.path()).unwrap();
        let serial = Manifest::of_folder_with(tree.path(), |path, _| Digest::of_file(path)).unwrap();
        assert_eq!(parallel, serial);
        assert_eq!(parallel.entries().len(), 300);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_refused_by_name() {
        let tree = folder(&FILES);
        std::os::unix::fs::symlink("z", tree.path().join("link")).unwrap();
        let error = Manifest::of_folder(tree.path()).unwrap_err().to_string();
        assert!(error.contains("link: it is a symbolic link"), "{error}");
    }
}
