//! What an archive may call its files. A name is taken as it is or refused, never mended: a mended name could be that of
//! another file.
//!
//! Two names count as one when they differ in nothing but letter case or in how Unicode composes a letter: on some
//! systems they are the same file, and then the archive would not be the same everywhere.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

/// The longest name of a file or folder that file systems take, in bytes.
const LONGEST_PART: usize = 255;
/// The longest path.
const LONGEST: usize = 1024;
/// The deepest path.
const DEEPEST: usize = 32;
/// Old zips say nothing of what their names are in, so a name cannot be read where it is not UTF-8.
const NOT_UTF8: &str =
    "is not UTF-8, nor does the archive say what it is (GBK, CP437, …); pack it again with UTF-8 names";
/// All names together, so that they fit into memory.
const ALL_NAMES: usize = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Link,
    Folder,
}

/// The names of an archive so far.
#[derive(Debug, Default)]
pub struct Names {
    /// By folded path: the path as spelt, and what it is.
    known: HashMap<String, (String, Kind)>,
    bytes: usize,
}

impl Names {
    /// Checks and takes the name of a file.
    ///
    /// # Errors
    /// A sentence that names it and says what is wrong with it.
    pub fn file(&mut self, raw: &[u8]) -> Result<String, String> {
        self.add(raw, Kind::File)?.ok_or_else(|| "holds a file without a name".to_owned())
    }

    /// Checks and takes the name of a link.
    ///
    /// # Errors
    /// As for a file.
    pub fn link(&mut self, raw: &[u8]) -> Result<String, String> {
        self.add(raw, Kind::Link)?.ok_or_else(|| "holds a link without a name".to_owned())
    }

    /// Checks and takes the name of a folder; `None` for the archive's own folder, `./`.
    ///
    /// # Errors
    /// As for a file.
    pub fn folder(&mut self, raw: &[u8]) -> Result<Option<String>, String> {
        self.add(raw, Kind::Folder)
    }

    /// Whether this is the path of a file, as spelt in the archive.
    pub fn is_file(&self, path: &str) -> bool {
        self.known.get(&folded(path)).is_some_and(|(spelt, kind)| spelt == path && *kind == Kind::File)
    }

    fn add(&mut self, raw: &[u8], kind: Kind) -> Result<Option<String>, String> {
        let path = plain_path(raw, kind == Kind::Folder)?;
        if path.is_empty() {
            return if kind == Kind::Folder { Ok(None) } else { Err(refused(raw, "names no file")) };
        }
        // The folders above it are there by implication.
        for (at, _) in path.match_indices('/') {
            self.enter(&path[..at], Kind::Folder)?;
        }
        self.enter(&path, kind)?;
        Ok(Some(path))
    }

    fn enter(&mut self, path: &str, kind: Kind) -> Result<(), String> {
        let key = folded(path);
        match self.known.get(&key) {
            Some((spelt, Kind::Folder)) if kind == Kind::Folder && spelt == path => Ok(()),
            Some((spelt, _)) if spelt == path => Err(format!("holds `{}` twice", shown(path))),
            Some((spelt, _)) => Err(format!(
                "holds `{}` and `{}`, which are one name on some systems",
                shown(spelt),
                shown(path)
            )),
            None => {
                self.bytes += key.len() + path.len();
                if self.bytes > ALL_NAMES {
                    return Err("holds more names than fit into memory: a trap".to_owned());
                }
                self.known.insert(key, (path.to_owned(), kind));
                Ok(())
            }
        }
    }
}

/// A relative path of plain parts with single `/` between them; empty for the archive's own folder.
fn plain_path(raw: &[u8], is_folder: bool) -> Result<String, String> {
    let Ok(name) = std::str::from_utf8(raw) else { return Err(refused(raw, NOT_UTF8)) };
    if name.len() > LONGEST {
        return Err(refused(raw, "is too long"));
    }
    if name.starts_with('/') {
        return Err(refused(raw, "is an absolute path"));
    }
    if name.contains(['\\', ':']) || name.chars().any(char::is_control) {
        return Err(refused(raw, "holds `\\`, `:` or a control character, which systems read differently"));
    }
    let name = if is_folder { name.strip_suffix('/').unwrap_or(name) } else { name };
    let mut parts = Vec::new();
    for (number, part) in name.split('/').enumerate() {
        match part {
            // `./a` is how `tar` writes `a`.
            "." if number == 0 => {}
            "." | "" if number > 0 || name.contains('/') => return Err(refused(raw, "holds an empty part")),
            ".." => return Err(refused(raw, "leads out of the archive")),
            part if part.len() > LONGEST_PART => return Err(refused(raw, "is too long")),
            "" => {}
            part => parts.push(part),
        }
    }
    if parts.len() > DEEPEST {
        return Err(refused(raw, "is too deep"));
    }
    Ok(parts.join("/"))
}

/// Where a symbolic link within the folder of `name` leads, as a path of the archive.
///
/// # Errors
/// A target that leads out of the archive.
pub fn resolve(name: &str, target: &[u8]) -> Result<String, String> {
    let out = || format!("`{}` is a link that leads out of the archive", shown(name));
    let target = std::str::from_utf8(target).map_err(|_| out())?;
    if target.starts_with('/') || target.contains(['\\', ':', '\0']) {
        return Err(out());
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(out)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The path of a hard link's target.
///
/// # Errors
/// A target that is no plain path.
pub fn plain_target(raw: &[u8]) -> Result<String, String> {
    plain_path(raw, false)
}

fn folded(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    // Case first: folding may produce characters that compose again.
    path.nfc().collect::<String>().to_lowercase().nfc().collect()
}

fn refused(raw: &[u8], why: &str) -> String {
    format!("holds `{}`, a name that {why}", shown(&String::from_utf8_lossy(raw)))
}

/// A name as it may stand in a message: no control characters, not too long.
fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_default).collect();
    if name.chars().count() > 80 {
        text.push('…');
    }
    text
}
