//! Small acts on files that the store needs whole or not at all, and the modes of what it keeps. It knows nothing of
//! records.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::tree::{is_executable, is_plain};

/// Writes a file so that a reader sees the old content or the new one and never a part: write a new file
/// beside it, rename it into place.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    // The parent of a bare name is an empty path.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Who else may read or write it is what the umask says: a cache may belong to a group.
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    if durable {
        force(path, file.as_file())?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable { sync_folder(folder) } else { Ok(()) }
}

/// Reads a file, which is not waited for: a pipe in its place may never say anything.
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

/// As [`read`], of a text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
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

/// What the system lets a new file in `folder` permit: all but what the umask, or the folder, takes away.
///
/// # Errors
/// When the folder cannot be written.
pub fn allowed_mode(folder: &Path) -> io::Result<u32> {
    let file = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempfile_in(folder)?;
    Ok(file.as_file().metadata()?.permissions().mode() & 0o777)
}

/// Sets the modes of all below `folder`, whatever the program that wrote it chose: files may be read, and executed where
/// their owner might, folders read and entered, as far as `allowed` lets others; nothing may be written. `folder` itself
/// stays writable until it is where it belongs. A file that has other names gives way to a copy: the other names may be a
/// person's own file. Links and what is neither file nor folder are left.
///
/// # Errors
/// The file or folder whose mode cannot be set.
pub fn set_modes(folder: &Path, allowed: u32) -> Result<(), (PathBuf, io::Error)> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    // Without these a folder cannot be listed.
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

/// Makes a folder one in which nothing is added, replaced or removed.
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

/// Forces a folder and all below it to the disk.
///
/// # Errors
/// When a file cannot be opened or the disk does not take it.
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

/// Renames a folder, which may be sealed: to move it, the system writes in it.
///
/// # Errors
/// When it cannot be renamed.
pub fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    // Where the mode cannot be set, renaming says why it cannot be done.
    let _ = unseal(from);
    fs::rename(from, to)
}

/// Removes a folder or file with all that is in it, whatever modes its folders have; what is not there counts as
/// removed.
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

/// As [`unseal`], for all folders below it, too, as far as they are this user's.
fn unseal_all(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) && unseal(path).is_ok() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|item| unseal_all(&item.path()));
    }
}

/// The path of `relative` below `root`, if it stays there: it is plain, and no folder on the way is a link.
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
