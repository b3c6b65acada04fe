//! What has arrived of a file: the bytes in scratch, their running SHA-256, and a note next to them of where they came
//! from, so that only bytes of one and the same file are ever put together. It knows no HTTP.
//!
//! Bytes are written and hashed by two threads while the next ones arrive: one after the other, a download from a near
//! server would take as long as all three together.
//!
//! Whether bytes of an earlier process can be believed depends on what comes at the end. Where a digest is known, all of
//! them are taken and the digest decides. Where none is, only those that were forced to disk and noted are: after a
//! power cut a file may have the right length and the wrong content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage_api::{Job, StageError};

/// How many bytes may be lost to a crash where no digest is known.
const KEEP_EVERY: u64 = 1 << 30;

/// Bytes that are written and hashed at a time: few enough to be in the processor's cache still.
const AT_ONCE: usize = 256 << 10;

/// How many such pieces may wait for the disk.
const WAITING: usize = 16;

/// Where the bytes came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The digest of the address, which may hold a secret.
    pub place: String,
    /// What the server calls this version of the file: a strong `ETag`, else `Last-Modified`.
    pub validator: Option<String>,
    /// The length of the whole file.
    pub total: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    origin: Origin,
    /// So many bytes were forced to disk.
    kept: u64,
}

/// A file that is arriving.
pub struct Part {
    disk: OnDisk,
    hash: Sha256,
    /// How many answers the bytes came from.
    answers: u32,
}

/// The bytes in scratch and the note next to them.
struct OnDisk {
    path: PathBuf,
    file: File,
    /// Bytes written.
    len: u64,
    note: Note,
    /// Whether a known digest will judge the whole.
    proven: bool,
}

impl Part {
    /// Opens what an earlier attempt left at `path`, or begins with nothing.
    ///
    /// # Errors
    /// When the disk does not take it, or the job was cancelled.
    pub fn open(path: &Path, proven: bool, job: &Job) -> Result<Self, StageError> {
        let note = fs::read(note_path(path)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let there = file.metadata()?.len();
        let len = note.as_ref().map_or(0, |note| if proven { there } else { note.kept.min(there) });
        file.set_len(len)?;
        let hash = hash(&mut file, len, job)?;
        let disk = OnDisk { path: path.to_owned(), file, len, note: note.unwrap_or_default(), proven };
        Ok(Self { disk, hash, answers: u32::from(len > 0) })
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.disk.len
    }

    /// Where they came from.
    pub fn origin(&self) -> &Origin {
        &self.disk.note.origin
    }

    /// Whether a known digest will judge the whole.
    pub fn is_proven(&self) -> bool {
        self.disk.proven
    }

    /// Whether the bytes came from more than one answer.
    pub fn is_pieced(&self) -> bool {
        self.answers > 1
    }

    /// Throws away what is there and starts again with the file `origin`.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn restart(&mut self, origin: Origin) -> io::Result<()> {
        (self.answers, self.hash) = (0, Sha256::new());
        self.disk.restart(origin)
    }

    /// Another answer adds the bytes that `receive` hands over. Its result is passed on once all of them are written
    /// and hashed.
    ///
    /// # Errors
    /// When the disk does not take them. The part must be opened again then: the hash may be ahead of the disk.
    pub fn answer<T>(&mut self, receive: impl FnOnce(&mut Pieces) -> T) -> io::Result<T> {
        self.answers += 1;
        let (disk, hash) = (&mut self.disk, &mut self.hash);
        thread::scope(|scope| {
            let (to_disk, written) = sync_channel::<Arc<Vec<u8>>>(WAITING);
            let (to_hash, hashed) = sync_channel::<Arc<Vec<u8>>>(WAITING);
            let writer = scope.spawn(move || written.iter().try_for_each(|piece| disk.add(&piece)));
            let hasher = scope.spawn(move || hashed.iter().for_each(|piece| hash.update(piece.as_slice())));
            let mut pieces = Pieces { piece: vec![0; AT_ONCE], held: 0, to: [to_disk, to_hash] };
            let end = receive(&mut pieces);
            // If this fails, so did the writer, and says why below.
            let _ = pieces.send();
            drop(pieces);
            let died = |_| Err(io::Error::other("a thread that keeps the bytes died"));
            hasher.join().map_or_else(died, Ok)?;
            writer.join().unwrap_or_else(died)?;
            Ok(end)
        })
    }

    /// Makes sure that another process can go on from here.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&mut self) -> io::Result<()> {
        self.disk.keep()
    }

    /// The SHA-256 of what is there, in lower-case hex.
    pub fn digest(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Moves the file to its place.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(self, target: &Path) -> io::Result<()> {
        drop(self.disk.file);
        fs::rename(&self.disk.path, target)
    }
}

/// Where the bytes of one answer go.
pub struct Pieces {
    piece: Vec<u8>,
    /// So much of `piece` is filled.
    held: usize,
    to: [SyncSender<Arc<Vec<u8>>>; 2],
}

impl Pieces {
    /// Reads more from `body`: how many bytes came, none at its end.
    ///
    /// # Errors
    /// Those of `body`, and any if what was read before cannot be kept.
    pub fn read(&mut self, body: &mut impl Read) -> io::Result<usize> {
        let read = body.read(&mut self.piece[self.held..])?;
        self.held += read;
        if self.held == AT_ONCE {
            self.send()?;
        }
        Ok(read)
    }

    /// Hands over what is there.
    fn send(&mut self) -> io::Result<()> {
        let mut piece = std::mem::replace(&mut self.piece, vec![0; AT_ONCE]);
        piece.truncate(std::mem::take(&mut self.held));
        let piece = Arc::new(piece);
        let mut to = self.to.iter();
        to.try_for_each(|to| to.send(Arc::clone(&piece))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl OnDisk {
    fn restart(&mut self, origin: Origin) -> io::Result<()> {
        self.len = 0;
        // The note first: nothing that is there now may be believed under it.
        self.note = Note { origin, kept: 0 };
        self.write_note()?;
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)
    }

    fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        if !self.proven && self.len - self.note.kept >= KEEP_EVERY { self.keep() } else { Ok(()) }
    }

    fn keep(&mut self) -> io::Result<()> {
        if !self.proven {
            self.file.sync_data()?;
        }
        self.note.kept = self.len;
        self.write_note()
    }

    fn write_note(&self) -> io::Result<()> {
        let (path, new) = (note_path(&self.path), self.path.with_extension("note.new"));
        fs::write(&new, serde_json::to_vec(&self.note)?)?;
        fs::rename(new, path)
    }
}

fn note_path(path: &Path) -> PathBuf {
    path.with_extension("note")
}

/// Hashes the next `len` bytes of a file, which are there.
fn hash(file: &mut File, len: u64, job: &Job) -> Result<Sha256, StageError> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        job.check_cancelled()?;
        let max = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..max])? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => {
                hash.update(&buffer[..read]);
                left -= read as u64;
            }
        }
    }
    Ok(hash)
}

/// The SHA-256 of a whole file in lower-case hex.
///
/// # Errors
/// When it cannot be read, or the job was cancelled.
pub fn digest(path: &Path, job: &Job) -> Result<String, StageError> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(hex(&hash(&mut file, len, job)?.finalize()))
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without this a full disk would be reported after the last byte had come, hours later.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_that_takes_nothing_ends_the_answer() {
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let disk = OnDisk { path: PathBuf::new(), file, len: 0, note: Note::default(), proven: true };
        let mut part = Part { disk, hash: Sha256::new(), answers: 0 };
        let mut body = io::repeat(7);
        let end = part.answer(|pieces| while pieces.read(&mut body).is_ok() {});
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(part.len(), 0);
    }
}
