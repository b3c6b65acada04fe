//! Reads files out of a data set's archive (zip or tar), or out of the folder such an archive was unpacked to. It knows what
//! makes an archive unsafe or unreadable, not what is in it.
//!
//! Nothing is ever extracted under a name that the archive chose: callers name the files they want and say where
//! they go.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use stage_api::StageError;
use zip::result::ZipError;

use crate::formats::file_kind;
use crate::formats::tar_reader::{self, Tar};
use crate::formats::zip_reader::{self, Zip};

/// No file of a meme data set is larger than this once unpacked; a small archive that claims more is a trap.
const LARGEST: u64 = 1 << 30;
/// How many times larger than its whole archive a file within may be, and what any may have.
const MAX_RATIO: u64 = 200;
const HARMLESS: u64 = 16 << 20;
/// A file's claimed size is believed up to here before its bytes are seen.
const BELIEVED: u64 = 1 << 20;

/// An open archive, or a folder in its place. Clones share the open file and the table of contents, and read on their
/// own: one a thread.
#[derive(Clone)]
pub struct Archive {
    port: &'static str,
    path: PathBuf,
    files: Files,
    /// The folder within the archive that holds the data set: empty, or ending in `/`.
    root: String,
    /// The most bytes that a file within may have.
    max_bytes: u64,
}

#[derive(Clone)]
enum Files {
    /// The archive, and its files by name.
    Zip(Zip, Arc<HashMap<String, usize>>),
    /// The archive.
    Tar(Tar),
    /// The paths of all files within the folder, `/`-separated.
    Folder(Arc<BTreeSet<String>>),
}

impl Archive {
    /// Opens the zip archive or folder that came in by `port` and finds the folder within that holds the file
    /// `landmark`.
    ///
    /// # Errors
    /// Not a zip archive, names that lead out of it, no `landmark` within.
    pub fn open(port: &'static str, path: &Path, landmark: &str) -> Result<Self, StageError> {
        let files = Files::open(path, None);
        let mut archive = Self::new(port, path, files)?;
        let names = archive.names();
        let folders = names.iter().filter_map(|name| name.strip_suffix(landmark));
        let folders = folders.filter(|folder| folder.is_empty() || folder.ends_with('/'));
        let root = folders.min_by_key(|folder| (folder.len(), *folder)).map(ToOwned::to_owned);
        let root = root.ok_or_else(|| {
            let found = file_kind::nearest(landmark, names.iter().copied());
            let found = if found.is_empty() { "nothing".to_owned() } else { format!("such as {found}") };
            let count = names.len();
            let problem =
                format!("holds no `{landmark}`, but {count} files, {found}: is it the right archive?");
            StageError::input(port, path, problem)
        })?;
        archive.root = root;
        Ok(archive)
    }

    /// Opens the archive (zip, tar, tar in gzip) or folder that came in by `port`, whatever it holds. `scratch` has room for a
    /// tar in gzip while that is read.
    ///
    /// # Errors
    /// Another kind of file, names that lead out of the archive.
    pub fn open_any(port: &'static str, path: &Path, scratch: &Path) -> Result<Self, StageError> {
        Self::new(port, path, Files::open(path, Some(scratch)))
    }

    fn new(port: &'static str, path: &Path, files: Result<Files, String>) -> Result<Self, StageError> {
        let files = files.map_err(|problem| StageError::input(port, path, problem))?;
        let archive =
            Self { port, path: path.to_owned(), files, root: String::new(), max_bytes: max_bytes(path) };
        for name in archive.names() {
            if let Some(problem) = unsafe_name(name) {
                let problem = format!("holds `{}`, a name that {problem}", file_kind::shown(name));
                return Err(StageError::input(port, path, problem));
            }
        }
        Ok(archive)
    }

    /// The names of all files, wherever the data set is within, in order; of a zip also those of folders, which end in `/`.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = match &self.files {
            Files::Zip(_, names) => names.keys().map(String::as_str).collect(),
            Files::Tar(tar) => tar.names().collect(),
            Files::Folder(names) => names.iter().map(String::as_str).collect(),
        };
        names.sort_unstable();
        names
    }

    /// Whether the data set has the file `name`.
    pub fn has(&self, name: &str) -> bool {
        let full = format!("{}{name}", self.root);
        match &self.files {
            Files::Zip(_, names) => names.contains_key(&full),
            Files::Tar(tar) => tar.has(&full),
            Files::Folder(names) => names.contains(&full),
        }
    }

    /// The bytes of the file `name`.
    ///
    /// # Errors
    /// Missing, damaged, encrypted or absurdly large.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, StageError> {
        let full = format!("{}{name}", self.root);
        let max_bytes = self.max_bytes;
        let bytes = match &mut self.files {
            Files::Zip(zip, names) => open_within(zip, names, &full).and_then(|file| {
                let size = file.size();
                read_all(file, size, max_bytes)
            }),
            Files::Tar(tar) => {
                tar.stream(&full).ok_or_else(missing).and_then(|(file, size)| read_all(file, size, max_bytes))
            }
            Files::Folder(names) if !names.contains(&full) => Err(missing()),
            Files::Folder(_) => match File::open(self.path.join(&full)) {
                Ok(file) => read_all(&file, file.metadata().map_or(0, |file| file.len()), max_bytes),
                Err(error) => Err(error.to_string()),
            },
        };
        bytes.map_err(|problem| self.error(name, problem))
    }

    /// The bytes of the text file `name`.
    ///
    /// # Errors
    /// As [`Archive::bytes`]; what was saved in place of the text.
    pub fn text(&mut self, name: &str) -> Result<Vec<u8>, StageError> {
        let bytes = self.bytes(name)?;
        // Whether a text may be empty is for its reader to say.
        match file_kind::placeholder(&bytes).filter(|_| !bytes.is_empty()) {
            Some(problem) => Err(self.error(name, problem)),
            None => Ok(bytes),
        }
    }

    /// The file `name` as a stream, for what is too large for memory: an archive within the archive.
    ///
    /// # Errors
    /// Missing or encrypted.
    pub fn stream(&mut self, name: &str) -> Result<Box<dyn Read + '_>, StageError> {
        let full = format!("{}{name}", self.root);
        let (port, path) = (self.port, &self.path);
        let fail = |problem: String| StageError::input(port, path, format!("`{full}`: {problem}"));
        match &mut self.files {
            Files::Zip(zip, names) => match open_within(zip, names, &full) {
                Ok(file) => Ok(Box::new(file)),
                Err(problem) => Err(fail(problem)),
            },
            Files::Tar(tar) => match tar.stream(&full) {
                Some((file, _)) => Ok(Box::new(file)),
                None => Err(fail(missing())),
            },
            Files::Folder(names) if !names.contains(&full) => Err(fail(missing())),
            Files::Folder(_) => match File::open(path.join(&full)) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(fail(error.to_string())),
            },
        }
    }

    /// The most bytes that a file within may have.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// An error about the file `name` of this archive.
    pub fn error(&self, name: &str, problem: impl std::fmt::Display) -> StageError {
        StageError::input(self.port, &self.path, format!("`{}{name}`: {problem}", self.root))
    }
}

impl Files {
    /// The files at `path`; those of a tar archive where there is a `scratch` folder.
    fn open(path: &Path, scratch: Option<&Path>) -> Result<Self, String> {
        if path.is_dir() {
            let mut found = BTreeSet::new();
            gather(path, "", &mut found).map_err(|error| error.to_string())?;
            return Ok(Self::Folder(Arc::new(found)));
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        let head = file_kind::head(path).map_err(|error| error.to_string())?;
        if let Some(scratch) = scratch.filter(|_| tar_reader::is_tar(&head)) {
            let length = file.metadata().map_or(0, |meta| meta.len());
            let most = length.saturating_mul(MAX_RATIO).max(HARMLESS);
            return Ok(Self::Tar(Tar::open(file, scratch, most)?));
        }
        let zip = zip_reader::open(file)?;
        let names = names(&zip)?;
        Ok(Self::Zip(zip, Arc::new(names)))
    }
}

/// The most bytes that a file within the archive at `path` may have.
fn max_bytes(path: &Path) -> u64 {
    let length = fs::metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { LARGEST });
    length.saturating_mul(MAX_RATIO).clamp(HARMLESS, LARGEST)
}

fn missing() -> String {
    "is missing".to_owned()
}

/// The files of an archive by name. A writer that says nothing of what its names are in nearly always means UTF-8.
fn names(zip: &Zip) -> Result<HashMap<String, usize>, String> {
    let mut names = HashMap::new();
    for at in 0..zip.len() {
        let entry = zip.by_index_data(at).map_err(|error| error.to_string())?;
        let raw = zip_reader::with_slashes(entry.name_raw(), entry.system());
        let name = match std::str::from_utf8(&raw) {
            Ok(name) => name.to_owned(),
            Err(_) => {
                let name = entry
                    .name()
                    .map_err(|error| format!("holds a file whose name cannot be read: {error}"))?;
                name.into_owned()
            }
        };
        if let Some(other) = names.insert(name, at) {
            let name = zip.by_index_data(other).map_or_else(
                |_| String::new(),
                |entry| file_kind::shown(&String::from_utf8_lossy(entry.name_raw())),
            );
            return Err(format!("holds `{name}` twice"));
        }
    }
    Ok(names)
}

/// A file of an archive, ready to be read.
fn open_within<'a>(
    zip: &'a mut Zip,
    names: &HashMap<String, usize>,
    name: &str,
) -> Result<zip::read::ZipFile<'a, zip_reader::SharedFile>, String> {
    let at = *names.get(name).ok_or("is missing")?;
    if let Some(problem) =
        zip.by_index_data(at).ok().and_then(|entry| zip_reader::unread_method(entry.compression()))
    {
        return Err(problem);
    }
    zip.by_index(at).map_err(|error| match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
            "is encrypted: let an `unpack` step with its password stand before this one".to_owned()
        }
        error => error.to_string(),
    })
}

/// All of a file that claims to have `size` bytes, and may have `max_bytes`.
fn read_all(file: impl Read, size: u64, max_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(size.min(BELIEVED) as usize);
    match file.take(max_bytes + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > max_bytes => {
            Err(format!("is larger than {max_bytes} bytes, which no file of so small an archive should be"))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(zip_reader::unreadable(&error)),
    }
}

/// The files below `folder`, with `prefix` before their paths. Links are not followed: an unpacked archive has none.
fn gather(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let name = item.file_name();
        let name = name.to_str().ok_or_else(|| std::io::Error::other("holds a name that is not UTF-8"))?;
        let kind = item.file_type()?;
        if kind.is_dir() {
            gather(&item.path(), &format!("{prefix}{name}/"), found)?;
        } else if kind.is_file() {
            found.insert(format!("{prefix}{name}"));
        }
    }
    Ok(())
}

/// The last part of a relative path that stays inside its folder; `None` for any other.
pub fn file_name(path: &str) -> Option<&str> {
    if !is_inside(path) || path.ends_with('/') {
        return None;
    }
    path.rsplit('/').next()
}

fn is_inside(name: &str) -> bool {
    unsafe_name(name).is_none()
}

/// Why a name is not that of a file within the archive.
fn unsafe_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.contains(['\\', '\0', ':']) {
        return Some("holds `\\`, `:` or a zero byte, which systems read differently; pack it again");
    }
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    (!Path::new(name).components().all(plain)).then_some("leads out of the archive")
}

#[cfg(test)]
mod tests;
