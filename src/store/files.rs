//! Small acts on files that the store needs whole or not at all. It knows nothing of trees and records.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes a file so that a reader sees the old content or the new one and never a part: write a new file
/// beside it, rename it into place.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    // The parent of a bare name is an empty path.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if durable {
        force(path, file.as_file())?;
    }
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
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

/// Makes what is below `folder` the store's own and read-only, whatever modes it was left with: its files, and the
/// folders in it, so that no file can be replaced. A file that has other names gives way to a copy: the other names
/// may be a person's own file. `mode` has the permissions of a new folder of the store. `folder` itself stays
/// writable, as only then may it be renamed. `seen` hears of each file and folder in it, as it is then.
///
/// # Errors
/// When something cannot be changed.
pub fn seal(folder: &Path, mode: u32, seen: &mut dyn FnMut(PathBuf, &Metadata)) -> io::Result<()> {
    open_folder(folder)?;
    for item in fs::read_dir(folder)? {
        let item = item?;
        let (path, metadata) = (item.path(), item.metadata()?);
        if metadata.is_dir() {
            seal(&path, mode, seen)?;
            close_folder(&path, mode)?;
        } else if metadata.is_file() {
            if metadata.nlink() > 1 {
                part_from_other_names(&path)?;
            }
            let readable = if metadata.mode() & 0o100 == 0 { 0o444 } else { 0o555 };
            fs::set_permissions(&path, Permissions::from_mode(readable & mode))?;
        } else {
            // What a tree cannot hold is refused when it is hashed.
            continue;
        }
        seen(path.clone(), &fs::symlink_metadata(&path)?);
    }
    Ok(())
}

/// Replaces a file by a copy of it.
fn part_from_other_names(path: &Path) -> io::Result<()> {
    let mut copy = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    io::copy(&mut File::open(path)?, copy.as_file_mut())?;
    copy.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes a folder one whose list of files nobody but root changes.
///
/// # Errors
/// When it belongs to another user.
pub fn close_folder(folder: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o555 & mode))
}

/// Lets this user do everything with a folder.
///
/// # Errors
/// When it belongs to another user.
pub fn open_folder(folder: &Path) -> io::Result<()> {
    let mode = fs::symlink_metadata(folder)?.mode();
    if mode & 0o700 == 0o700 {
        Ok(())
    } else {
        fs::set_permissions(folder, Permissions::from_mode(mode | 0o700))
    }
}

/// Forces a folder and all that is in it to the disk.
///
/// # Errors
/// When the disk does not take it.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            sync_tree(&item.path())?;
        } else {
            force(&item.path(), &File::open(item.path())?)?;
        }
    }
    sync_folder(folder)
}

/// Renames a folder, also one that nobody may write in: the system asks for that where its parent changes.
///
/// # Errors
/// As the system gives them.
pub fn rename_folder(from: &Path, to: &Path) -> io::Result<()> {
    // The system says what is wrong with it, if anything is.
    let _ = open_folder(from);
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
            open_folders(path);
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

/// Opens a folder and all folders in it, as far as they are this user's.
fn open_folders(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) && open_folder(path).is_ok() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|item| open_folders(&item.path()));
    }
}
