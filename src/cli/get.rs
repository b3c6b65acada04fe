//! `repro get STEP[/FILE] --to FOLDER`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use stage_api::Registry;
use tempfile::TempPath;

use super::error::CliError;
use super::result_ref::FoundResult;
use super::{Global, format, print_json};
use crate::digest::Digest;
use crate::tree::is_executable;

/// Files that are listed when they stand in the way.
const SHOWN: usize = 5;

/// Copy a step's result, or a file in it, to a folder.
///
/// A folder's files go to the same paths below the given folder. All of them are copied before the first one is put in
/// place; files with the same bytes stay as they are.
#[derive(Args)]
pub struct Get {
    /// The step, or a file or folder of its output: `hmd-pe/metrics.json`.
    #[arg(value_name = "STEP[/FILE]")]
    result: String,
    /// The folder to copy to; created if missing.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Replace files that have other bytes.
    #[arg(long)]
    force: bool,
}

/// A file to copy.
struct Copy {
    from: PathBuf,
    to: PathBuf,
    /// Whether a file with other bytes is there, which it replaces.
    replaces: bool,
}

impl Get {
    pub fn run(&self, global: &Global, registry: &Registry) -> Result<ExitCode, CliError> {
        let project = global.project(registry)?;
        let found = FoundResult::find(&project, &project.workspace()?, &self.result)?;
        let (mut copies, mut folders, mut same, mut differing) =
            (Vec::new(), vec![self.to.clone()], 0, Vec::new());
        let files = match found.files()? {
            Some(files) => {
                files.into_iter().map(|entry| (found.location.join(&entry.path), entry.path)).collect()
            }
            None => vec![(found.location.to_path_buf(), found.file_name().to_owned())],
        };
        for (from, path) in files {
            let to = self.to.join(&path);
            if path.ends_with('/') {
                folders.push(to);
                continue;
            }
            match state(&from, &to).map_err(failed(&to, "read"))? {
                State::Same => same += 1,
                State::Differs if !self.force => differing.push(to),
                state => copies.push(Copy { from, to, replaces: matches!(state, State::Differs) }),
            }
        }
        if !differing.is_empty() {
            return Err(refused(&differing));
        }
        folders.extend(copies.iter().filter_map(|copy| copy.to.parent().map(Path::to_owned)));
        for folder in folders {
            fs::create_dir_all(&folder).map_err(failed(&folder, "created"))?;
        }
        let copied = copy_all(&copies)?;
        if global.json {
            let copied: Vec<&PathBuf> = copied.iter().map(|copy| &copy.to).collect();
            print_json(&json!({"step": found.step, "copied": copied, "same": same}))?;
        } else {
            let kept = if same == 0 { String::new() } else { format!(", {same} were there") };
            print_err!("copied {} to {}{kept}", format::count(copies.len(), "file"), self.to.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is at the place of a copy.
enum State {
    Missing,
    Same,
    Differs,
}

fn state(from: &Path, to: &Path) -> io::Result<State> {
    let metadata = match fs::symlink_metadata(to) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Missing),
        Err(error) => return Err(error),
    };
    let original = fs::metadata(from)?;
    let is_same = metadata.is_file()
        && metadata.len() == original.len()
        && is_executable(&metadata) == is_executable(&original)
        && Digest::of_file(to)? == Digest::of_file(from)?;
    Ok(if is_same { State::Same } else { State::Differs })
}

/// Copies all files, then puts each in its place. A copy that fails leaves everything as it was.
fn copy_all(copies: &[Copy]) -> Result<&[Copy], CliError> {
    let new = copies.iter().map(|copy| new_copy(copy).map_err(failed(&copy.to, "written")));
    let new = new.collect::<Result<Vec<TempPath>, _>>()?;
    for (new, copy) in new.into_iter().zip(copies) {
        // What appeared there meanwhile is not overwritten either.
        let placed = if copy.replaces { new.persist(&copy.to) } else { new.persist_noclobber(&copy.to) };
        placed.map_err(|error| failed(&copy.to, "written")(error.error))?;
    }
    Ok(copies)
}

/// A copy next to its place, with the modes of any new file: results are read-only, a copy is a person's to edit.
fn new_copy(copy: &Copy) -> io::Result<TempPath> {
    let mode = if is_executable(&fs::metadata(&copy.from)?) { 0o777 } else { 0o666 };
    let folder = copy.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    // The kernel copies from file to file, or clones if it can.
    io::copy(&mut File::open(&copy.from)?, new.as_file_mut())?;
    Ok(new.into_temp_path())
}

fn refused(differing: &[PathBuf]) -> CliError {
    let shown: Vec<String> = differing.iter().take(SHOWN).map(|path| path.display().to_string()).collect();
    let more = match differing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let verb = if differing.len() == 1 { "has" } else { "have" };
    CliError::Usage {
        message: format!("{}{more} {verb} other content; nothing was copied", shown.join(", ")),
        hint: Some("choose another folder, or replace them with --force".to_owned()),
    }
}

fn failed<'a>(path: &'a Path, act: &'a str) -> impl FnOnce(io::Error) -> CliError + 'a {
    move |error| CliError::Result {
        message: format!("{}: cannot be {act}: {error}", path.display()),
        hint: None,
    }
}
