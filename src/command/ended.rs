//! Whether a command that has ended did what it should: its exit, its outputs, and what its log says of a failure.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use stage_api::StageError;

use super::{CommandParams, Place};

/// How much of a failed command's log its error repeats.
const TOLD_LINES: usize = 5;

/// Whether a command that has ended did what it should.
///
/// # Errors
/// With the end of its log, when it failed; when an output is missing or was not declared.
pub fn outcome_of(params: &CommandParams, place: &Place, status: ExitStatus) -> Result<(), StageError> {
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it ended early".to_owned(),
        };
        let told = last_lines(place.log).unwrap_or_default();
        return Err(StageError::Failed(if told.is_empty() { how } else { format!("{how}:\n{told}") }));
    }
    if let Some(missing) = params.outputs.iter().find(|output| !place.out.join(output).exists()) {
        return Err(StageError::Failed(format!(
            "it wrote no `{missing}`, which its outputs declare; it is to write it below {{out}}"
        )));
    }
    if params.outputs.is_empty() {
        return Ok(());
    }
    for item in std::fs::read_dir(place.out)? {
        let name = PathBuf::from(item?.file_name());
        let mut declared = params.outputs.iter().chain(&params.stdout);
        if !declared.any(|output| Path::new(output).starts_with(&name)) {
            return Err(StageError::Failed(format!(
                "it wrote `{}`, which its outputs do not declare; declare it, or write it elsewhere than below {{out}}",
                name.display()
            )));
        }
    }
    Ok(())
}

/// The end of a log.
fn last_lines(log: &Path) -> io::Result<String> {
    // A step may have put something else in its place: a link, or a pipe that nobody writes to.
    if !std::fs::symlink_metadata(log)?.is_file() {
        return Ok(String::new());
    }
    let mut file = File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(2000)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let told = &lines[lines.len().saturating_sub(TOLD_LINES)..];
    Ok(told
        .iter()
        .map(|line| format!("  {}", line.chars().take(300).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n"))
}
