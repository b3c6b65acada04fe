//! Reads files out of a data set's zip archive, or out of the folder such an archive was unpacked to. It knows what
//! makes an archive unsafe or unreadable, not what is in it.
//!
//! Nothing is ever extracted under a name that the archive chose: callers name the files they want and say where
//! they go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use stage_api::StageError;
use zip::ZipArchive;
use zip::result::ZipError;

/// No file of a meme data set is larger than this once unpacked; a small archive that claims more is a trap.
pub const LARGEST: u64 = 1 << 30;
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
}

#[derive(Clone)]
enum Files {
    Zip(ZipArchive<SharedFile>),
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
            let zip = SharedFile::new(file).map_err(ZipError::Io).and_then(ZipArchive::new);
            Files::Zip(zip.map_err(|error| {
                fail(format!("cannot be read as a zip archive ({error}); fetch it again"))
            })?)
        };
        let mut root: Option<String> = None;
        let mut consider = |name: &str| {
            if !is_inside(name) {
                return Err(fail(format!(
                    "holds `{name}`, a name that leads out of the archive; do not trust it"
                )));
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
            Files::Zip(zip) => zip.file_names().try_for_each(|name| match name {
                Ok(name) => consider(&name),
                Err(error) => Err(fail(format!("holds a file whose name cannot be read: {error}"))),
            })?,
            Files::Folder(names) => names.iter().try_for_each(|name| consider(name))?,
        }
        let root = root.ok_or_else(|| fail(format!("holds no `{landmark}`: is it the right archive?")))?;
        Ok(Self { port, path: path.to_owned(), files, root })
    }

    /// Whether the data set has the file `name`.
    pub fn has(&self, name: &str) -> bool {
        let full = format!("{}{name}", self.root);
        match &self.files {
            Files::Zip(zip) => zip.index_for_name(&full).is_some(),
            Files::Folder(names) => names.contains(&full),
        }
    }

    /// The bytes of the file `name`.
    ///
    /// # Errors
    /// Missing, damaged, encrypted or absurdly large.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>, StageError> {
        let full = format!("{}{name}", self.root);
        let bytes = match &mut self.files {
            Files::Zip(zip) => match zip.by_name(&full) {
                Ok(file) => {
                    let size = file.size();
                    read_all(file, size)
                }
                Err(ZipError::FileNotFound) => Err("is missing".to_owned()),
                Err(ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED)) => {
                    Err("is encrypted: let an `unpack` step with its password stand before this one"
                        .to_owned())
                }
                Err(error) => Err(error.to_string()),
            },
            Files::Folder(names) if !names.contains(&full) => Err("is missing".to_owned()),
            Files::Folder(_) => match File::open(self.path.join(&full)) {
                Ok(file) => read_all(&file, file.metadata().map_or(0, |file| file.len())),
                Err(error) => Err(error.to_string()),
            },
        };
        bytes.map_err(|problem| self.error(name, problem))
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
            Files::Zip(zip) => match zip.by_name(&full) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(fail(error.to_string())),
            },
            Files::Folder(names) if !names.contains(&full) => Err(fail("is missing".to_owned())),
            Files::Folder(_) => match File::open(path.join(&full)) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(fail(error.to_string())),
            },
        }
    }

    /// An error about the file `name` of this archive.
    pub fn error(&self, name: &str, problem: impl std::fmt::Display) -> StageError {
        StageError::input(self.port, &self.path, format!("`{}{name}`: {problem}", self.root))
    }
}

/// All of a file that claims to have `size` bytes.
fn read_all(file: impl Read, size: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(size.min(BELIEVED) as usize);
    match file.take(LARGEST + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > LARGEST => Err("is larger than 1 GiB".to_owned()),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("is damaged ({error}); fetch the archive again")),
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

/// A place in a file that several readers share, with a buffer of its own.
#[derive(Clone)]
struct SharedFile {
    file: Arc<File>,
    length: u64,
    at: u64,
    /// What was read last, and from where in the file.
    buffer: Vec<u8>,
    start: u64,
}

impl SharedFile {
    const BUFFER: usize = 1 << 15;

    fn new(file: File) -> std::io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), length, at: 0, buffer: Vec::new(), start: 0 })
    }
}

impl Read for SharedFile {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let within = self.at.checked_sub(self.start).filter(|within| *within < self.buffer.len() as u64);
        let within = match within {
            Some(within) => within as usize,
            None if into.len() >= Self::BUFFER => {
                let read = self.file.read_at(into, self.at)?;
                self.at += read as u64;
                return Ok(read);
            }
            None => {
                self.buffer.resize(Self::BUFFER, 0);
                let read = self.file.read_at(&mut self.buffer, self.at);
                self.buffer.truncate(*read.as_ref().unwrap_or(&0));
                read?;
                self.start = self.at;
                0
            }
        };
        let from = &self.buffer[within..];
        let read = from.len().min(into.len());
        into[..read].copy_from_slice(&from[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for SharedFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The last part of a relative path that stays inside its folder; `None` for any other.
pub fn file_name(path: &str) -> Option<&str> {
    if !is_inside(path) || path.ends_with('/') {
        return None;
    }
    path.rsplit('/').next()
}

fn is_inside(name: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    !name.is_empty() && !name.contains(['\\', '\0', ':']) && Path::new(name).components().all(plain)
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
    fn finds_the_data_set_wherever_it_lies_in_the_archive() {
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
        for name in ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil", "c:evil"] {
            let file = archive(&[("train.jsonl", b""), (name, b"")]);
            let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
            assert!(error.contains("leads out of the archive"), "{error}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_what_is_no_archive() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a zip").unwrap();
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.starts_with("input `archive`: ") && error.contains("zip archive"), "{error}");
        let file = archive(&[("other.txt", b"")]);
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.contains("holds no `train.jsonl`"), "{error}");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name("img/01234.png"), Some("01234.png"));
        for bad in ["", "img/", "../x.png", "/x.png", "img/..", "a\\b"] {
            assert_eq!(file_name(bad), None, "{bad}");
        }
    }
}
