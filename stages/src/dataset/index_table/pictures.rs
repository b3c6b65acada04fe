//! Finds the picture that a row names, and what its file is called among the samples' pictures. It opens none.

use std::collections::HashMap;

use crate::formats::archive::{Archive, file_name};
use crate::formats::file_kind;

/// The files of an archive by the last part of their paths, with and without its ending.
pub(super) struct PictureNames<'a> {
    archive: &'a Archive,
    by_name: HashMap<&'a str, Vec<&'a str>>,
    by_stem: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> PictureNames<'a> {
    /// The files of `archive`.
    pub(super) fn new(archive: &'a Archive) -> Self {
        let (mut by_name, mut by_stem) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for path in archive.names() {
            if let Some(name) = file_name(path) {
                by_name.entry(name).or_default().push(path);
                by_stem.entry(stem(name)).or_default().push(path);
            }
        }
        Self { archive, by_name, by_stem }
    }

    /// The path in the archive of the picture that a row calls `given`, relative to `folder` if it is there, and else wherever it
    /// is; the path that it would have if it is nowhere.
    ///
    /// # Errors
    /// A path that leads out of the archive, or one that fits several files.
    pub(super) fn find(&self, folder: &str, given: &str) -> Result<String, String> {
        let given = given.trim().trim_start_matches("./");
        let shown = || file_kind::shown(given);
        let name = file_name(given).ok_or_else(|| format!("`{}` is not the name of a picture", shown()))?;
        let expected = format!("{folder}{given}");
        if self.archive.has(&expected) {
            return Ok(expected);
        }
        let is_at_end =
            |path: &str| path == given || path.strip_suffix(given).is_some_and(|start| start.ends_with('/'));
        let named = self.by_name.get(name).into_iter().flatten().filter(|path| is_at_end(path));
        let mut found: Vec<&str> = named.copied().collect();
        if found.is_empty() {
            let like = self.by_stem.get(name).into_iter().flatten();
            found = like.copied().filter(|path| is_at_end(&path[..path.len() - ending(path)])).collect();
        }
        match found[..] {
            [] => Ok(expected),
            [one] => Ok(one.to_owned()),
            [first, second, ..] => Err(format!(
                "`{}` may be {} files, such as `{}` and `{}`; give more of the path",
                shown(),
                found.len(),
                file_kind::shown(first),
                file_kind::shown(second)
            )),
        }
    }
}

fn stem(name: &str) -> &str {
    &name[..name.len() - ending(name)]
}

/// Bytes of the ending of a file's name, with its dot.
fn ending(path: &str) -> usize {
    path.rsplit('/').next().and_then(|name| name.rfind('.').map(|dot| name.len() - dot)).unwrap_or(0)
}

/// Names for the files of pictures: the last part of the path, and where several end alike the whole path with `_` for `/`.
pub(super) struct FileNames<'a>(HashMap<&'a str, usize>);

impl<'a> FileNames<'a> {
    /// For the pictures at these paths, each given once.
    pub(super) fn new(paths: impl Iterator<Item = &'a str>) -> Self {
        let mut counts = HashMap::new();
        paths.for_each(|path| *counts.entry(last(path)).or_default() += 1);
        Self(counts)
    }

    /// The name of the file of the picture at `path`.
    pub(super) fn of(&self, path: &str) -> String {
        match self.0.get(last(path)) {
            Some(0 | 1) | None => last(path).to_owned(),
            _ => path.replace('/', "_"),
        }
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
