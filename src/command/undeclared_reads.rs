//! The undeclared reads of a command as a few lines for a person: the files of the project first, then files elsewhere, then
//! for each installed program how many of its files were read.

use std::path::{Path, PathBuf};

/// How many files a line names.
const MOST_NAMED: usize = 8;
/// How many installed programs have a line of their own.
const MOST_PROGRAMS: usize = 2;

/// The lines, at most five. `was` is what happened: `read`, or `was denied`. `programs` holds the folders of installed
/// programs, and `project` the folder of the project.
pub fn lines(was: &str, undeclared: &[PathBuf], programs: &[PathBuf], project: Option<&Path>) -> Vec<String> {
    let program_of = |path: &PathBuf| programs.iter().find(|folder| path.starts_with(folder));
    let (installed, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
        undeclared.iter().partition(|path| program_of(path).is_some());
    let inside =
        |path: &Path| project.and_then(|project| path.strip_prefix(project).ok()).map(Path::to_owned);
    let own: Vec<PathBuf> = others.iter().filter_map(|path| inside(path)).collect();
    let outside: Vec<PathBuf> = others.into_iter().filter(|path| inside(path).is_none()).cloned().collect();
    let mut lines = Vec::new();
    if !own.is_empty() {
        lines.push(format!(
            "it {was} {} of the project that {} not among its inputs: {}",
            count(own.len()),
            are(own.len()),
            names(&own)
        ));
    }
    if !outside.is_empty() {
        lines.push(format!("it {was} {} outside of the project: {}", count(outside.len()), names(&outside)));
    }
    let mut by_program: Vec<(&PathBuf, usize)> = programs
        .iter()
        .map(|folder| (folder, installed.iter().filter(|path| program_of(path) == Some(folder)).count()))
        .filter(|(_, files)| *files > 0)
        .collect();
    by_program.sort_by_key(|(_, files)| std::cmp::Reverse(*files));
    let more = by_program.split_off(by_program.len().min(MOST_PROGRAMS));
    for (folder, files) in by_program {
        lines.push(format!("it {was} {} of programs under {}", count(files), folder.display()));
    }
    if !more.is_empty() {
        let files = more.iter().map(|(_, files)| files).sum();
        lines.push(format!("it {was} {} of programs under {} other folders", count(files), more.len()));
    }
    lines
}

fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

fn are(files: usize) -> &'static str {
    if files == 1 { "is" } else { "are" }
}

fn names(paths: &[PathBuf]) -> String {
    let named = paths.iter().take(MOST_NAMED).map(|path| path.display().to_string()).collect::<Vec<_>>();
    match paths.len().saturating_sub(MOST_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_project_come_first_and_programs_are_counted() {
        let programs = ["/h/.pyenv", "/h/a", "/h/b", "/h/c"].map(PathBuf::from);
        let mut read: Vec<PathBuf> = (0..87).map(|at| format!("/h/.pyenv/lib/{at}.py").into()).collect();
        read.extend(["/h/a/1", "/h/b/1", "/h/b/2", "/h/c/1", "/data/x", "/p/helper.py"].map(PathBuf::from));
        assert_eq!(
            lines("read", &read, &programs, Some(Path::new("/p"))),
            [
                "it read 1 file of the project that is not among its inputs: helper.py",
                "it read 1 file outside of the project: /data/x",
                "it read 87 files of programs under /h/.pyenv",
                "it read 2 files of programs under /h/b",
                "it read 2 files of programs under 2 other folders",
            ]
        );
        let many: Vec<PathBuf> = (0..10).map(|at| format!("/p/{at}").into()).collect();
        assert_eq!(
            lines("was denied", &many, &[], Some(Path::new("/p"))),
            [
                "it was denied 10 files of the project that are not among its inputs: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
            ]
        );
        assert_eq!(lines("read", &[], &programs, None), [""; 0]);
    }
}
