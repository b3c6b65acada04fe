//! Digests of project files for the price of a stat: an unchanged size, time, inode and device mean an unchanged
//! digest. An entry within one clock tick of the file's last change is hashed again, because the file may have
//! changed again within that tick.
//!
//! The change time counts as well as the modification time: `mv` and `tar` can put other bytes under the same
//! modification time.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::tree::{self, Manifest, TreeError};

/// Longer than a tick of any kernel's file clock (10 ms at 100 Hz), in nanoseconds.
const TICK: i64 = 20_000_000;

/// What identifies the content of a file at the price of a stat. Times are in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub(super) size: u64,
    pub(super) modified: i64,
    pub(super) changed: i64,
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl Stamp {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// The digest of a file, and the stamp for which it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    stamp: Stamp,
    /// When the file was hashed, in nanoseconds since 1970.
    hashed: i64,
    pub digest: Digest,
}

impl Known {
    /// The entry of a file that is about to be hashed.
    pub fn begin(metadata: &Metadata) -> Self {
        Self { stamp: stamp(metadata), hashed: now(), digest: Digest::of_bytes(b"") }
    }

    /// The same entry with its digest.
    pub fn with(self, digest: Digest) -> Self {
        Self { digest, ..self }
    }

    /// The device and inode of the file.
    pub fn file(&self) -> (u64, u64) {
        (self.stamp.device, self.stamp.inode)
    }

    /// Whether the entry proves that a file with this metadata still has this digest.
    pub fn is_proof_of(&self, metadata: &Metadata) -> bool {
        let stamp = stamp(metadata);
        self.hashed > stamp.modified.max(stamp.changed).saturating_add(TICK) && self.stamp == stamp
    }
}

/// Digests by path.
#[derive(Debug, Default)]
pub struct StatCache {
    known: HashMap<String, Known>,
    /// Paths whose entry is not stored yet.
    new: Vec<String>,
}

impl StatCache {
    /// The cache in these lines of the log. Invalid lines are skipped.
    pub(super) fn of_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let known = lines.filter_map(|line| parse(line).map(|(path, known)| (path.to_owned(), known)));
        Self { known: known.collect(), new: Vec::new() }
    }

    /// The lines of the new entries.
    pub(super) fn new_lines(&mut self) -> Vec<String> {
        let paths = std::mem::take(&mut self.new);
        paths.iter().filter_map(|path| Some(format!("{} {path}", self.known.get(path)?))).collect()
    }

    /// The digest of a file, or of a folder through its manifest.
    ///
    /// # Errors
    /// When it is missing, unreadable, or holds something that a tree cannot hold.
    pub fn digest(&mut self, path: &Path) -> Result<Digest, TreeError> {
        let metadata = fs::metadata(path).map_err(TreeError::unreadable(path))?;
        // Reading a pipe or a terminal may block forever.
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(TreeError::Unfit {
                path: path.to_owned(),
                problem: "it is neither a file nor a folder",
            });
        }
        if metadata.is_dir() {
            Ok(self.manifest(path)?.digest())
        } else {
            let bytes = self.of_file(path, &metadata).map_err(TreeError::unreadable(path))?;
            Ok(tree::identity(bytes, tree::is_executable(&metadata)))
        }
    }

    /// The digest that a file had when it had this stamp, even if it no longer exists.
    pub fn had(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        self.known.get(path.to_str()?).filter(|known| known.stamp == *stamp).map(|known| known.digest)
    }

    /// The manifest of a folder.
    ///
    /// # Errors
    /// As for [`StatCache::digest`].
    pub fn manifest(&mut self, folder: &Path) -> Result<Manifest, TreeError> {
        Manifest::of_folder_with(folder, |file, metadata| self.of_file(file, metadata))
    }

    fn of_file(&mut self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        // An entry is a line of text.
        let name = path.to_str().filter(|name| !name.contains('\n'));
        if let Some(known) = name.and_then(|name| self.known.get(name))
            && known.is_proof_of(metadata)
        {
            return Ok(known.digest);
        }
        let new = Known::begin(metadata);
        let digest = Digest::of_file(path)?;
        if let Some(name) = name {
            self.known.insert(name.to_owned(), new.with(digest));
            self.new.push(name.to_owned());
        }
        Ok(digest)
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { size, modified, changed, inode, device } = &self.stamp;
        write!(f, "{size} {modified} {changed} {inode} {device} {} {}", self.hashed, self.digest)
    }
}

/// The stamp of a file; links are followed.
///
/// # Errors
/// When the file does not exist.
pub fn stamp_of(path: &Path) -> io::Result<Stamp> {
    fs::metadata(path).map(|metadata| stamp(&metadata))
}

/// The path and the entry in a line.
fn parse(line: &str) -> Option<(&str, Known)> {
    fn next<'a, T: FromStr>(parts: &mut impl Iterator<Item = &'a str>) -> Option<T> {
        parts.next()?.parse().ok()
    }
    let mut parts = line.splitn(8, ' ');
    let stamp = Stamp {
        size: next(&mut parts)?,
        modified: next(&mut parts)?,
        changed: next(&mut parts)?,
        inode: next(&mut parts)?,
        device: next(&mut parts)?,
    };
    let (hashed, digest) = (next(&mut parts)?, next(&mut parts)?);
    Some((parts.next()?, Known { stamp, hashed, digest }))
}

/// The path in a line.
pub(super) fn path_of(line: &str) -> Option<&str> {
    line.splitn(8, ' ').nth(7)
}

fn nanoseconds(time: io::Result<SystemTime>) -> i64 {
    match time.map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Ok(Err(before)) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |before| -before),
        // A file without a time is never trusted: it counts as changed in the far future.
        Err(_) => i64::MAX,
    }
}

fn now() -> i64 {
    nanoseconds(Ok(SystemTime::now()))
}

#[cfg(unix)]
pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp {
        size: metadata.len(),
        modified: nanoseconds(metadata.modified()),
        changed: metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

#[cfg(not(unix))]
pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    let modified = nanoseconds(metadata.modified());
    Stamp { size: metadata.len(), modified, changed: modified, inode: 0, device: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(cache: &mut StatCache) -> StatCache {
        let lines = cache.new_lines();
        StatCache::of_lines(lines.iter().map(String::as_str))
    }

    #[test]
    fn a_change_to_the_same_size_within_a_tick_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let mut cache = StatCache::default();
        for round in 0..200u8 {
            fs::write(&file, [round; 16]).unwrap();
            assert_eq!(cache.digest(&file).unwrap(), Digest::of_bytes(&[round; 16]), "round {round}");
        }
    }

    #[test]
    fn an_old_entry_is_used_without_reading_and_survives_a_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("with space");
        fs::write(&file, "1").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        let mut cache = StatCache::default();
        let digest = cache.digest(&file).unwrap();
        let mut cache = reopened(&mut cache);
        // A wrong digest in the cache shows that the cache is used and the bytes are not read.
        let planted = Digest::of_bytes(b"planted");
        cache.known.get_mut(file.to_str().unwrap()).unwrap().digest = planted;
        assert_eq!(cache.digest(&file).unwrap(), planted);
        assert_eq!(cache.new_lines(), [""; 0], "nothing is new");
        fs::write(&file, "2").unwrap();
        assert_eq!(cache.digest(&file).unwrap(), Digest::of_bytes(b"2"));
        assert_ne!(digest, planted);
    }

    #[test]
    fn an_invalid_line_is_skipped() {
        for line in ["", "1 2 3", "x 2 3 4 5 6 7 path", "1 2 3 4 5 6 nodigest path"] {
            assert!(StatCache::of_lines([line].into_iter()).known.is_empty(), "{line}");
        }
    }
}
