//! File operations that succeed as a whole or change nothing, and the modes of stored files. It does not know
//! records.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::tree::{is_executable, is_plain};

/// Writes a file so that a reader sees the old or the new content, never a part: it writes a new file in the same
/// folder and renames it.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    // The parent of a bare name is an empty path.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The umask decides who else may read or write it: a cache may belong to a group.
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    if durable {
        force(path, file.as_file())?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable { sync_folder(folder) } else { Ok(()) }
}

/// Reads a regular file. A pipe in its place is an error, because reading it may block forever.
///
/// # Errors
/// When it is not a regular file, or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Like [`read`], for text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Syncs the names in a folder, so that they survive a power cut.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    force(folder, &File::open(folder)?)
}

/// Syncs the content of a file or folder.
///
/// # Errors
/// When it cannot be synced.
pub fn force(path: &Path, file: &File) -> io::Result<()> {
    #[cfg(test)]
    FORCED.with_borrow_mut(|forced| forced.push(path.to_owned()));
    let _ = path;
    file.sync_all()
}

#[cfg(test)]
thread_local! {
    /// The paths that this thread has synced, in order.
    pub(super) static FORCED: std::cell::RefCell<Vec<std::path::PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Syncs the whole file system of `folder`. For many small files, this is one wait for the disk instead of one per
/// file.
///
/// # Errors
/// When the folder cannot be opened or synced.
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

/// The modes that the system allows for a new file in `folder`: all bits except those that the umask or the folder
/// removes.
///
/// # Errors
/// When the folder cannot be written.
pub fn allowed_mode(folder: &Path) -> io::Result<u32> {
    let file = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempfile_in(folder)?;
    Ok(file.as_file().metadata()?.permissions().mode() & 0o777)
}

/// Sets the modes of everything below `folder`, whatever its program chose. Files become readable, and executable if
/// their owner could execute them. Folders become readable and searchable. Nothing stays writable, and `allowed`
/// limits access by others.
///
/// `folder` itself stays writable until it is moved into place. A file with several names is replaced by a copy,
/// because another name may be a person's own file. Links and special files are skipped.
///
/// # Errors
/// The file or folder whose mode cannot be set.
pub fn set_modes(folder: &Path, allowed: u32) -> Result<(), (PathBuf, io::Error)> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    // A folder cannot be listed without these bits.
    let metadata = fs::symlink_metadata(folder).map_err(failed(folder))?;
    set_mode(folder, &metadata, 0o755 & allowed | 0o700).map_err(failed(folder))?;
    for item in fs::read_dir(folder).map_err(failed(folder))? {
        let item = item.map_err(failed(folder))?;
        let path = item.path();
        let metadata = item.metadata().map_err(failed(&path))?;
        if metadata.is_dir() {
            set_modes(&path, allowed)?;
            seal_folder(&path, allowed).map_err(failed(&path))?;
        } else if metadata.is_file() {
            let mode =
                if is_executable(&metadata) { 0o555 & allowed | 0o500 } else { 0o444 & allowed | 0o400 };
            if metadata.nlink() > 1 {
                part_from_other_names(&path).map_err(failed(&path))?;
                fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed(&path))?;
            } else {
                set_mode(&path, &metadata, mode).map_err(failed(&path))?;
            }
        }
    }
    Ok(())
}

/// Replaces a file by a copy of it.
fn part_from_other_names(path: &Path) -> io::Result<()> {
    let mut copy = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    io::copy(&mut File::open(path)?, copy.as_file_mut())?;
    copy.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes a folder read-only.
///
/// # Errors
/// When its mode cannot be set.
pub fn seal_folder(folder: &Path, allowed: u32) -> io::Result<()> {
    set_mode(folder, &fs::symlink_metadata(folder)?, 0o555 & allowed | 0o500)
}

fn set_mode(path: &Path, metadata: &Metadata, mode: u32) -> io::Result<()> {
    if metadata.permissions().mode() & 0o7777 == mode {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Syncs a folder and everything below it.
///
/// # Errors
/// When a file cannot be opened or synced.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let path = item.path();
        if item.file_type()?.is_dir() {
            sync_tree(&path)?;
        } else {
            force(&path, &File::open(&path)?)?;
        }
    }
    sync_folder(folder)
}

/// Renames a folder, which may be read-only: a move to another parent writes to the folder itself.
///
/// # Errors
/// When it cannot be renamed.
pub fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    // If the mode cannot be set, the error of the rename gives the reason.
    let _ = unseal(from);
    fs::rename(from, to)
}

/// Removes a file, or a folder with everything in it, whatever the modes. A missing path is not an error.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match remove_as_it_is(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unseal_all(path);
            remove_as_it_is(path)
        }
        other => other,
    }
}

fn remove_as_it_is(path: &Path) -> io::Result<()> {
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

/// Lets the owner of a folder list it and write in it.
fn unseal(folder: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(folder)?;
    set_mode(folder, &metadata, metadata.permissions().mode() & 0o7777 | 0o700)
}

/// Like [`unseal`], and for all folders of this user below it.
fn unseal_all(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) && unseal(path).is_ok() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|item| unseal_all(&item.path()));
    }
}

/// The path of `relative` below `root`; `None` if `relative` is not plain or a folder on the way is a link.
pub fn path_below(root: &Path, relative: &Path) -> Option<PathBuf> {
    if !is_plain(relative) {
        return None;
    }
    let mut path = root.to_owned();
    for part in relative.parent()?.components() {
        path.push(part);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_dir()) {
            return None;
        }
    }
    Some(root.join(relative))
}
