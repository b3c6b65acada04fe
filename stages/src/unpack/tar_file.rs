//! Unpacks a tar archive, plain or in gzip, in one pass. Headers are read raw, so that no long name or extension is read
//! into memory before its length was looked at.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use stage_api::{Job, StageError, Unit};
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::budget::Budget;
use super::names::{self, Names};
use super::{Refusal, copy_links, make_folder, write_file};
use crate::space;

/// The longest header extension: paths and a few fields.
const LONGEST_EXTENSION: u64 = 1 << 16;
/// What may follow the end mark: writers fill up a block of records.
const LONGEST_TAIL: u64 = 1 << 20;

/// Counts what is read of the archive's file, for the progress.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What extensions say of the member that follows them.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Unpacks into the job's output; returns the number of files.
pub fn unpack(file: File, size: u64, gzip: bool, budget: &Budget, job: &Job) -> Result<usize, Refusal> {
    if !gzip {
        space::check(job.out, size)?;
    }
    let read = Arc::new(AtomicU64::new(0));
    let file = BufReader::with_capacity(1 << 16, Counted(file, Arc::clone(&read)));
    let content: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = Archive::new(content);
    let mut names = Names::default();
    let (mut said, mut links, mut count) = (Said::default(), Vec::new(), 0);
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        job.checkpoint()?;
        budget.count()?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => said.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => said.target = Some(long_name(&mut entry)?),
            EntryType::XHeader => extend(&mut said, &extension(&mut entry)?)?,
            // What holds for all members: times, owners, comments.
            EntryType::XGlobalHeader => drop(extension(&mut entry)?),
            _ => {
                let said = std::mem::take(&mut said);
                count += usize::from(member(entry, said, &mut names, &mut links, budget, job)?);
            }
        }
        job.progress.advance(read.load(Ordering::Relaxed).min(size), size, Unit::Bytes);
    }
    // To its very end: only there gzip says whether all of it was right.
    let mut tail = archive.into_inner().take(LONGEST_TAIL + 1);
    if io::copy(&mut tail, &mut io::sink()).map_err(damaged)? > LONGEST_TAIL {
        return Err("goes on after its end: a trap".to_owned().into());
    }
    copy_links(&links, &names, budget, job)?;
    Ok(count)
}

/// Takes one member; whether it was a file or a link.
fn member(
    entry: Entry<impl Read>,
    said: Said,
    names: &mut Names,
    links: &mut Vec<(String, String)>,
    budget: &Budget,
    job: &Job,
) -> Result<bool, Refusal> {
    let header = entry.header();
    let path = said.path.unwrap_or_else(|| entry.path_bytes().into_owned());
    let target = said.target.or_else(|| entry.link_name_bytes().map(|bytes| bytes.into_owned()));
    let size = header.entry_size().map_err(damaged)?;
    let shown = String::from_utf8_lossy(&path).escape_default().to_string();
    if said.size.is_some_and(|said| said != size) {
        let problem =
            format!("`{shown}` is larger than a tar header can say; pack it with `tar --format=gnu`");
        return Err(problem.into());
    }
    let is_folder = header.entry_type() == EntryType::Directory
        // Old writers mark folders by their name alone.
        || (header.entry_type() == EntryType::Regular && path.ends_with(b"/"));
    if is_folder {
        if let Some(folder) = names.folder(&path)? {
            make_folder(&job.out.join(folder)).map_err(StageError::from)?;
        }
        return Ok(false);
    }
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let name = names.file(&path)?;
            space::check(job.out, size)?;
            write_file(&name, entry, size, budget, job)?;
        }
        EntryType::Symlink | EntryType::Link => {
            let name = names.link(&path)?;
            let target = target.unwrap_or_default();
            let target = match header.entry_type() {
                EntryType::Symlink => names::resolve(&name, &target)?,
                _ => names::plain_target(&target)?,
            };
            links.push((name, target));
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return Err(format!("holds `{shown}`, which is a device or pipe; do not trust it").into());
        }
        EntryType::GNUSparse => {
            return Err(format!("`{shown}` is a sparse file; pack it without --sparse").into());
        }
        other => {
            let problem =
                format!("holds `{shown}`, of a kind that is not known (`{}`)", char::from(other.as_byte()));
            return Err(problem.into());
        }
    }
    Ok(true)
}

fn extension(entry: &mut Entry<impl Read>) -> Result<Vec<u8>, Refusal> {
    if entry.header().entry_size().map_err(damaged)? > LONGEST_EXTENSION {
        return Err("holds a header that is absurdly long: a trap".to_owned().into());
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

fn long_name(entry: &mut Entry<impl Read>) -> Result<Vec<u8>, Refusal> {
    let mut name = extension(entry)?;
    // It ends in a zero byte, which is none of the name.
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn extend(said: &mut Said, bytes: &[u8]) -> Result<(), Refusal> {
    for field in PaxExtensions::new(bytes) {
        let field = field.map_err(damaged)?;
        match field.key_bytes() {
            b"path" => said.path = Some(field.value_bytes().to_owned()),
            b"linkpath" => said.target = Some(field.value_bytes().to_owned()),
            b"size" => {
                let size = field.value().ok().and_then(|text| text.parse().ok());
                said.size = Some(size.ok_or_else(|| "holds a size that is no number".to_owned())?);
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err("holds a sparse file; pack it without --sparse".to_owned().into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn damaged(error: io::Error) -> Refusal {
    Refusal::Archive(format!("is damaged or no tar archive ({error}); fetch it again"))
}
