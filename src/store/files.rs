//! Small acts on files that the store needs whole or not at all. It knows nothing of trees and records.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file so that a reader sees the old content or the new one and never a part: write a new file
/// beside it, rename it into place.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if durable {
        force(path, file.as_file())?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable { sync_folder(folder) } else { Ok(()) }
}

/// Makes the names in a folder survive a power cut.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    force(folder, &File::open(folder)?)
}

/// Forces what a file or folder holds to the disk.
///
/// # Errors
/// When the disk does not take it.
pub fn force(path: &Path, file: &File) -> io::Result<()> {
    #[cfg(test)]
    FORCED.with_borrow_mut(|forced| forced.push(path.to_owned()));
    let _ = path;
    file.sync_all()
}

#[cfg(test)]
thread_local! {
    /// What was forced to the disk by this thread, in that order.
    pub(super) static FORCED: std::cell::RefCell<Vec<std::path::PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Makes everything on the file system of `folder` survive a power cut. For many small files that is one wait for
/// the disk instead of a wait for each.
///
/// # Errors
/// When the folder cannot be opened or the disk does not take it.
pub fn sync_all_of(folder: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        Ok(rustix::fs::syncfs(File::open(folder)?)?)
    }
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        sync_folder(folder)
    }
}

/// Makes every file below `folder` read-only, and survive a power cut where `durable`. Folders stay writable:
/// deleting a tree must stay possible.
///
/// # Errors
/// When a file cannot be changed or synced.
pub fn seal(folder: &Path, durable: bool) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let path = item.path();
        if item.file_type()?.is_dir() {
            seal(&path, durable)?;
            continue;
        }
        if durable {
            force(&path, &File::open(&path)?)?;
        }
        let mut permissions: Permissions = item.metadata()?.permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions)?;
    }
    if durable { sync_folder(folder) } else { Ok(()) }
}

/// Removes a folder or file with all that is in it; what is not there counts as removed.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
