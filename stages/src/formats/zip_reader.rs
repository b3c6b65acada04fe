//! Opens a zip archive so that nothing in its file goes unread without a word, and says how it spells names and what it is
//! packed with. It does not know which names are safe, nor what is in the files.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use zip::result::ZipError;
use zip::{CompressionMethod, System, ZipArchive};

use crate::formats::file_kind;

/// What may follow the end of an archive, or hold it: a comment of at most 64 KiB, and filling.
const LONGEST_TAIL: u64 = 1 << 20;
/// Bytes of the end record before its comment, and how it begins.
const END: usize = 22;
const END_MARK: &[u8] = b"PK\x05\x06";
/// How a file within begins.
const FILE_MARK: &[u8] = b"PK\x03\x04";

/// An open archive; clones share the file and read on their own.
pub type Zip = ZipArchive<SharedFile>;

/// Opens an archive.
///
/// # Errors
/// A sentence: another kind of file, one that was cut short, several archives one after the other, a name twice.
pub fn open(file: File) -> Result<Zip, String> {
    let mut head = [0; 4096];
    let read = file.read_at(&mut head, 0).map_err(|error| error.to_string())?;
    let head = &head[..read];
    let shared = SharedFile::new(file).map_err(|error| error.to_string())?;
    let zip = ZipArchive::new(shared.clone()).map_err(|error| match error {
        _ if !head.starts_with(FILE_MARK) => file_kind::mismatch("a zip archive", head),
        ZipError::InvalidArchive(problem) if problem.contains("EOCD") => {
            format!("begins as a zip archive, but has no end ({problem}): it was cut short")
        }
        error => format!("cannot be read as a zip archive: {error}"),
    })?;
    if zip.has_duplicate_names() {
        return Err("holds a name twice".to_owned());
    }
    // Programs that unpack themselves stand before their archive; an archive before an archive would be dropped.
    let starts = (0..zip.len()).filter_map(|at| Some(zip.by_index_data(at).ok()?.header_start()));
    let first = starts.min().unwrap_or_else(|| zip.offset());
    if first > 0 && head.starts_with(FILE_MARK) {
        return Err(format!(
            "has {first} bytes before its first file that begin as another zip archive does; split the archives"
        ));
    }
    check_tail(&shared, zip.comment().len())?;
    Ok(zip)
}

/// Whether nothing but zeros follows the end record and its comment.
fn check_tail(shared: &SharedFile, comment: usize) -> Result<(), String> {
    let length = shared.length.min(LONGEST_TAIL);
    let mut tail = vec![0; length as usize];
    shared.file.read_exact_at(&mut tail, shared.length - length).map_err(|error| error.to_string())?;
    let is_end = |at: usize| {
        let length =
            tail.get(at + END - 2..at + END).map(|two| usize::from(two[0]) | usize::from(two[1]) << 8);
        tail[at..].starts_with(END_MARK) && length == Some(comment) && at + END + comment <= tail.len()
    };
    let end = (0..tail.len().saturating_sub(END - 1)).rev().find(|at| is_end(*at));
    let Some(end) = end else {
        return Err(format!("goes on for more than {LONGEST_TAIL} bytes after its end"));
    };
    let rest = &tail[end + END + comment..];
    match rest.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(format!(
            "goes on for {} bytes after its end, with {}; cut them off, or split the archives",
            rest.len(),
            file_kind::beginning(&rest[at..])
        )),
    }
}

/// Whether a file that does not begin as a zip archive ends as one.
pub fn ends_as_zip(file: &File) -> bool {
    let length = file.metadata().map_or(0, |meta| meta.len());
    let looked_at = length.min(1 << 16);
    let mut tail = vec![0; looked_at as usize];
    file.read_exact_at(&mut tail, length - looked_at).is_ok()
        && tail.windows(END_MARK.len()).any(|window| window == END_MARK)
}

/// A name with `/` between its parts. Zips of MS-DOS and Windows may have `\` there, which on those systems is the same.
/// A name in an old code page stays as it is: its second bytes may look like `\`.
pub fn with_slashes(name: &[u8], system: System) -> Cow<'_, [u8]> {
    let is_windows = matches!(system, System::Dos | System::WindowsNTFS | System::VFAT | System::Os2);
    if !is_windows || !name.contains(&b'\\') || std::str::from_utf8(name).is_err() {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect())
}

/// Why a file's packing is not read; nothing for those that are.
pub fn unread_method(method: CompressionMethod) -> Option<String> {
    #[allow(deprecated)]
    let number = match method {
        CompressionMethod::Unsupported(number) => number,
        _ => return None,
    };
    let name = match number {
        1..=6 => "a method of the 1980s",
        12 => "bzip2",
        14 => "LZMA",
        20 | 93 => "Zstandard",
        95 => "xz",
        96 => "JPEG",
        97 => "WavPack",
        98 => "PPMd",
        _ => "an unknown method",
    };
    Some(format!(
        "is packed with {name} (method {number}), which is not read; pack the archive again with deflate"
    ))
}

/// A sentence for content that cannot be read: damaged where its checksum says so.
pub fn unreadable(error: &std::io::Error) -> String {
    let text = error.to_string();
    let verb = if text.to_ascii_lowercase().contains("checksum") { "is damaged" } else { "cannot be read" };
    format!("{verb}: {text}")
}

/// A place in a file that several readers share, with a buffer of its own.
#[derive(Clone)]
pub struct SharedFile {
    file: Arc<File>,
    length: u64,
    at: u64,
    /// What was read last, and from where in the file.
    buffer: Vec<u8>,
    start: u64,
}

impl SharedFile {
    const BUFFER: usize = 1 << 15;

    /// The beginning of a file.
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
