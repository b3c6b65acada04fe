//! What has arrived of a file: the bytes in scratch, their running SHA-256, and a note beside them of where they came
//! from, so that only bytes of one and the same file are ever put together. It knows no HTTP.
//!
//! Whether bytes of an earlier process can be believed depends on what comes at the end. Where a digest is known, all of
//! them are taken and the digest decides. Where none is, only those that were forced to disk and noted are: after a
//! power cut a file may have the right length and the wrong content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage_api::{Job, StageError};

/// How many bytes may be lost to a crash where no digest is known.
const KEEP_EVERY: u64 = 1 << 30;

/// Where the bytes came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The address.
    pub url: String,
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
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    note: Note,
    /// Whether a known digest will judge the whole.
    proven: bool,
    /// How many answers the bytes came from.
    answers: u32,
}

impl Part {
    /// Opens what an earlier attempt left at `path`, or begins with nothing.
    ///
    /// # Errors
    /// When the disk does not take it, or the job was cancelled.
    pub fn open(path: &Path, proven: bool, job: &Job) -> Result<Self, StageError> {
        let note = fs::read(note_path(path)).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let there = file.metadata()?.len();
        let usable = note.as_ref().map_or(0, |note| if proven { there } else { note.kept.min(there) });
        file.set_len(usable)?;
        let mut part = Self {
            path: path.to_owned(),
            file,
            hash: Sha256::new(),
            len: usable,
            note: note.unwrap_or_default(),
            proven,
            answers: u32::from(usable > 0),
        };
        part.hash = hash(&mut part.file, usable, job)?;
        Ok(part)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where they came from.
    pub fn origin(&self) -> &Origin {
        &self.note.origin
    }

    /// Whether a known digest will judge the whole.
    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// Whether the bytes came from more than one answer.
    pub fn is_pieced(&self) -> bool {
        self.answers > 1
    }

    /// Throws away what is there and begins anew with the file `origin`.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn restart(&mut self, origin: Origin) -> io::Result<()> {
        (self.len, self.answers, self.hash) = (0, 0, Sha256::new());
        // The note first: nothing that is there now may be believed under it.
        self.note = Note { origin, kept: 0 };
        self.write_note()?;
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)
    }

    /// Another answer begins to add bytes.
    pub fn begin_answer(&mut self) {
        self.answers += 1;
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (file, hash) = (&mut self.file, &mut self.hash);
        // At the speed of a fast disk or a near server, hashing after writing would take as long again.
        let written = thread::scope(|scope| {
            let hashed = scope.spawn(|| hash.update(bytes));
            let written = file.write_all(bytes);
            hashed.join().map_or_else(|_| Err(io::Error::other("the hash could not be formed")), |()| written)
        });
        written?;
        self.len += bytes.len() as u64;
        if !self.proven && self.len - self.note.kept >= KEEP_EVERY { self.keep() } else { Ok(()) }
    }

    /// Makes sure that another process can go on from here.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn keep(&mut self) -> io::Result<()> {
        if !self.proven {
            self.file.sync_data()?;
        }
        self.note.kept = self.len;
        self.write_note()
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
        drop(self.file);
        fs::rename(&self.path, target)
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
        job.checkpoint()?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..most])? {
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
