//! The state log: one file to which every process appends what it learned, a line for each thing. A line begins
//! with the checksum of the rest, so a damaged line is noticed and costs that line alone, and a line that a crash
//! cut short is no line. It knows lines and files; what a line says stands in [`super::state`].
//!
//! Readers take no lock: they read to the last whole line. Writers append under a short lock, after reading what
//! others appended. What is superseded is dropped by writing the log anew and renaming it into place; whoever has
//! the old file open sees that its name leads elsewhere and reads again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::files;

/// Hexadecimal digits of a line's checksum.
const CHECKSUM: usize = 16;
/// A log smaller than this is not worth writing anew.
const WORTH_COMPACTING: usize = 1 << 20;

/// A line of the log: where its text stands, the checksum left out.
pub(super) type Line = Range<usize>;

/// A stretch of the log that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The log.
    pub file: PathBuf,
    /// Where it begins, in bytes.
    pub at: usize,
    /// The step it seems to speak of, where that can still be read.
    pub step: Option<String>,
}

/// The log as far as it was read.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    text: Vec<u8>,
    /// Up to where `text` holds whole lines.
    whole: usize,
    /// Which file was read: inode and device. `None` while there is none.
    file: Option<(u64, u64)>,
    /// The file that is appended to, and which one that is.
    appended: Option<((u64, u64), File)>,
    damaged: Vec<Damage>,
}

/// What reading on has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These lines came behind what was known.
    More(Vec<Line>),
    /// The log was written anew: these are its lines, what was known before is void.
    Anew(Vec<Line>),
}

impl Log {
    /// A log that was not read yet.
    pub fn new(path: &Path) -> Self {
        let (text, damaged) = (Vec::new(), Vec::new());
        Self { path: path.to_owned(), text, whole: 0, file: None, appended: None, damaged }
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn refresh(&mut self) -> io::Result<News> {
        // Most of the time nothing is new, and a stat says so.
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
        let is_same = self.file == Some(identity) && size >= self.whole;
        let restarted = if is_same { News::More(Vec::new()) } else { self.restart(Some(identity)) };
        self.text.truncate(self.whole);
        if size > self.whole {
            file.seek(SeekFrom::Start(self.whole as u64))?;
            self.text.reserve_exact(size - self.whole);
            file.read_to_end(&mut self.text)?;
        }
        let lines = self.scan();
        Ok(match restarted {
            News::More(_) => News::More(lines),
            News::Anew(_) => News::Anew(lines),
        })
    }

    fn restart(&mut self, file: Option<(u64, u64)>) -> News {
        let was_empty = self.file.is_none();
        self.text.clear();
        self.damaged.clear();
        (self.whole, self.file) = (0, file);
        if was_empty { News::More(Vec::new()) } else { News::Anew(Vec::new()) }
    }

    /// The whole lines behind `whole`, which moves behind them.
    fn scan(&mut self) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(length) = memchr::memchr(b'\n', &self.text[self.whole..]) {
            let (start, end) = (self.whole, self.whole + length);
            let line = &self.text[start..end];
            if is_intact(line) {
                lines.push(start + CHECKSUM + 1..end);
            } else {
                self.damaged.push(Damage { file: self.path.clone(), at: start, step: step_in(line) });
            }
            self.whole = end + 1;
        }
        lines
    }

    /// The text of a line.
    pub fn text(&self, line: &Line) -> &str {
        // What is no text has another checksum than what was written.
        std::str::from_utf8(&self.text[line.clone()]).unwrap_or_default()
    }

    /// What was found damaged and is still in the file.
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Appends lines, in one write; call with the lock held and, under that same lock, after [`Log::refresh`]. What
    /// a crash left of a line is cut off first.
    ///
    /// # Errors
    /// When the disk does not take it; then the log is as it was.
    pub fn append(&mut self, lines: &[String], durable: bool) -> io::Result<Vec<Line>> {
        let is_new = self.file.is_none();
        let mut file = match self.appended.take() {
            Some((open, file)) if self.file == Some(open) => file,
            _ => OpenOptions::new().create(true).append(true).open(&self.path)?,
        };
        if is_new {
            self.file = Some(identity(&file.metadata()?));
        }
        if self.text.len() > self.whole {
            file.set_len(self.whole as u64)?;
        }
        self.text.truncate(self.whole);
        let start = self.text.len();
        lines.iter().for_each(|line| sealed(line, &mut self.text));
        let written = file.write_all(&self.text[start..]);
        let written = written.and_then(|()| if durable { files::force(&self.path, &file) } else { Ok(()) });
        if let Err(error) = written {
            // The lines may stand there in part, or not be known to last: they are taken back as a whole.
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

    /// Whether the log is worth writing anew when only `live` bytes of it still count.
    pub fn is_wasteful(&self, live: usize) -> bool {
        !self.damaged.is_empty() || (self.whole > WORTH_COMPACTING && live < self.whole / 2)
    }

    /// Which file was read.
    pub fn file(&self) -> Option<(u64, u64)> {
        self.file
    }

    /// How many bytes were read.
    pub fn len(&self) -> usize {
        self.whole
    }

    /// Replaces the log by one of these lines; call with the lock held and after [`Log::refresh`].
    ///
    /// # Errors
    /// When the disk does not take it; then the log is as it was.
    pub fn replace(&mut self, lines: &[String]) -> io::Result<News> {
        let mut text = Vec::with_capacity(self.whole);
        lines.iter().for_each(|line| sealed(line, &mut text));
        files::write_whole(&self.path, &text, true)?;
        self.refresh()
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.ino(), metadata.dev())
}

/// Writes a line with its checksum. A line break within it would be two lines; no entry holds one.
fn sealed(line: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(format!("{:016x} ", xxh3_64(line.as_bytes())).as_bytes());
    to.extend_from_slice(line.as_bytes());
    to.push(b'\n');
}

/// The value of each lower-case hexadecimal digit; of other bytes, more than 15. A table, because a branch on digits as random as
/// those of a checksum is guessed wrong every other time.
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

/// The step that a damaged line seems to speak of.
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
        let News::More(lines) = log.refresh().unwrap() else { panic!("a new log was read before") };
        let texts = lines.iter().map(|line| log.text(line).to_owned()).collect();
        (log, texts)
    }

    fn written(path: &Path, lines: &[&str]) {
        let (mut log, _) = read(path);
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(log.append(&lines, true).unwrap().len(), lines.len());
    }

    #[test]
    fn what_is_appended_is_read_here_and_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut other, nothing) = read(&path);
        assert_eq!(nothing, [""; 0]);
        written(&path, &["one", "two \u{e4}"]);
        written(&path, &["three"]);
        assert_eq!(read(&path).1, ["one", "two \u{e4}", "three"]);
        let News::More(lines) = other.refresh().unwrap() else { panic!("only more lines came") };
        assert_eq!(lines.len(), 3);
        assert_eq!(other.refresh().unwrap(), News::More(vec![]));
    }

    #[test]
    fn a_tail_cut_anywhere_is_no_line_and_the_next_writer_removes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", "two"]);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (log, lines) = read(&path);
            assert_eq!((lines, log.damaged()), (vec!["one".to_owned()], &[][..]), "cut at {cut}");
            written(&path, &["three"]);
            assert_eq!(read(&path).1, ["one", "three"], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_byte_costs_its_line_or_the_two_it_joins_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", r#"record {"step":"b"}"#, "three", "four"]);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
        for at in 0..whole.len() - 1 {
            for mask in [1, 0x80] {
                let mut bytes = whole.clone();
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
    fn a_log_written_anew_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        written(&path, &["one", "two", "three"]);
        let (mut reader, _) = read(&path);
        let (mut writer, _) = read(&path);
        assert_eq!(
            writer.replace(&["two".to_owned()]).map(|news| matches!(news, News::Anew(_))).ok(),
            Some(true)
        );
        let News::Anew(lines) = reader.refresh().unwrap() else { panic!("the file is another one") };
        assert_eq!(lines.iter().map(|line| reader.text(line)).collect::<Vec<_>>(), ["two"]);
        // An append by one who had read the old file goes to the new one.
        reader.append(&["four".to_owned()], false).unwrap();
        assert_eq!(read(&path).1, ["two", "four"]);
    }
}
