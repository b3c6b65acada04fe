//! Digests of project files at the price of a stat: a file whose size, times, inode and device are as they
//! were has the digest it had. An entry taken within a clock tick of the file's last change proves nothing (the
//! file may have changed again within that tick) and is hashed again. The change time counts beside the
//! modification time: `mv` and `tar` can put other bytes under the same modification time.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::files;
use crate::digest::Digest;
use crate::tree::{Manifest, TreeError};

/// Longer than a tick of any kernel's file clock (10 ms at 100 Hz), in nanoseconds.
const TICK: i128 = 20_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    modified: i128,
    changed: i128,
    inode: u64,
    device: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    /// When the file was hashed, in nanoseconds since 1970.
    hashed: i128,
    digest: Digest,
}

/// Digests by path. Read when opened, written by [`StatCache::save`] when something was added.
#[derive(Debug)]
pub struct StatCache {
    file: PathBuf,
    known: BTreeMap<PathBuf, Known>,
    grown: bool,
}

impl StatCache {
    /// Opens the cache kept in `file`; a missing or damaged one is empty, which costs time only.
    pub fn open(file: &Path) -> Self {
        let known = fs::read_to_string(file)
            .ok()
            .and_then(|text| {
                let (checksum, body) = text.split_once('\n')?;
                let intact = checksum == Digest::of_bytes(body.as_bytes()).to_string();
                let list: Vec<(PathBuf, Known)> =
                    if intact { serde_json::from_str(body).ok()? } else { return None };
                Some(list.into_iter().collect())
            })
            .unwrap_or_default();
        Self { file: file.to_owned(), known, grown: false }
    }

    /// The digest of a file, or of a folder by way of its manifest.
    ///
    /// # Errors
    /// When it is not there, cannot be read, or holds what a tree cannot hold.
    pub fn digest(&mut self, path: &Path) -> Result<Digest, TreeError> {
        let failed = |error: io::Error| TreeError { path: path.to_owned(), problem: error.to_string() };
        let metadata = fs::metadata(path).map_err(failed)?;
        // Reading a pipe or a terminal may never end.
        if !metadata.is_dir() && !metadata.is_file() {
            return Err(failed(io::Error::other("it is neither a file nor a folder")));
        }
        if metadata.is_dir() {
            Ok(Manifest::of_folder_with(path, |file, metadata| self.of_file(file, metadata))?.digest())
        } else {
            self.of_file(path, &metadata).map_err(failed)
        }
    }

    fn of_file(&mut self, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
        let stamp = stamp(metadata);
        if let Some(known) = self.known.get(path)
            && known.stamp == stamp
            && known.hashed > stamp.modified.max(stamp.changed) + TICK
        {
            return Ok(known.digest);
        }
        let hashed = now();
        let digest = Digest::of_file(path)?;
        self.known.insert(path.to_owned(), Known { stamp, hashed, digest });
        self.grown = true;
        Ok(digest)
    }

    /// Writes what was added.
    ///
    /// # Errors
    /// When the store's folder cannot be written.
    pub fn save(&mut self) -> io::Result<()> {
        if !self.grown {
            return Ok(());
        }
        let list: Vec<(&PathBuf, &Known)> = self.known.iter().collect();
        let body = serde_json::to_string(&list)?;
        let text = format!("{}\n{body}", Digest::of_bytes(body.as_bytes()));
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        files::write_whole(&self.file, text.as_bytes(), false)?;
        self.grown = false;
        Ok(())
    }
}

fn nanoseconds(time: io::Result<SystemTime>) -> i128 {
    match time.map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => after.as_nanos() as i128,
        Ok(Err(before)) => -(before.duration().as_nanos() as i128),
        // Without a time nothing may be trusted: as if changed in the far future.
        Err(_) => i128::MAX / 2,
    }
}

fn now() -> i128 {
    nanoseconds(Ok(SystemTime::now()))
}

#[cfg(unix)]
fn stamp(metadata: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp {
        size: metadata.len(),
        modified: nanoseconds(metadata.modified()),
        changed: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
        inode: metadata.ino(),
        device: metadata.dev(),
    }
}

#[cfg(not(unix))]
fn stamp(metadata: &Metadata) -> Stamp {
    let modified = nanoseconds(metadata.modified());
    Stamp { size: metadata.len(), modified, changed: modified, inode: 0, device: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changed_within_a_tick_and_to_the_same_size_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        let mut cache = StatCache::open(&folder.path().join("cache"));
        for round in 0..200u8 {
            fs::write(&file, [round; 16]).unwrap();
            assert_eq!(cache.digest(&file).unwrap(), Digest::of_bytes(&[round; 16]), "round {round}");
        }
    }

    #[test]
    fn an_old_entry_is_believed_without_reading_and_survives_a_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, kept) = (folder.path().join("x"), folder.path().join("cache"));
        fs::write(&file, "1").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        let mut cache = StatCache::open(&kept);
        let digest = cache.digest(&file).unwrap();
        cache.save().unwrap();
        let mut cache = StatCache::open(&kept);
        // A wrong digest in the cache shows that it is asked and the bytes are not.
        let planted = Digest::of_bytes(b"planted");
        cache.known.get_mut(&file).unwrap().digest = planted;
        assert_eq!(cache.digest(&file).unwrap(), planted);
        fs::write(&file, "2").unwrap();
        assert_eq!(cache.digest(&file).unwrap(), Digest::of_bytes(b"2"));
        assert_ne!(digest, planted);
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("cache");
        fs::write(&kept, "nonsense\n[]").unwrap();
        assert!(StatCache::open(&kept).known.is_empty());
    }
}
