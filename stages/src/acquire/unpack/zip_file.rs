//! Unpacks a zip archive. All names and announced sizes are judged before the first file is written; then the files are
//! shared among threads, as each can be read by itself.

use std::fs::File;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use stage_api::{Job, Unit};
use zip::read::ZipReadOptions;
use zip::result::ZipError;

use super::budget::Budget;
use super::member_names::{self, Names};
use super::{Refusal, UnpackParams, copy_links, make_folder, write_file};
use crate::formats::file_kind;
use crate::formats::zip_reader::{self, Zip};
use crate::host::disk_space;

/// The type bits of a Unix mode, and those of what may be in an archive.
const TYPE: u32 = 0o170_000;
const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
/// The longest target of a link.
const LONGEST_TARGET: u64 = 4096;

/// A file to write: its place in the archive, its name, its announced length.
struct Item {
    index: usize,
    name: String,
    size: u64,
}

/// What the table of contents says, judged.
#[derive(Default)]
struct Contents {
    files: Vec<Item>,
    links: Vec<Item>,
    bytes: u64,
    encrypted: bool,
}

/// Unpacks into the job's output; returns the number of files.
pub fn unpack(file: File, params: &UnpackParams, budget: &Budget, job: &Job) -> Result<usize, Refusal> {
    let mut zip = zip_reader::open(file)?;
    let mut names = Names::default();
    let contents = judge(&zip, &mut names, budget, job)?;
    budget.announce(contents.bytes)?;
    // Files that lie over each other in the archive: the same few bytes unpacked a thousand times.
    match zip.has_overlapping_entries() {
        Ok(false) => {}
        Ok(true) => return Err("holds files that lie over each other: a trap".to_owned().into()),
        Err(error) => return Err(format!("cannot be read as a zip archive: {error}").into()),
    }
    let password = match &params.password {
        Some(name) if contents.encrypted => job.allowed_env.secret(name).map_err(Refusal::Password)?,
        _ => None,
    };
    if contents.encrypted && password.is_none() {
        return Err(Refusal::Password("the archive is encrypted".to_owned()));
    }
    disk_space::check(job.out, contents.bytes)?;
    let password = password.as_deref().map(str::as_bytes);
    let mut links = Vec::new();
    for item in &contents.links {
        let mut target = Vec::new();
        read(&mut zip, item, password, |content| {
            content
                .take(LONGEST_TARGET)
                .read_to_end(&mut target)
                .map_err(|error| error.to_string().into())
                .map(drop)
        })?;
        links.push((item.name.clone(), member_names::resolve(&item.name, &target)?));
    }
    write_all(&contents, &zip, password, budget, job)?;
    copy_links(&links, &names, budget, job)?;
    Ok(contents.files.len() + links.len())
}

fn judge(zip: &Zip, names: &mut Names, budget: &Budget, job: &Job) -> Result<Contents, Refusal> {
    let mut contents = Contents::default();
    for index in 0..zip.len() {
        budget.count()?;
        let entry = zip.by_index_data(index).map_err(|error| error.to_string())?;
        // The bytes as they are: a writer that says nothing of their meaning nearly always means UTF-8.
        let raw = &*zip_reader::with_slashes(entry.name_raw(), entry.system());
        let kind = entry.unix_mode().map_or(0, |mode| mode & TYPE);
        let is_folder = raw.ends_with(b"/") || kind == FOLDER;
        if is_folder {
            if entry.size() > 0 {
                return Err(format!("holds a folder with content, `{}`", String::from_utf8_lossy(raw)).into());
            }
            if let Some(folder) = names.folder(raw)? {
                make_folder(&job.out.join(folder)).map_err(stage_api::StageError::from)?;
            }
            continue;
        }
        if let Some(problem) = zip_reader::unread_method(entry.compression()) {
            return Err(format!("`{}` {problem}", file_kind::shown(&String::from_utf8_lossy(raw))).into());
        }
        contents.encrypted |= entry.encrypted();
        let (list, name) = match kind {
            0 | FILE => (&mut contents.files, names.file(raw)?),
            LINK => (&mut contents.links, names.link(raw)?),
            _ => {
                let name = String::from_utf8_lossy(raw);
                return Err(format!("holds `{name}`, which is a device, pipe or socket").into());
            }
        };
        list.push(Item { index, name, size: entry.size() });
        contents.bytes = contents.bytes.saturating_add(entry.size());
    }
    Ok(contents)
}

/// Writes the files, each by one of the job's threads. Of several failures that of the first file is reported.
fn write_all(
    contents: &Contents,
    zip: &Zip,
    password: Option<&[u8]>,
    budget: &Budget,
    job: &Job,
) -> Result<(), Refusal> {
    let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<(usize, Refusal)>> = Mutex::new(None);
    let work = || {
        // Clones share the table of contents, and read on their own.
        let mut zip = zip.clone();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = contents.files.get(at) else { return };
            let result = read(&mut zip, item, password, |content| {
                write_file(&item.name, content, item.size, budget, job)
            });
            let so_far = done.fetch_add(item.size, Ordering::Relaxed) + item.size;
            job.progress.advance(so_far, contents.bytes, Unit::Bytes);
            if let Err(refusal) = result {
                stop.store(true, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if failed.as_ref().is_none_or(|(first, _)| at < *first) {
                    *failed = Some((at, refusal));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..job.host.threads {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

fn read(
    zip: &mut Zip,
    item: &Item,
    password: Option<&[u8]>,
    then: impl FnOnce(&mut dyn Read) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let options = ZipReadOptions::new().password(password);
    match zip.by_index_with_options(item.index, options) {
        Ok(mut content) => {
            let encrypted = content.encrypted();
            then(&mut content).map_err(|refusal| match refusal {
                // One wrong password in 256 looks right until the content is read.
                Refusal::Archive(problem) if encrypted => {
                    Refusal::Archive(format!("{problem} (or its password is another one)"))
                }
                refusal => refusal,
            })
        }
        Err(ZipError::InvalidPassword) => Err(Refusal::Password("its password is another one".to_owned())),
        Err(error) => Err(format!("`{}` cannot be read: {error}", item.name).into()),
    }
}
