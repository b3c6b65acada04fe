//! A checkpoint out of the archive it was published in. It does not know what it is of.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use stage_api::{Job, StageError};

use super::checkpoint::is_checkpoint;
use crate::formats::{file_kind, tar_members};
use crate::host::disk_space;

/// How many times larger than its archive a checkpoint may be: gzip takes a tenth off weights.
const MAX_RATIO: u64 = 200;
/// A checkpoint below this many bytes may have any ratio.
const HARMLESS: u64 = 64 << 20;

/// The checkpoint: `archive` itself, or unpacked from it into scratch when it is a compressed tar.
pub(super) fn unpacked(archive: &Path, job: &Job) -> Result<PathBuf, StageError> {
    let refuse = |problem: String| StageError::input("archive", archive, problem);
    let head = file_kind::head(archive).map_err(|error| refuse(error.to_string()))?;
    if !head.starts_with(&[0x1f, 0x8b]) {
        return Ok(archive.to_owned());
    }
    let file = File::open(archive).map_err(|error| refuse(error.to_string()))?;
    let max_bytes = file.metadata()?.len().saturating_mul(MAX_RATIO).max(HARMLESS);
    let mut tar = tar::Archive::new(MultiGzDecoder::new(BufReader::new(file)));
    let mut found: Option<(String, PathBuf)> = None;
    for member in tar_members::members(&mut tar).map_err(refuse)? {
        job.check_cancelled()?;
        let mut member = member.map_err(refuse)?;
        let name = member.shown();
        if !member.kind.is_file() || !is_checkpoint(Path::new(&*String::from_utf8_lossy(&member.path))) {
            continue;
        }
        if let Some((other, _)) = &found {
            let problem = format!("holds several checkpoints, `{other}` and `{name}`");
            return Err(refuse(format!(
                "{problem}; let an `unpack` step stand before this one, and name one"
            )));
        }
        if member.size > max_bytes {
            return Err(refuse(format!(
                "`{name}` has {} bytes, more than {MAX_RATIO} times its archive",
                member.size
            )));
        }
        disk_space::check(job.scratch, member.size)?;
        let ending = if name.ends_with(".safetensors") { "safetensors" } else { "pth" };
        let target = job.scratch.join("checkpoint").with_extension(ending);
        let copied = std::io::copy(&mut member.content, &mut File::create(&target)?);
        let copied = copied.map_err(|error| refuse(tar_members::broken(&error)))?;
        if copied != member.size {
            return Err(refuse(format!("ends within `{name}`: it was cut short")));
        }
        found = Some((name, target));
    }
    tar_members::check_end(tar.into_inner()).map_err(refuse)?;
    match found {
        Some((_, target)) => Ok(target),
        None => Err(refuse("the archive holds no .pth, .ckpt, .pt or .safetensors file".to_owned())),
    }
}
