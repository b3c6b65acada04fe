//! Whether there is room on a disk before something large is written to it.

use std::path::Path;

use stage_api::StageError;

/// What is left free for everything else.
const RESERVE: u64 = 64 << 20;

/// Refuses when the disk that `folder` is on has no room for so many bytes more.
///
/// # Errors
/// A sentence with both sizes and what to do.
pub fn check(folder: &Path, bytes: u64) -> Result<(), StageError> {
    // A file system that does not tell is written to until it refuses.
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if bytes.saturating_add(RESERVE) <= free {
        return Ok(());
    }
    Err(StageError::failed(format!(
        "{} more are needed, the disk of {} has {} free: make room, or choose another disk with --cache",
        readable(bytes),
        folder.display(),
        readable(free)
    )))
}

/// Bytes as a person reads them.
pub fn readable(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), 0).unwrap();
        let error = check(dir.path(), 1 << 60).unwrap_err().to_string();
        assert!(error.contains("1152921504.6 GB more are needed") && error.contains("--cache"), "{error}");
    }
}
