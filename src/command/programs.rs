//! The folders in which programs are installed: those on `PATH` with their libraries. A virtual environment, conda and pyenv
//! put programs and their modules below one folder (`sys.prefix` of Python), often in the home folder.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders of libraries next to the folder of programs.
const LIBRARIES: [&str; 3] = ["lib", "lib64", "libexec"];
/// A folder that holds one of these is an environment of its own: a virtual environment, conda, pyenv and its likes.
const MARKS: [&str; 3] = ["pyvenv.cfg", "conda-meta", "shims"];

/// The folders of `program` and of those on `path`, links resolved too: an environment as a whole, else the programs and
/// their libraries. Folders that contain the home folder or one of `apart`, the files of the step, are left out.
pub fn installed(program: &Path, path: Option<&OsStr>, home: Option<&Path>, apart: &[&Path]) -> Vec<PathBuf> {
    let folders = path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
    let folders: Vec<PathBuf> = folders.chain(program.parent().map(Path::to_owned)).collect();
    // A virtual environment links to the interpreter that it was made with.
    let real = linked_programs(&folders).chain([program.to_owned()]);
    let real = real.filter_map(|program| Some(fs::canonicalize(program).ok()?.parent()?.to_owned()));
    let apart: Vec<PathBuf> =
        apart.iter().copied().chain(home).filter_map(|path| fs::canonicalize(path).ok()).collect();
    let mut installed: Vec<PathBuf> = Vec::new();
    for folder in folders.iter().cloned().chain(real) {
        let Ok(folder) = fs::canonicalize(folder) else { continue };
        let Some(prefix) = folder.parent().filter(|prefix| prefix.parent().is_some()) else { continue };
        if MARKS.iter().any(|mark| prefix.join(mark).exists()) {
            installed.push(prefix.to_owned());
        } else {
            installed.extend(LIBRARIES.iter().map(|name| prefix.join(name)).filter(|folder| folder.is_dir()));
            installed.push(folder);
        }
    }
    installed.retain(|folder| !apart.iter().any(|path| path.starts_with(folder)));
    installed.sort();
    installed.dedup_by(|inner, outer| inner.starts_with(outer));
    installed
}

/// The interpreters in folders of virtual environments.
fn linked_programs(folders: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let environments = folders
        .iter()
        .filter(|folder| folder.parent().is_some_and(|prefix| prefix.join("pyvenv.cfg").is_file()));
    environments.map(|folder| folder.join("python"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_environment_is_whole_and_else_programs_have_their_libraries() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        let project = home.join("paper");
        for folder in [
            ".pyenv/shims",
            ".pyenv/versions/3/bin",
            ".python/bin",
            ".python/lib",
            ".local/bin",
            ".local/share",
            "paper/.venv/bin",
            "paper/bin",
            "paper/data",
            "tools",
        ] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        fs::write(home.join(".python/bin/python3"), "").unwrap();
        fs::write(project.join(".venv/pyvenv.cfg"), "").unwrap();
        symlink(home.join(".python/bin/python3"), project.join(".venv/bin/python")).unwrap();
        let found = |program: &str, path: &[&str]| {
            let path = std::env::join_paths(path.iter().map(|folder| home.join(folder))).unwrap();
            let found = installed(&home.join(program), Some(&path), Some(&home), &[&project.join("data")]);
            found
                .iter()
                .map(|path| path.strip_prefix(&home).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(found(".pyenv/shims/python3", &[".local/bin", "none"]), [".local/bin", ".pyenv"]);
        assert_eq!(found("paper/.venv/bin/python", &[]), [".python/bin", ".python/lib", "paper/.venv"]);
        assert_eq!(found("paper/bin/tool", &["paper", "tools"]), ["paper/bin", "tools"]);
        assert_eq!(
            found("tools/x", &[".pyenv/shims", ".pyenv/versions/3/bin", "paper/data"]),
            [".pyenv", "tools"]
        );
    }
}
