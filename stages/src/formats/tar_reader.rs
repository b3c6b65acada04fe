//! Opens a tar archive, plain or in gzip, so that its files can be read in any order, by several threads. It does not know which
//! names are safe, nor what is in the files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::formats::{file_kind, tar_members};

/// How gzip begins (RFC 1952).
const GZIP: &[u8] = b"\x1f\x8b";
/// Where a header of POSIX and GNU has its mark, and the mark.
const MARK: (usize, &[u8]) = (257, b"ustar");

/// An open archive; clones share the file and its table of contents.
#[derive(Clone)]
pub struct Tar {
    file: Arc<File>,
    /// Where each file is, and how long.
    places: Arc<BTreeMap<String, (u64, u64)>>,
}

/// Whether a file begins as a tar archive does, or as gzip.
pub fn is_tar(head: &[u8]) -> bool {
    head.starts_with(GZIP) || head.get(MARK.0..).is_some_and(|rest| rest.starts_with(MARK.1))
}

impl Tar {
    /// Opens an archive. One in gzip is unpacked into a nameless file in `scratch`, of at most `max_bytes` bytes: only so can its
    /// files be read in any order.
    ///
    /// # Errors
    /// A sentence: an archive that is cut short or damaged, a name twice, more than `max_bytes`.
    pub fn open(mut file: File, scratch: &Path, max_bytes: u64) -> Result<Self, String> {
        let mut head = [0; GZIP.len()];
        let read = file.read_at(&mut head, 0).map_err(|error| error.to_string())?;
        if head[..read] == *GZIP {
            file = unpacked(file, scratch, max_bytes)?;
        }
        let mut tar = tar::Archive::new(BufReader::new(&file));
        let mut places = BTreeMap::new();
        for member in tar_members::members(&mut tar)? {
            let member = member?;
            if !member.kind.is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&member.path).trim_start_matches("./").to_owned();
            let place = (member.content.raw_file_position(), member.size);
            if places.insert(name, place).is_some() {
                return Err(format!("holds `{}` twice", member.shown()));
            }
        }
        tar_members::check_end(tar.into_inner())?;
        Ok(Self { file: Arc::new(file), places: Arc::new(places) })
    }

    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a file of that name.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The content of a file, and how long it is; `None` for a name that is not there.
    pub fn stream(&self, name: &str) -> Option<(impl Read + use<>, u64)> {
        let (at, size) = *self.places.get(name)?;
        Some((Content { file: Arc::clone(&self.file), at, end: at + size }, size))
    }
}

/// Unpacks gzip into a file that has no name.
fn unpacked(file: File, scratch: &Path, max_bytes: u64) -> Result<File, String> {
    let mut plain = tempfile::tempfile_in(scratch).map_err(|error| error.to_string())?;
    let content = flate2::bufread::MultiGzDecoder::new(BufReader::new(file));
    let copied = io::copy(&mut content.take(max_bytes + 1), &mut plain)
        .map_err(|error| format!("cannot be unpacked: {error}"))?;
    if copied > max_bytes {
        return Err(format!("becomes more than {max_bytes} bytes: a trap; let an `unpack` step unpack it"));
    }
    plain.flush().and_then(|()| plain.rewind()).map_err(|error| error.to_string())?;
    let mut head = [0; 512];
    let read = plain.read_at(&mut head, 0).map_err(|error| error.to_string())?;
    if !is_tar(&head[..read]) || head.starts_with(GZIP) {
        return Err(file_kind::mismatch("a tar archive in gzip", &head[..read]));
    }
    Ok(plain)
}

/// A part of a file.
struct Content {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..rest], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Tar, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        Tar::open(File::open(&path).unwrap(), dir.path(), 1 << 20)
    }

    #[test]
    fn files_are_read_in_any_order_plain_and_in_gzip() {
        let long = format!("{}/b.txt", "a".repeat(150));
        let bytes = packed(&[("./one.txt", b"first"), (&long, &[7; 3000]), ("empty", b"")]);
        for bytes in [bytes.clone(), gzip(&bytes)] {
            assert!(is_tar(&bytes));
            let tar = open(&bytes).unwrap();
            assert_eq!(tar.names().count(), 3);
            for (name, expected) in [(long.as_str(), &[7; 3000][..]), ("one.txt", b"first"), ("empty", b"")] {
                let (mut content, size) = tar.stream(name).unwrap();
                let mut found = Vec::new();
                content.read_to_end(&mut found).unwrap();
                assert_eq!((found.as_slice(), size), (expected, expected.len() as u64), "{name}");
            }
            assert!(!tar.has("two.txt") && tar.stream("two.txt").is_none());
        }
    }

    #[test]
    fn what_is_wrong_with_an_archive_is_said() {
        let bytes = packed(&[("a", &[1; 2000]), ("b", b"2")]);
        for (bytes, problem) in [
            (packed(&[("a", b"1"), ("./a", b"2")]), "holds `a` twice"),
            (bytes[..1500].to_vec(), "cannot be read as a tar archive"),
            (gzip(&bytes)[..60].to_vec(), "cannot be unpacked"),
            (gzip(b"a text"), "is not a tar archive in gzip: it begins with `a text`"),
            (gzip(&vec![0; 2 << 20]), "becomes more than 1048576 bytes"),
            ([bytes.clone(), bytes.clone()].concat(), "goes on after its end mark"),
        ] {
            let error = open(&bytes).err().unwrap();
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }
}
