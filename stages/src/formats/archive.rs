//! Reads files out of a data set's zip archive, or out of the folder such an archive was unpacked to. It knows what
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
    /// The paths of all files within the folder, `/`-separated.
    Folder(Arc<BTreeSet<String>>),
}

impl Archive {
    /// Opens the archive or folder that came in by `port` and finds the folder within that holds the file
    /// `landmark`.
    ///
    /// # Errors
    /// Not a zip archive, names that lead out of it, no `landmark` within.
    pub fn open(port: &'static str, path: &Path, landmark: &str) -> Result<Self, StageError> {
        let fail = |problem: String| StageError::input(port, path, problem);
        let files = if path.is_dir() {
            let mut found = BTreeSet::new();
            gather(path, "", &mut found).map_err(|error| fail(error.to_string()))?;
            Files::Folder(Arc::new(found))
        } else {
            let file = File::open(path).map_err(|error| fail(error.to_string()))?;
            let zip = zip_reader::open(file).map_err(fail)?;
            let names = names(&zip).map_err(fail)?;
            Files::Zip(zip, Arc::new(names))
        };
        let mut root: Option<String> = None;
        let mut consider = |name: &str| {
            if let Some(problem) = unsafe_name(name) {
                return Err(fail(format!("holds `{}`, a name that {problem}", file_kind::shown(name))));
            }
            if let Some(folder) = name.strip_suffix(landmark)
                && (folder.is_empty() || folder.ends_with('/'))
                && root.as_ref().is_none_or(|root| (folder.len(), folder) < (root.len(), root))
            {
                root = Some(folder.to_owned());
            }
            Ok(())
        };
        match &files {
            Files::Zip(_, names) => names.keys().try_for_each(|name| consider(name))?,
            Files::Folder(names) => names.iter().try_for_each(|name| consider(name))?,
        }
        let root = root.ok_or_else(|| {
            let names: Vec<&str> = match &files {
                Files::Zip(_, names) => names.keys().map(String::as_str).collect(),
                Files::Folder(names) => names.iter().map(String::as_str).collect(),
            };
            let found = file_kind::nearest(landmark, names.iter().copied());
            let found = if found.is_empty() { "nothing".to_owned() } else { format!("such as {found}") };
            fail(format!(
                "holds no `{landmark}`, but {} files, {found}: is it the right archive?",
                names.len()
            ))
        })?;
        let length = fs::metadata(path).map_or(0, |meta| if meta.is_file() { meta.len() } else { LARGEST });
        let max_bytes = length.saturating_mul(MAX_RATIO).clamp(HARMLESS, LARGEST);
        Ok(Self { port, path: path.to_owned(), files, root, max_bytes })
    }

    /// Whether the data set has the file `name`.
    pub fn has(&self, name: &str) -> bool {
        let full = format!("{}{name}", self.root);
        match &self.files {
            Files::Zip(_, names) => names.contains_key(&full),
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
            Files::Folder(names) if !names.contains(&full) => Err("is missing".to_owned()),
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
            Files::Folder(names) if !names.contains(&full) => Err(fail("is missing".to_owned())),
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
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = ZipWriter::new(file.reopen().unwrap());
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        file
    }

    #[test]
    fn finds_the_data_set_anywhere_in_the_archive() {
        for root in ["", "data/", "a/b/"] {
            let name = |file: &str| format!("{root}{file}");
            let (landmark, picture) = (name("train.jsonl"), name("img/1.png"));
            let file =
                archive(&[("__MACOSX/._train.jsonl", b"x"), (&landmark, b"hello"), (&picture, b"png")]);
            let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
            assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
            assert!(archive.has("img/1.png") && !archive.has("img/2.png"));
            let error = archive.bytes("img/2.png").unwrap_err().to_string();
            assert!(error.contains("img/2.png`: is missing"), "{error}");
        }
    }

    #[test]
    fn a_folder_reads_like_the_archive_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("data/img")).unwrap();
        fs::write(dir.path().join("data/train.jsonl"), "hello").unwrap();
        fs::write(dir.path().join("data/img/1.png"), "png").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("data/img/2.png")).unwrap();
        let mut archive = Archive::open("archive", dir.path(), "train.jsonl").unwrap();
        assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
        assert!(archive.has("img/1.png") && !archive.has("img/2.png") && !archive.has("img"));
        let error = archive.bytes("img/2.png").unwrap_err().to_string();
        assert!(error.contains("data/img/2.png`: is missing"), "{error}");
        let mut streamed = String::new();
        archive.clone().stream("img/1.png").unwrap().read_to_string(&mut streamed).unwrap();
        assert_eq!(streamed, "png");
        assert!(archive.stream("img/2.png").is_err());
    }

    #[test]
    fn refuses_names_that_lead_out_of_it() {
        for (name, problem) in [
            ("../evil.txt", "leads out of the archive"),
            ("/etc/evil", "leads out of the archive"),
            ("a/../../evil", "leads out of the archive"),
            ("..\\evil", "systems read differently"),
            ("c:evil", "systems read differently"),
        ] {
            let file = archive(&[("train.jsonl", b""), (name, b"")]);
            let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_what_is_no_archive() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a zip").unwrap();
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.contains("is not a zip archive: it begins with `not a zip`"), "{error}");
        let file = archive(&[("other.txt", b"")]);
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.contains("holds no `train.jsonl`"), "{error}");
    }

    #[test]
    fn a_zip_of_windows_reads_like_any_other() {
        let file = archive(&[("data\\train.jsonl", b"hello"), ("data\\img\\1.png", b"png")]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        let entries: Vec<usize> =
            (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02")).collect();
        assert_eq!(entries.len(), 2);
        entries.into_iter().for_each(|at| bytes[at + 5] = 0);
        std::fs::write(file.path(), bytes).unwrap();
        let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
        assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
        assert_eq!(archive.bytes("img/1.png").unwrap(), b"png");
    }

    #[test]
    fn what_a_zip_is_followed_by_is_not_dropped() {
        let file = archive(&[("train.jsonl", b"hello")]);
        let whole = std::fs::read(file.path()).unwrap();
        for (bytes, problem) in [
            ([&whole[..], &whole[..]].concat(), "before its first file that begin as another zip archive"),
            ([&whole[..], b"more"].concat(), "4 bytes after its end, with `more`"),
            (whole[..whole.len() / 2].to_vec(), "has no end"),
            (b"<html><title>Log in</title>".to_vec(), "web page (`Log in`)"),
        ] {
            std::fs::write(file.path(), bytes).unwrap();
            let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_small_archive_holds_no_large_file() {
        let file = archive(&[("train.jsonl", &[0; 20 << 20])]);
        let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
        let error = archive.bytes("train.jsonl").unwrap_err().to_string();
        assert!(error.contains("is larger than 16777216 bytes"), "{error}");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("img/01234.png"), Some("01234.png"));
        for bad in ["", "img/", "../x.png", "/x.png", "img/..", "a\\b"] {
            assert_eq!(file_name(bad), None, "{bad}");
        }
    }
}
