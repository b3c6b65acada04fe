//! The project's files in a command's current directory. A command starts in a folder that holds its declared inputs
//! from the project, each at the path that it has in the project. So `import helper` of a Python script finds
//! `helper.py` if that is declared, and fails if it is not: Python looks for modules in the folder that the script is
//! really in, which is this one.
//!
//! Files up to 1 MiB are copied. Larger files and folders, which hold data, are linked; the command gets their
//! real paths. After a failure, [`undeclared`] finds what the command missed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use stage_api::{Input, Inputs};

/// The largest file that is copied, in bytes. Scripts are smaller.
const MAX_COPIED: u64 = 1 << 20;
/// How many missing files are named.
const MOST_NAMED: usize = 3;

/// Puts the inputs that are files of the project into `folder`, the current directory of a command. Returns all inputs;
/// one that is copied has the path of the copy.
///
/// # Errors
/// When a file cannot be copied or linked.
pub fn place(inputs: &Inputs, folder: &Path) -> io::Result<Inputs> {
    let mut inputs = inputs.clone();
    let mut placed: Vec<&mut Input> =
        inputs.0.iter_mut().filter(|input| input.in_project.as_deref().is_some_and(is_inside)).collect();
    let path = |input: &Input| input.in_project.clone().unwrap_or_default();
    // A folder comes before what is in it, which is there by its link.
    placed.sort_by_key(|input| path(input).components().count());
    let mut linked: Vec<PathBuf> = Vec::new();
    for input in placed {
        let path = path(input);
        if linked.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let (there, metadata) = (folder.join(&path), fs::metadata(&input.path)?);
        if let Some(parent) = there.parent() {
            fs::create_dir_all(parent)?;
        }
        if metadata.is_file() && metadata.len() <= MAX_COPIED {
            // It may be the input of two ports.
            if !there.exists() {
                fs::copy(&input.path, &there)?;
            }
            input.path = there;
        } else {
            symlink(&input.path, &there)?;
            linked.push(path);
        }
    }
    Ok(inputs)
}

/// Whether a path leads to something within the folder that it is relative to.
fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// The files and folders of `project` that the end of a failed command's log names, or misses as Python modules, and that
/// are not among its inputs, `declared`. Paths are relative to the project.
pub fn undeclared(log: &str, project: &Path, declared: &[&Path]) -> Vec<PathBuf> {
    let mut folders: Vec<&Path> = declared.iter().filter_map(|path| path.parent()).collect();
    folders.push(Path::new(""));
    let is_missing = |path: &PathBuf| {
        project.join(path).exists() && !declared.iter().any(|declared| path.starts_with(declared))
    };
    let mut found: Vec<PathBuf> = Vec::new();
    for name in missed(log) {
        let candidates = folders.iter().flat_map(|folder| name.iter().map(|name| folder.join(name)));
        if let Some(path) = candidates.into_iter().find(is_missing)
            && !found.contains(&path)
        {
            found.push(path);
        }
    }
    found.truncate(MOST_NAMED);
    found
}

/// What a log says was not found: for each thing, the paths that it may have.
fn missed(log: &str) -> Vec<Vec<PathBuf>> {
    let mut missed = Vec::new();
    for line in log.lines() {
        let quoted = |at: usize| {
            let rest = &line[at..];
            let quote = rest.chars().next().filter(|c| ['\'', '"', '‘', '`'].contains(c))?;
            let end = if quote == '‘' { '’' } else { quote };
            rest[quote.len_utf8()..].split(end).next()
        };
        if let Some((before, _)) = line.split_once("No module named ") {
            let name = quoted(before.len() + "No module named ".len()).unwrap_or_default();
            let mut parts = name.split('.').filter(|part| !part.is_empty());
            let top = parts.next().map(|top| [format!("{top}.py").into(), PathBuf::from(top)]);
            missed.extend(top.map(Vec::from));
        } else if line.contains("No such file or directory") || line.contains("cannot open") {
            let words = line.split([' ', '\'', '"', ':', '‘', '’', '`', '(', ')', ',']);
            let relative = words.filter(|word| !word.is_empty() && !word.starts_with(['/', '.']));
            missed.extend(relative.map(|word| vec![PathBuf::from(word)]));
        }
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project() -> tempfile::TempDir {
        let project = tempfile::tempdir().unwrap();
        for path in ["scripts/train.py", "scripts/helper.py", "scripts/lib/deep.py", "data/table.csv"] {
            fs::create_dir_all(project.path().join(path).parent().unwrap()).unwrap();
            fs::write(project.path().join(path), path).unwrap();
        }
        project
    }

    #[test]
    fn small_files_are_copied_and_folders_are_linked() {
        let (project, folder) = (project(), tempfile::tempdir().unwrap());
        let declared =
            ["scripts/lib/deep.py", "scripts/train.py", "scripts/lib", "scripts/train.py"].map(Path::new);
        let input = |path: &Path| Input {
            in_project: Some(path.to_owned()),
            ..Input::new("a", project.path().join(path))
        };
        let mut inputs = Inputs(declared.map(input).to_vec());
        inputs.0.push(Input::new("b", "/of/a/step"));
        let inputs = place(&inputs, folder.path()).unwrap();
        let copy = folder.path().join("scripts/train.py");
        let real = |path: &str| project.path().join(path);
        let expected = [
            real("scripts/lib/deep.py"),
            copy.clone(),
            real("scripts/lib"),
            copy.clone(),
            "/of/a/step".into(),
        ];
        assert_eq!(inputs.0.iter().map(|input| input.path.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(fs::read_to_string(&copy).unwrap(), "scripts/train.py");
        assert!(!fs::symlink_metadata(&copy).unwrap().is_symlink());
        assert_eq!(fs::read_link(folder.path().join("scripts/lib")).unwrap(), real("scripts/lib"));
        assert!(!folder.path().join("scripts/helper.py").exists());
    }

    #[test]
    fn large_files_are_linked() {
        let (project, folder) = (project(), tempfile::tempdir().unwrap());
        let large = project.path().join("data/table.csv");
        fs::File::options().write(true).open(&large).unwrap().set_len(MAX_COPIED + 1).unwrap();
        let input = Input { in_project: Some("data/table.csv".into()), ..Input::new("a", &large) };
        let inputs = place(&Inputs(vec![input]), folder.path()).unwrap();
        assert_eq!(inputs.0[0].path, large);
        assert_eq!(fs::read_link(folder.path().join("data/table.csv")).unwrap(), large);
    }

    #[test]
    fn a_missing_module_or_file_is_found_in_the_project() {
        let project = project();
        let found = |log: &str| undeclared(log, project.path(), &[Path::new("scripts/train.py")]);
        assert_eq!(found("ModuleNotFoundError: No module named 'helper'"), [Path::new("scripts/helper.py")]);
        assert_eq!(found("ModuleNotFoundError: No module named 'lib.deep'"), [Path::new("scripts/lib")]);
        assert!(found("ModuleNotFoundError: No module named 'numpy'").is_empty());
        assert_eq!(
            found("FileNotFoundError: [Errno 2] No such file or directory: 'data/table.csv'"),
            [Path::new("data/table.csv")]
        );
        assert_eq!(
            found("awk: cannot open \"data/table.csv\" (No such file or directory)"),
            [Path::new("data/table.csv")]
        );
        assert!(found("cat: scripts/train.py: No such file or directory").is_empty());
        assert!(found("No module named ").is_empty());
    }
}
