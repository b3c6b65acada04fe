//! `unpack`: an archive as a folder. It trusts nothing that an archive says: names, links, sizes and counts are checked
//! before or while they are followed, and nothing is ever written outside the output. docs/data.md states the rules.
//! It does not know what the files are for.

mod budget;
mod member_names;
mod tar_file;
mod zip_file;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{Job, Port, Stage, StageError};

use crate::formats::{file_kind, zip_reader};
use budget::Budget;

/// Unpacks an archive.
pub struct Unpack;

/// Settings of [`Unpack`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnpackParams {
    /// The variable of the environment that holds the archive's password; `<name>_FILE` may name a file with it.
    pub password: Option<String>,
    /// How many times larger than the archive its files may be together.
    pub most_ratio: u64,
    /// How many bytes its files may have together.
    pub most_bytes: u64,
    /// How many files, folders and links it may hold.
    pub most_files: u64,
}

impl Default for UnpackParams {
    fn default() -> Self {
        // Text packs to a tenth, logs to a fiftieth, pictures not at all; deflate can reach a thousandth of nothing
        // but zeros. No data set of memes has more than these bytes or files.
        Self { password: None, most_ratio: 200, most_bytes: 500_000_000_000, most_files: 2_000_000 }
    }
}

/// Why an archive was not unpacked.
#[derive(Debug)]
enum Refusal {
    /// It is not whole, or not to be trusted.
    Archive(String),
    /// It wants a password that is not there, or another one.
    Password(String),
    /// Its files cannot be written, or the job was cancelled.
    Job(StageError),
}

impl From<String> for Refusal {
    fn from(problem: String) -> Self {
        Self::Archive(problem)
    }
}

impl From<StageError> for Refusal {
    fn from(error: StageError) -> Self {
        Self::Job(error)
    }
}

enum Format {
    Zip,
    Tar,
    TarGz,
}

impl Stage for Unpack {
    type Params = UnpackParams;
    const NAME: &'static str = "unpack";
    const ABOUT: &'static str =
        "An archive (zip, tar, tar.gz) as a folder, within limits and never outside it";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::one("archive")];
    const OUTSIDE: &'static [&'static str] = &["REPRO_*"];

    fn check(&self, params: &UnpackParams) -> Result<(), String> {
        match &params.password {
            Some(name) if !name.starts_with("REPRO_") => Err(format!(
                "password: `{name}` does not begin with REPRO_; name a variable of the environment, not the password"
            )),
            _ => Ok(()),
        }
    }

    fn run(&self, params: &UnpackParams, job: &Job) -> Result<(), StageError> {
        let path = job.inputs.one("archive")?;
        let path = &single_file(path)?;
        let fail = |problem: String| StageError::input("archive", path, problem);
        let file = File::open(path).map_err(|error| fail(error.to_string()))?;
        let size = file.metadata().map_err(|error| fail(error.to_string()))?.len();
        let budget = Budget::new(params, size);
        let unpacked = format(&file).map_err(Refusal::Archive).and_then(|format| match format {
            Format::Zip => zip_file::unpack(file, params, &budget, job),
            Format::Tar => tar_file::unpack(file, size, false, &budget, job),
            Format::TarGz => tar_file::unpack(file, size, true, &budget, job),
        });
        match unpacked {
            Ok(count) => {
                job.progress.note(&format!("{count} files, {} bytes", budget.used()));
                Ok(())
            }
            Err(Refusal::Job(error)) => Err(error),
            Err(Refusal::Archive(problem)) => Err(fail(problem)),
            Err(Refusal::Password(problem)) => {
                let what = match &params.password {
                    Some(name) => format!(
                        "{}: {problem}\nput its password into the variable {name}, or into a file and the file's path \
                         into {name}_FILE, and run again",
                        path.display()
                    ),
                    None => format!(
                        "{}: {problem}\ngive its step `password: \"REPRO_…\"`, the name of a variable with the password",
                        path.display()
                    ),
                };
                Err(StageError::NeedsHuman { what })
            }
        }
    }
}

/// The archive itself, or the only file of a folder.
fn single_file(path: &Path) -> Result<std::path::PathBuf, StageError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let files: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    match files.as_slice() {
        [one] => Ok(one.path()),
        _ => Err(StageError::input(
            "archive",
            path,
            "holds more or less than one file; connect the archive itself",
        )),
    }
}

fn format(file: &File) -> Result<Format, String> {
    let mut head = vec![0; 4096];
    let read = file.read_at(&mut head, 0).map_err(|error| error.to_string())?;
    head.truncate(read);
    match head.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Ok(Format::Zip),
        [0x1f, 0x8b, ..] => Ok(Format::TarGz),
        head if head.get(257..262) == Some(b"ustar") => Ok(Format::Tar),
        // A program that unpacks itself.
        _ if zip_reader::ends_as_zip(file) => Ok(Format::Zip),
        head => Err(file_kind::mismatch("a zip, tar or tar.gz archive", head)),
    }
}

/// Writes the file `name` (checked, relative) from `content`; `expected` is the length the archive announced.
fn write_file(
    name: &str,
    mut content: impl Read,
    expected: u64,
    budget: &Budget,
    job: &Job,
) -> Result<(), Refusal> {
    let path = job.out.join(name);
    let disk =
        |error: std::io::Error| Refusal::Job(StageError::failed(format!("{}: {error}", path.display())));
    make_folder(path.parent().unwrap_or(job.out)).map_err(disk)?;
    // Never over something that is there, never through a link: the output holds none.
    let mut file = File::options().write(true).create_new(true).open(&path).map_err(disk)?;
    let mut buffer = vec![0; 1 << 17];
    let mut written = 0;
    loop {
        job.check_cancelled()?;
        let read = content
            .read(&mut buffer)
            .map_err(|error| format!("`{name}` {}", zip_reader::unreadable(&error)))?;
        written += read as u64;
        if written > expected || (read == 0 && written < expected) {
            return Err(format!("`{name}` is not as long as the archive says ({expected} bytes)").into());
        }
        if read == 0 {
            return Ok(());
        }
        budget.take(read as u64)?;
        file.write_all(&buffer[..read]).map_err(disk)?;
    }
}

fn make_folder(path: &Path) -> std::io::Result<()> {
    // Nearly always it is there; asking first costs one call instead of several.
    if path.is_dir() { Ok(()) } else { fs::create_dir_all(path) }
}

/// Turns links into copies of the files they lead to. A link whose target is no file that this archive wrote is
/// refused: one that leads out of it, to a folder, to another link.
fn copy_links(
    links: &[(String, String)],
    names: &member_names::Names,
    budget: &Budget,
    job: &Job,
) -> Result<(), Refusal> {
    for (name, target) in links {
        let source = job.out.join(target);
        let Some(length) = names.is_file(target).then(|| fs::metadata(&source).map(|meta| meta.len())) else {
            return Err(
                format!("`{name}` is a link to `{target}`, which is not a file of the archive").into()
            );
        };
        let content = File::open(&source)
            .map_err(|error| StageError::failed(format!("{}: {error}", source.display())))?;
        write_file(name, content, length.map_err(StageError::from)?, budget, job)?;
    }
    Ok(())
}
