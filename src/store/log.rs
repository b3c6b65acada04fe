//! The state log: one file to which every process appends, one line per entry. Each line begins with the checksum of
//! the rest, so a damaged line costs that line alone. A line that a crash cut short does not count. This module knows
//! lines and files; [`super::state`] knows their content.
//!
//! Readers take no lock: they read up to the last complete line. Writers append under a short lock, after they read
//! what others have appended. To drop superseded lines, a writer renames a new file into place. A process that has
//! the old file open sees that the name belongs to another file, and reads again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::files;

/// Hexadecimal digits of a line's checksum.
const CHECKSUM: usize = 16;
/// A smaller log is not rewritten.
const COMPACT_FROM_BYTES: usize = 1 << 20;

/// The byte range of a line's text, without the checksum.
pub(super) type Line = Range<usize>;

/// A part of the log whose checksum does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The log.
    pub file: PathBuf,
    /// Its first byte.
    pub at: usize,
    /// The step that the damaged text seems to name, if it can be read.
    pub step: Option<String>,
}

/// The part of the log that was read.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    text: Vec<u8>,
    /// The end of the last complete line in `text`.
    complete: usize,
    /// The inode and device of the file that was read; `None` while there is no file.
    file: Option<(u64, u64)>,
    /// The file that is open to append, with its inode and device.
    appended: Option<((u64, u64), File)>,
    damaged: Vec<Damage>,
}

/// The result of a refresh.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These lines follow the known ones.
    More(Vec<Line>),
    /// The log was rewritten: these are its lines, and the known ones are void.
    Rewritten(Vec<Line>),
}

impl Log {
    /// A log that was not read yet.
    pub fn new(path: &Path) -> Self {
        let (text, damaged) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), text, complete: 0, file: None, appended: None, damaged }
    }

    /// Reads new lines.
    ///
    /// # Errors
    /// When the file exists but cannot be read.
    pub fn refresh(&mut self) -> io::Result<News> {
        // Most of the time nothing is new, and a stat shows that.
        match std::fs::metadata(&self.path) {
            Ok(now) if self.file == Some(identity(&now)) && now.len() == self.text.len() as u64 => {
                return Ok(News::More(Vec::new()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(self.restart(None)),
            Err(error) => return Err(error),
        }
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        let identity = identity(&metadata);
        let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        let is_same = self.file == Some(identity) && size >= self.complete;
        let restarted = if is_same { News::More(Vec::new()) } else { self.restart(Some(identity)) };
        self.text.truncate(self.complete);
        if size > self.complete {
            file.seek(SeekFrom::Start(self.complete as u64))?;
            self.text.reserve_exact(size - self.complete);
            file.read_to_end(&mut self.text)?;
        }
        let lines = self.scan();
        Ok(match restarted {
            News::More(_) => News::More(lines),
            News::Rewritten(_) => News::Rewritten(lines),
        })
    }

    fn restart(&mut self, file: Option<(u64, u64)>) -> News {
        let was_empty = self.file.is_none();
        self.text.clear();
        self.damaged.clear();
        (self.complete, self.file) = (0, file);
        if was_empty { News::More(Vec::new()) } else { News::Rewritten(Vec::new()) }
    }

    /// The complete lines after `complete`, which moves behind them.
    fn scan(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(length) = memchr::memchr(b'\n', &self.text[self.complete..]) {
            let (start, end) = (self.complete, self.complete + length);
            let line = &self.text[start..end];
            if is_intact(line) {
                lines.push(start + CHECKSUM + 1..end);
            } else {
                self.damaged.push(Damage { file: self.path.clone(), at: start, step: step_in(line) });
            }
            self.complete = end + 1;
        }
        lines
    }

    /// The text of a line.
    pub fn text(&self, line: &Line) -> &str {
        // Invalid UTF-8 cannot have the right checksum.
        std::str::from_utf8(&self.text[line.clone()]).unwrap_or_default()
    }

    /// The damaged parts that are still in the file.
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Appends lines in one write. The caller holds the lock and has called [`Log::refresh`] under it. The rest of a
    /// line that a crash cut short is removed first.
    ///
    /// # Errors
    /// When the write fails; then the log is unchanged.
    pub fn append(&mut self, lines: &[String], durable: bool) -> io::Result<Vec<Line>> {
        let is_new = self.file.is_none();
        let mut file = match self.appended.take() {
            Some((open, file)) if self.file == Some(open) => file,
            _ => OpenOptions::new().create(true).append(true).open(&self.path)?,
        };
        if is_new {
            self.file = Some(identity(&file.metadata()?));
        }
        if self.text.len() > self.complete {
            file.set_len(self.complete as u64)?;
        }
        self.text.truncate(self.complete);
        let start = self.text.len();
        lines.iter().for_each(|line| sealed(line, &mut self.text));
        let written = file.write_all(&self.text[start..]);
        let written = written.and_then(|()| if durable { files::force(&self.path, &file) } else { Ok(()) });
        if let Err(error) = written {
            // The lines may be written in part, or not yet be synced, so all of them are removed.
            let _ = file.set_len(start as u64);
            self.text.truncate(start);
            return Err(error);
        }
        if is_new && durable {
            files::sync_folder(self.path.parent().unwrap_or(Path::new(".")))?;
        }
        self.appended = self.file.map(|identity| (identity, file));
        Ok(self.scan())
    }

    /// Whether rewriting pays off when only `live` bytes are still valid.
    pub fn is_wasteful(&self, live: usize) -> bool {
        !self.damaged.is_empty() || (self.complete > COMPACT_FROM_BYTES && live < self.complete / 2)
    }

    /// The inode and device of the file that was read.
    pub fn file(&self) -> Option<(u64, u64)> {
        self.file
    }

    /// The number of bytes that were read.
    pub fn len(&self) -> usize {
        self.complete
    }

    /// Replaces the log by these lines. The caller holds the lock and has called [`Log::refresh`].
    ///
    /// # Errors
    /// When the write fails; then the log is unchanged.
    pub fn replace(&mut self, lines: &[String]) -> io::Result<News> {
        let mut text = Vec::with_capacity(self.complete);
        lines.iter().for_each(|line| sealed(line, &mut text));
        files::write_whole(&self.path, &text, true)?;
        self.refresh()
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.ino(), metadata.dev())
}

/// Writes a line with its checksum. No entry holds a line break.
fn sealed(line: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(format!("{:016x} ", xxh3_64(line.as_bytes())).as_bytes());
    to.extend_from_slice(line.as_bytes());
    to.push(b'\n');
}

/// The value of each lower-case hexadecimal digit; more than 15 for other bytes. A table, because a branch on random
/// digits is mispredicted about every other time.
const DIGITS: [u8; 256] = {
    let (mut table, mut value) = ([u8::MAX; 256], 0);
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

fn is_intact(line: &[u8]) -> bool {
    let Some((digits, [b' ', text @ ..])) = line.split_first_chunk::<CHECKSUM>() else { return false };
    let (checksum, largest) = digits.iter().fold((0u64, 0), |(checksum, largest), &digit| {
        let value = DIGITS[usize::from(digit)];
        (checksum << 4 | u64::from(value & 15), value.max(largest))
    });
    largest < 16 && checksum == xxh3_64(text)
}

/// The step that a damaged line seems to name.
fn step_in(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let (_, rest) = text.split_once("\"step\":\"")?;
    let (step, _) = rest.split_once('"')?;
    Some(step.chars().filter(|c| !c.is_control()).take(80).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> (Log, Vec<String>) {
        let mut log = Log::new(path);
        let News::More(lines) = log.refresh().unwrap() else {
            panic!("the first read reports a rewritten log")
        };
        let texts = lines.iter().map(|line| log.text(line).to_owned()).collect();
        (log, texts)
    }

    fn written(path: &Path, lines: &[&str]) {
        let (mut log, _) = read(path);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(log.append(&lines, true).unwrap().len(), lines.len());
    }

    #[test]
    fn appended_lines_are_read_by_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut other, nothing) = read(&path);
        assert_eq!(nothing, [""; 0]);
        written(&path, &["one", "two \u{e4}"]);
        written(&path, &["three"]);
        assert_eq!(read(&path).1, ["one", "two \u{e4}", "three"]);
        let News::More(lines) = other.refresh().unwrap() else { panic!("the log was not rewritten") };
        assert_eq!(lines.len(), 3);
        assert_eq!(other.refresh().unwrap(), News::More(vec![]));
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_count_and_the_next_writer_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", "two"]);
        let complete = std::fs::read(&path).unwrap();
        let first = complete.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first..complete.len() {
            std::fs::write(&path, &complete[..cut]).unwrap();
            let (log, lines) = read(&path);
            assert_eq!((lines, log.damaged()), (vec!["one".to_owned()], &[][..]), "cut at {cut}");
            written(&path, &["three"]);
            assert_eq!(read(&path).1, ["one", "three"], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_byte_costs_its_line_or_the_two_it_joins_and_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", r#"record {"step":"b"}"#, "three", "four"]);
        let complete = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..complete.len()).filter(|at| complete[*at] == b'\n').collect();
        for at in 0..complete.len() - 1 {
            for mask in [1, 0x80] {
                let mut bytes = complete.clone();
                bytes[at] ^= mask;
                std::fs::write(&path, &bytes).unwrap();
                let (log, lines) = read(&path);
                let lost = if ends.contains(&at) { 2 } else { 1 };
                assert_eq!(lines.len(), 4 - lost, "byte {at}");
                assert!(!log.damaged().is_empty() && log.is_wasteful(0), "byte {at}");
                let of_b = (ends[0] + 1..ends[0] + 20).contains(&at);
                assert!(!of_b || log.damaged()[0].step.as_deref() == Some("b"), "byte {at}");
            }
        }
    }

    #[test]
    fn a_rewritten_log_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", "two", "three"]);
        let (mut reader, _) = read(&path);
        let (mut writer, _) = read(&path);
        assert_eq!(
            writer.replace(&["two".to_owned()]).map(|news| matches!(news, News::Rewritten(_))).ok(),
            Some(true)
        );
        let News::Rewritten(lines) = reader.refresh().unwrap() else { panic!("the file was replaced") };
        assert_eq!(lines.iter().map(|line| reader.text(line)).collect::<Vec<_>>(), ["two"]);
        // An append by a process that has read the old file goes to the new one.
        reader.append(&["four".to_owned()], false).unwrap();
        assert_eq!(read(&path).1, ["two", "four"]);
    }
}
