//! The walls of the house, held by reading its source: who may name whom, and who may print.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(&folder).unwrap().flatten() {
            let path = item.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has source files");
    found
}

/// The lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[track_caller]
fn refuse(sources: &[(PathBuf, String)], words: &[&str], why: &str) {
    for (path, text) in sources {
        for (number, line) in code(text) {
            for word in words {
                assert!(!line.contains(word), "{}:{number}: `{word}`: {why}\n{line}", path.display());
            }
        }
    }
}

fn is_below(path: &Path, folder: &str) -> bool {
    path.components().any(|part| part.as_os_str() == folder)
}

#[test]
fn engine_modules_know_neither_the_command_line_nor_tensors_nor_the_stages() {
    let mut engine = sources("src");
    engine.retain(|(path, _)| {
        !is_below(path, "cli") && !path.ends_with("lib.rs") && !path.ends_with("main.rs")
    });
    refuse(
        &engine,
        &["crate::cli", "candle", "stages::", "clap", "process::exit"],
        "an engine module may not name it",
    );
}

#[test]
fn only_the_shared_store_knows_a_network() {
    let mut others = sources("src");
    others.retain(|(path, _)| !is_below(path, "remote"));
    refuse(&others, &["object_store", "tokio", "reqwest", "futures_util"], "only src/remote may");
}

#[test]
fn the_command_line_does_not_know_the_stages() {
    let mut cli = sources("src");
    cli.retain(|(path, _)| is_below(path, "cli"));
    refuse(&cli, &["stages::registry", "candle"], "only main.rs links the stages");
}

#[test]
fn only_the_command_line_prints() {
    let mut quiet = [sources("src"), sources("stages/src"), sources("stages/api/src")].concat();
    // A test may show its figures.
    quiet.retain(|(path, _)| !is_below(path, "cli") && !path.ends_with("tests.rs"));
    for (_, text) in &mut quiet {
        text.truncate(text.find("mod tests {").unwrap_or(text.len()));
    }
    let words = ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!(", "io::stdout(", "io::stderr("];
    refuse(&quiet, &words, "only src/cli prints");
}

#[test]
fn planning_reads_through_the_recorder() {
    let mut planning = sources("src");
    planning.retain(|(path, _)| ["src/plan.rs", "src/workspace.rs"].iter().any(|file| path.ends_with(file)));
    assert_eq!(planning.len(), 2);
    let words = ["std::fs", "File::open", ".exists()", "metadata(", "env::var", "Command::new"];
    refuse(&planning, &words, "what is read elsewhere would be missing in the up-to-date check");
}

#[test]
fn stages_do_not_know_the_engine() {
    let stages = [sources("stages/src"), sources("stages/api/src")].concat();
    refuse(&stages, &["repro::", "extern crate repro"], "a stage knows no pipeline, no cache");
}

#[test]
fn stages_meet_only_through_artifacts() {
    let sources = sources("stages/src");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src");
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
    };
    // A module that holds a stage; the others (artifacts, models, helpers) are there to be shared.
    let stages: BTreeSet<String> = sources
        .iter()
        .filter(|(_, text)| code(text).any(|(_, line)| line.contains("impl Stage for ")))
        .map(|(path, _)| module(path))
        .collect();
    assert!(!stages.is_empty(), "stages are recognised");
    // A test may lead data through several stages.
    let is_code = |path: &Path| !path.ends_with("lib.rs") && !path.ends_with("tests.rs");
    for (path, text) in sources.iter().filter(|(path, _)| is_code(path)) {
        let own = module(path);
        for (number, line) in code(text).take_while(|(_, line)| *line != "mod tests {") {
            for other in stages.iter().filter(|other| **other != own) {
                let named =
                    line.contains(&format!("crate::{other}::")) || line.contains(&format!("crate::{other};"));
                assert!(!named, "{}:{number}: names the stage `{other}`\n{line}", path.display());
            }
        }
    }
}

/// The sources of one module of `stages` (a file or a folder), up to their tests: a test may reach further.
fn stage_module(name: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src");
    let mut found = sources("stages/src");
    found.retain(|(path, _)| path.starts_with(root.join(name)) || *path == root.join(format!("{name}.rs")));
    found.retain(|(path, _)| !path.ends_with("tests.rs"));
    for (_, text) in &mut found {
        text.truncate(text.find("mod tests {").unwrap_or(text.len()));
    }
    assert!(!found.is_empty(), "there is a module `{name}`");
    found
}

#[test]
fn layers_know_no_models_models_no_artifacts_and_artifacts_no_models() {
    for lowest in ["nn", "metrics"] {
        refuse(
            &stage_module(lowest),
            &["crate::models", "crate::artifacts"],
            "layers and metrics know neither",
        );
    }
    refuse(&stage_module("models"), &["crate::artifacts", "std::fs", "File::open"], "a model knows no files");
    refuse(&stage_module("artifacts"), &["crate::models", "crate::nn"], "what travels knows no model");
}

#[test]
fn stages_take_nothing_from_their_surroundings() {
    let mut stages = sources("stages/src");
    // No result depends on which instructions compute it, so a variable may choose them.
    stages.retain(|(path, _)| !path.ends_with("tests.rs") && !path.ends_with("nn/cpu.rs"));
    let words = ["env::var", "current_dir(", "rand::rng(", "thread_rng", "from_os_rng", "SystemTime::now"];
    refuse(&stages, &words, "all that a stage reads comes in by params and inputs");
}

/// The files that hold `unsafe`: maps of files, system calls, products of matrices, the allocator, a GPU's kernel.
const UNSAFE: [&str; 11] = [
    "src/sandbox/watch.rs",
    "stages/src/artifacts/lmdb/read.rs",
    "stages/src/artifacts/region_features/shard.rs",
    "stages/src/artifacts/token_set.rs",
    "stages/src/import_features/tsv.rs",
    "stages/src/nn/allocator.rs",
    "stages/src/nn/cpu.rs",
    "stages/src/nn/cuda/mod.rs",
    "stages/src/nn/gemm/kernel.rs",
    "stages/src/nn/gemm/mod.rs",
    "stages/src/nn/gemm/pack.rs",
];

#[test]
fn unsafe_code_stands_in_named_files_with_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut holds = BTreeSet::new();
    for (path, text) in [sources("src"), sources("stages/src"), sources("stages/api/src")].concat() {
        let mut above = "";
        for line in text.lines().map(str::trim) {
            if line.contains("allow(unsafe_code") {
                let is_told = line.contains("reason = ") || above.starts_with("//");
                assert!(is_told, "{}: `unsafe` without its reason\n{line}", path.display());
                holds.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
            above = line;
        }
    }
    // The lint `unsafe_code` refuses what is not allowed so.
    assert_eq!(holds, BTreeSet::from(UNSAFE.map(str::to_owned)), "the files that hold `unsafe`");
}
