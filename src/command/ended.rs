//! Checks a command that has ended: its exit status and its outputs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use stage_api::StageError;

use super::{CommandParams, Place};

/// The error of a failed command repeats this many lines of its log.
const MAX_LOG_LINES: usize = 5;

/// Checks the exit status and the outputs of a command.
///
/// # Errors
/// When it failed, with the end of its log; when an output is missing or undeclared.
pub fn outcome_of(params: &CommandParams, place: &Place, status: ExitStatus) -> Result<(), StageError> {
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it ended with an unknown status".to_owned(),
        };
        let tail = last_lines(place.log).unwrap_or_default();
        return Err(StageError::Failed(if tail.is_empty() { how } else { format!("{how}:\n{tail}") }));
    }
    if let Some(missing) = params.outputs.iter().find(|output| !place.out.join(output).exists()) {
        return Err(StageError::Failed(format!(
            "it did not write `{missing}`, which is one of its outputs, below {{out}}"
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
                "it wrote `{}`, which is not one of its outputs; declare it, or write it outside {{out}}",
                name.display()
            )));
        }
    }
    Ok(())
}

/// The last lines of a log.
fn last_lines(log: &Path) -> io::Result<String> {
    // A step may have replaced it by a link or a pipe.
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
    let tail = &lines[lines.len().saturating_sub(MAX_LOG_LINES)..];
    Ok(tail
        .iter()
        .map(|line| format!("  {}", line.chars().take(300).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n"))
}
