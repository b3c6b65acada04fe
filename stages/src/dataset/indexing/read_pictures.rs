//! Reads the pictures of an archive, looks at each and writes those that can be used. It does not know which samples have them.

use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use stage_api::{Job, StageError, Unit};

use super::data_quality::Anomaly;
use super::picture::{self, Looks, Unusable};
use super::{Look, digest};
use crate::formats::archive::Archive;
use crate::formats::{file_kind, image_decode, tar_members};

/// Bytes of pictures out of a stream that are in memory at a time.
const AT_ONCE: usize = 32 << 20;
/// Pictures between two looks at whether to stop.
const CHUNK: usize = 1024;

/// The pictures of an archive, on their way into `images/`.
pub(super) struct Pictures<'a> {
    pub archive: &'a Archive,
    /// The folder.
    pub images: &'a Path,
    pub look: Look,
    pub job: &'a Job<'a>,
    /// How many were looked at.
    pub done: AtomicU64,
    /// Their paths in the archive, sorted, and the names of their files in the folder.
    pub files: &'a [(String, String)],
}

/// A picture that is fine, and written.
pub(super) struct Kept {
    pub looks: Looks,
    pub digest: u128,
    pub bytes: u64,
}

/// The archive of Hateful Memes may hold its pictures in an archive of their own.
const INNER: &str = "img.tar.gz";

impl Pictures<'_> {
    /// What became of each.
    pub fn all(&self) -> Result<Vec<Result<Kept, Unusable>>, StageError> {
        let any_here = self.files.iter().any(|(name, _)| self.archive.has(name));
        let found = if !any_here && self.archive.has(INNER) { self.of_inner() } else { self.of_archive() }?;
        let missing = |name: &str| (Anomaly::MissingPicture, format!("the archive has no picture `{name}`"));
        let or_missing = |(found, (name, _)): (Option<_>, &(String, _))| found.unwrap_or(Err(missing(name)));
        Ok(found.into_iter().zip(self.files).map(or_missing).collect())
    }

    /// Each thread reads the archive on its own.
    fn of_archive(&self) -> Result<Vec<Option<Result<Kept, Unusable>>>, StageError> {
        let mut found = Vec::with_capacity(self.files.len());
        for chunk in self.files.chunks(CHUNK) {
            self.job.check_cancelled()?;
            let one = |archive: &mut Archive, file: &(String, String)| {
                if !archive.has(&file.0) {
                    return Ok(None);
                }
                let bytes = archive.bytes(&file.0)?;
                self.keep(file, &bytes).map(Some)
            };
            let new: Result<Vec<_>, StageError> =
                chunk.par_iter().map_init(|| self.archive.clone(), one).collect();
            found.append(&mut new?);
        }
        Ok(found)
    }

    /// A tar can only be read from its beginning on: what one thread unpacks, all look at, some megabytes at a time.
    fn of_inner(&self) -> Result<Vec<Option<Result<Kept, Unusable>>>, StageError> {
        let found = Mutex::new((0..self.files.len()).map(|_| None).collect::<Vec<_>>());
        let mut archive = self.archive.clone();
        let fail = |problem: String| self.archive.error(INNER, problem);
        let mut content = std::io::BufReader::new(archive.stream(INNER)?);
        if let Some(problem) = content.fill_buf().ok().and_then(file_kind::placeholder) {
            return Err(fail(problem));
        }
        let mut tar = tar::Archive::new(flate2::bufread::MultiGzDecoder::new(content));
        let mut taken = HashSet::new();
        let mut batch: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut held = 0;
        let flush = |batch: &mut Vec<(usize, Vec<u8>)>| -> Result<(), StageError> {
            self.job.check_cancelled()?;
            let new: Result<Vec<_>, StageError> =
                batch.par_iter().map(|(at, bytes)| Ok((*at, self.keep(&self.files[*at], bytes)?))).collect();
            let mut found = found.lock().map_err(|_| StageError::failed("a thread panicked"))?;
            new?.into_iter().for_each(|(at, kept)| found[at] = Some(kept));
            batch.clear();
            Ok(())
        };
        for member in tar_members::members(&mut tar).map_err(fail)? {
            let member = member.map_err(fail)?;
            let name = String::from_utf8_lossy(&member.path).trim_start_matches("./").to_owned();
            let name = if name.starts_with("img/") { name } else { format!("img/{name}") };
            let at = self.files.binary_search_by(|(path, _)| path.cmp(&name));
            let Some(at) = at.ok().filter(|_| member.kind.is_file()) else { continue };
            if !taken.insert(at) {
                return Err(fail(format!("holds `{name}` twice")));
            }
            if member.size > self.archive.max_bytes() {
                return Err(fail(format!("`{name}` has {} bytes: more than a picture has", member.size)));
            }
            let mut bytes = Vec::new();
            let (content, size) = (member.content, member.size);
            content.take(size).read_to_end(&mut bytes).map_err(|error| fail(tar_members::broken(&error)))?;
            if bytes.len() as u64 != size {
                return Err(fail(format!("ends within `{name}`: it was cut short")));
            }
            held += bytes.len();
            batch.push((at, bytes));
            if held >= AT_ONCE {
                flush(&mut batch)?;
                held = 0;
            }
        }
        flush(&mut batch)?;
        tar_members::check_end(tar.into_inner()).map_err(fail)?;
        found.into_inner().map_err(|_| StageError::failed("a thread panicked"))
    }

    /// Looks at a picture and writes it, if it can be used.
    fn keep(
        &self,
        (name, file): &(String, String),
        bytes: &[u8],
    ) -> Result<Result<Kept, Unusable>, StageError> {
        let (done, all) = (self.done.fetch_add(1, Ordering::Relaxed) + 1, self.files.len() as u64);
        if done.is_multiple_of(CHUNK as u64) || done == all {
            self.job.progress.advance(done, all, Unit::Items);
        }
        let looks = match picture::look(bytes, name) {
            Ok(looks) => looks,
            Err(unusable) => return Ok(Err(unusable)),
        };
        if self.look == Look::Decode
            && let Err(problem) = image_decode::decode(bytes)
        {
            return Ok(Err((Anomaly::UnreadablePicture, problem)));
        }
        let to = self.images.join(file);
        std::fs::write(&to, bytes)
            .map_err(|error| StageError::failed(format!("{}: {error}", to.display())))?;
        Ok(Ok(Kept { looks, digest: digest(bytes), bytes: bytes.len() as u64 }))
    }
}
