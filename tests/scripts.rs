//! Every script of the project answers `--help` and refuses an argument that it does not know, before it does anything else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The files below a folder that may be executed.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = item.file_type().unwrap();
        if kind.is_dir() && item.file_name() != "target" {
            found.extend(scripts(&item.path()));
        } else if kind.is_file() && item.metadata().unwrap().permissions().mode() & 0o100 != 0 {
            found.push(item.path());
        }
    }
    found
}

/// What a script prints within ten seconds.
fn answer(script: &Path, argument: &str) -> Output {
    Command::new("timeout").arg("10").arg(script).arg(argument).output().unwrap()
}

#[test]
fn scripts_answer_help_and_refuse_what_they_do_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts: Vec<PathBuf> =
        [".ci", "benches", "tests/report"].map(|folder| scripts(&root.join(folder))).concat();
    assert!(scripts.contains(&root.join(".ci/run")), "{scripts:?}");
    for script in &scripts {
        let help = answer(script, "--help");
        assert!(help.status.success() && !help.stdout.is_empty(), "{} --help: {help:?}", script.display());
        // The compiler's stand-in takes whatever the compiler takes.
        if !script.ends_with(".ci/cuda/bin/nvcc") {
            let refused = answer(script, "--frobnicate");
            assert_eq!(refused.status.code(), Some(2), "{} --frobnicate: {refused:?}", script.display());
        }
    }
}
