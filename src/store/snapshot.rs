//! The files and folders at a path, recorded by stats alone: size, times, inode and number of names of each. If two
//! snapshots are equal, nothing was written, replaced, added, removed or renamed in between, even if the bytes are
//! equal again. It costs one stat per file.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::stat_cache::{Stamp, stamp};

/// The system follows at most this many links in a row (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// A file by device and inode, whatever its names.
pub type Inode = (u64, u64);

/// The files and folders at a path, sorted by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    role: Role,
    stamp: Stamp,
    /// When it was created, if the file system stores that.
    created: Option<SystemTime>,
    links: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Other,
}

impl Entry {
    fn inode(&self) -> Inode {
        (self.stamp.device, self.stamp.inode)
    }

    /// Whether a folder above the input is the same and was not renamed, as far as its stamp shows.
    fn is_same_above(&self, now: &Stamp) -> bool {
        let is_it = (self.stamp.device, self.stamp.inode) == (now.device, now.inode);
        // A new or removed entry sets both times. A rename of the folder sets only the change time.
        is_it && (self.stamp.changed == now.changed || now.changed == now.modified)
    }

    /// Whether it is the same file or folder under another name. The creation time counts because the system reuses
    /// inode numbers.
    fn is_same(&self, other: &Self) -> bool {
        let is_as_old = match (self.created, other.created) {
            (Some(one), Some(two)) => one == two,
            _ => (self.stamp.size, self.stamp.modified) == (other.stamp.size, other.stamp.modified),
        };
        self.inode() == other.inode() && self.kind == other.kind && is_as_old
    }
}

/// A file or folder that no longer exists.
#[derive(Debug)]
pub struct Gone<'a>(&'a Entry);

impl Gone<'_> {
    /// Its former path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its stamp, if it is a file.
    pub fn file(&self) -> Option<&Stamp> {
        (self.0.kind == Kind::File).then_some(&self.0.stamp)
    }
}

/// Which changes of a path count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Any change of its stamp.
    Read,
    /// A replacement or a rename of the folder; its other files may change.
    Above,
}

/// A difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file or folder.
    pub path: PathBuf,
    /// The change, as the end of a sentence.
    pub what: &'static str,
}

impl Snapshot {
    /// Of a folder and its content. Unreadable parts are left out.
    pub fn of_tree(root: &Path) -> Self {
        Self::of_trees([root])
    }

    /// Of several folders.
    pub fn of_trees<'a>(roots: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut found = Self::default();
        for root in roots {
            if let Ok(metadata) = fs::symlink_metadata(root) {
                found.push(root.to_owned(), Role::Read, &metadata);
                found.see_inside(root);
            }
        }
        found.sorted()
    }

    /// Of an input at `path` below `root`: the file, or the folder and its content, with the links on the way and the
    /// folders above.
    pub fn of_input(root: &Path, path: &Path) -> Self {
        let mut found = Self::default();
        found.see_way(root, path, 0);
        let full = root.join(path);
        match found.0.last() {
            Some(last) if last.path == full && last.kind == Kind::File => {}
            Some(_) => found.see_inside(&full),
            // The project folder itself.
            None => found = Self::of_tree(&full),
        }
        found.sorted()
    }

    /// Whether nothing has changed. The times of a folder show an added file, so no folder is listed.
    pub fn holds(&self) -> bool {
        self.0.iter().all(|then| {
            fs::symlink_metadata(&then.path).is_ok_and(|metadata| match then.role {
                Role::Read => then.stamp == stamp(&metadata) && then.links == metadata.nlink(),
                Role::Above => then.is_same_above(&stamp(&metadata)),
            })
        })
    }

    /// The first difference from `now`. A file may get new names and thus a new change time, if `named` accounts
    /// for all of them.
    pub fn change(&self, now: &Self, named: impl FnOnce() -> HashMap<Inode, u64>) -> Option<Change> {
        let mut names = None;
        let mut named = Some(named);
        let mut new_names = |inode: &Inode| {
            let names = names.get_or_insert_with(|| named.take().map(|named| named()).unwrap_or_default());
            names.get(inode).copied().unwrap_or_default()
        };
        let changed = |path: &Path, what| Some(Change { path: path.to_owned(), what });
        let (mut then, mut now) = (self.0.iter().peekable(), now.0.iter().peekable());
        loop {
            let (old, new) = match (then.peek(), now.peek()) {
                (None, None) => return None,
                (Some(old), None) => return changed(&old.path, GONE),
                (None, Some(new)) => return changed(&new.path, "was added"),
                (Some(old), Some(new)) if old.path < new.path => return changed(&old.path, GONE),
                (Some(old), Some(new)) if old.path > new.path => return changed(&new.path, "was added"),
                (Some(old), Some(new)) => (old, new),
            };
            if old.inode() != new.inode() {
                return changed(&old.path, "was replaced");
            }
            let has_moved = old.stamp.changed != new.stamp.changed;
            let is_written = old.stamp.size != new.stamp.size || old.stamp.modified != new.stamp.modified;
            match old.role {
                Role::Above if !old.is_same_above(&new.stamp) => return changed(&old.path, MOVED),
                Role::Above => {}
                Role::Read if is_written && old.kind == Kind::Folder => return changed(&old.path, LISTED),
                Role::Read if is_written => return changed(&old.path, "was written"),
                Role::Read if has_moved => {
                    let is_linked = new.links > old.links && new_names(&new.inode()) == new.links - old.links;
                    if !is_linked {
                        return changed(&old.path, MOVED);
                    }
                }
                Role::Read => {}
            }
            then.next();
            now.next();
        }
    }

    /// The entries that no longer exist. For a removed folder, the folder alone.
    pub fn gone(&self) -> impl Iterator<Item = Gone<'_>> {
        self.0.iter().filter_map(|entry| {
            let folder = entry.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let is_gone = fs::symlink_metadata(&entry.path).is_err() && folder.is_none_or(Path::is_dir);
            is_gone.then_some(Gone(entry))
        })
    }

    /// The path in this snapshot of a file or folder that has gone from its place.
    pub fn path_of(&self, gone: &Gone) -> Option<&Path> {
        self.0.iter().find(|entry| entry.is_same(gone.0)).map(|entry| entry.path.as_path())
    }

    /// The files of that size in this snapshot.
    pub fn files_of(&self, size: u64) -> impl Iterator<Item = &Path> {
        self.0
            .iter()
            .filter(move |entry| entry.kind == Kind::File && entry.stamp.size == size)
            .map(|entry| entry.path.as_path())
    }

    /// For each file with several names, how many of them are in this snapshot.
    pub fn names(&self) -> HashMap<Inode, u64> {
        let mut names = HashMap::new();
        for entry in self.0.iter().filter(|entry| entry.links > 1) {
            *names.entry(entry.inode()).or_default() += 1;
        }
        names
    }

    fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| (&a.path, a.role).cmp(&(&b.path, b.role)));
        self.0.dedup_by(|a, b| a.path == b.path);
        self
    }

    fn push(&mut self, path: PathBuf, role: Role, metadata: &Metadata) {
        let kind = match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => Kind::File,
            (_, true) => Kind::Folder,
            _ => Kind::Other,
        };
        let (stamp, created) = (stamp(metadata), metadata.created().ok());
        self.0.push(Entry { path, role, stamp, created, links: metadata.nlink(), kind });
    }

    /// The folders and links from `from` to `path` below it, with links followed, and the file or folder at its end.
    fn see_way(&mut self, from: &Path, path: &Path, followed: usize) {
        let mut here = from.to_owned();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            if part == Component::CurDir {
                continue;
            }
            here.push(part);
            let role = if parts.peek().is_some() { Role::Above } else { Role::Read };
            let Ok(metadata) = fs::symlink_metadata(&here) else { return };
            let is_link = metadata.is_symlink();
            self.push(here.clone(), if is_link { Role::Read } else { role }, &metadata);
            if is_link
                && followed < MAX_LINKS
                && let Ok(target) = fs::read_link(&here)
            {
                let folder = here.parent().unwrap_or(Path::new("/")).to_owned();
                let from = if target.is_absolute() { Path::new("/") } else { &folder };
                let target = target.strip_prefix("/").unwrap_or(&target);
                self.see_way(from, target, followed + 1);
            }
        }
    }

    fn see_inside(&mut self, folder: &Path) {
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, Ok(metadata)) = (item.path(), item.metadata()) else { continue };
            let is_folder = metadata.is_dir();
            self.push(path.clone(), Role::Read, &metadata);
            if is_folder {
                self.see_inside(&path);
            }
        }
    }
}

const GONE: &str = "no longer exists";
const LISTED: &str = "had an entry added, removed or renamed";
const MOVED: &str = "was moved and moved back, or its mode or links changed";
