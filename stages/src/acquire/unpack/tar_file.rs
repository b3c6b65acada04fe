//! Unpacks a tar archive, plain or in gzip, in one pass.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use stage_api::{Job, StageError, Unit};
use tar::{Archive, EntryType};

use super::budget::Budget;
use super::member_names::{self, Names};
use super::{Refusal, copy_links, make_folder, write_file};
use crate::formats::tar_members::{self, Member};
use crate::host::disk_space;

/// Counts what is read of the archive's file, for the progress.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Unpacks into the job's output; returns the number of files.
pub fn unpack(file: File, size: u64, gzip: bool, budget: &Budget, job: &Job) -> Result<usize, Refusal> {
    if !gzip {
        disk_space::check(job.out, size)?;
    }
    let read = Arc::new(AtomicU64::new(0));
    let file = BufReader::with_capacity(1 << 16, Counted(file, Arc::clone(&read)));
    let content: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut archive = Archive::new(content);
    let mut names = Names::default();
    let (mut links, mut count) = (Vec::new(), 0);
    for found in tar_members::members(&mut archive)? {
        job.check_cancelled()?;
        budget.count()?;
        count += usize::from(member(found?, &mut names, &mut links, budget, job)?);
        job.progress.advance(read.load(Ordering::Relaxed).min(size), size, Unit::Bytes);
    }
    tar_members::check_end(archive.into_inner())?;
    copy_links(&links, &names, budget, job)?;
    Ok(count)
}

/// Takes one member; whether it was a file or a link.
fn member(
    member: Member<impl Read>,
    names: &mut Names,
    links: &mut Vec<(String, String)>,
    budget: &Budget,
    job: &Job,
) -> Result<bool, Refusal> {
    let shown = member.shown();
    let Member { path, target, size, kind, content } = member;
    let is_folder = kind == EntryType::Directory
        // Old writers mark folders by their name alone.
        || (kind == EntryType::Regular && path.ends_with(b"/"));
    if is_folder {
        if let Some(folder) = names.folder(&path)? {
            make_folder(&job.out.join(folder)).map_err(StageError::from)?;
        }
        return Ok(false);
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            let name = names.file(&path)?;
            disk_space::check(job.out, size)?;
            write_file(&name, content, size, budget, job)?;
        }
        EntryType::Symlink | EntryType::Link => {
            let name = names.link(&path)?;
            let target = match kind {
                EntryType::Symlink => member_names::resolve(&name, &target)?,
                _ => member_names::plain_target(&target)?,
            };
            links.push((name, target));
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return Err(format!("holds `{shown}`, which is a device or pipe").into());
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
