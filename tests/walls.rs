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

/// The rooms of `stages/src`, the lowest first, and what each may name of the others. A room has every arrow that it needs and
/// no other; none points up.
const ROOMS: [(&str, &[&str]); 12] = [
    // Bytes of other programs' files.
    ("formats", &[]),
    ("metrics", &[]),
    ("nn", &[]),
    // The kernels that a CPU has are those of the layers.
    ("host", &["nn"]),
    // Metrics travel with their intervals.
    ("artifacts", &["formats", "metrics"]),
    // A detector reads decoded pictures.
    ("models", &["formats", "nn"]),
    // `stand-in` writes checkpoints with random weights.
    ("acquire", &["artifacts", "formats", "host", "models", "nn"]),
    ("dataset", &["artifacts", "formats"]),
    ("regions", &["artifacts", "formats", "host", "models", "nn"]),
    ("training", &["artifacts", "formats", "host", "metrics", "models", "nn"]),
    // Names of models, and the parameters that they have.
    ("reports", &["artifacts", "formats", "metrics", "models"]),
    // A finished run is found as `predict` finds it; a model card has the intervals of metrics.
    ("export", &["artifacts", "formats", "host", "metrics", "models", "nn", "training"]),
];

/// The sources of one room, up to their tests: a test may lead data through several stages.
fn room(name: &str) -> Vec<(PathBuf, String)> {
    let mut found = sources(&format!("stages/src/{name}"));
    found.retain(|(path, _)| !path.ends_with("tests.rs"));
    for (_, text) in &mut found {
        text.truncate(text.find("mod tests {").unwrap_or(text.len()));
    }
    found
}

/// The identifiers that follow `prefix` in `line`.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(|(at, _)| {
        let name = &line[at + prefix.len()..];
        let end = name.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric());
        &name[..end.unwrap_or(name.len())]
    })
}

#[test]
fn rooms_of_the_stages_use_those_below_them_as_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src");
    let entries = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name());
    let entries: BTreeSet<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    let listed = ROOMS.iter().map(|(room, _)| (*room).to_owned()).chain(["lib.rs".to_owned()]);
    assert_eq!(entries, listed.collect(), "what is in stages/src");
    for (at, (name, uses)) in ROOMS.iter().enumerate() {
        let mut used = BTreeSet::new();
        for (path, text) in room(name) {
            for (number, line) in code(&text) {
                let place = format!("{}:{number}\n{line}", path.display());
                assert!(!line.contains("crate::{"), "one `use` for each room: {place}");
                for other in names_after(line, "crate::").filter(|other| other != name) {
                    // `predict` runs stages again, for texts and pictures that are in no step.
                    let is_registry = other == "registry" && path.ends_with("training/predict/user_memes.rs");
                    assert!(is_registry || uses.contains(&other), "`{name}` may not name `{other}`: {place}");
                    used.extend((!is_registry).then(|| other.to_owned()));
                }
            }
        }
        let uses: BTreeSet<String> = uses.iter().map(|&other| other.to_owned()).collect();
        assert_eq!(used, uses, "the arrows of `{name}`");
        let below: BTreeSet<String> = ROOMS[..at].iter().map(|(room, _)| (*room).to_owned()).collect();
        assert!(uses.is_subset(&below), "an arrow of `{name}` points up");
    }
}

#[test]
fn stages_meet_only_through_artifacts() {
    let mut all = 0;
    for (name, _) in ROOMS {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("stages/src").join(name);
        let sources = room(name);
        let module = |path: &Path| {
            let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
            Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
        };
        // A module that holds a stage; the others are there to be shared.
        let stages: BTreeSet<String> = sources
            .iter()
            .filter(|(_, text)| code(text).any(|(_, line)| line.contains("Stage for ")))
            .map(|(path, _)| module(path))
            .collect();
        all += stages.len();
        for (path, text) in &sources {
            let (own, own_room) = (module(path), format!("crate::{name}::"));
            for (number, line) in code(text) {
                let named = names_after(line, "super::").chain(names_after(line, &own_room));
                for other in named.filter(|other| *other != own) {
                    let place = format!("{}:{number}\n{line}", path.display());
                    assert!(!stages.contains(other), "names the stage `{other}`: {place}");
                }
            }
        }
    }
    assert!(all > 20, "{all} stages are recognised");
}

#[test]
fn models_know_no_files() {
    refuse(&room("models"), &["std::fs", "File::open"], "a model knows no files");
}

#[test]
fn stages_take_nothing_from_their_surroundings() {
    let mut stages = sources("stages/src");
    // No result depends on which instructions compute it, so a variable may choose them.
    stages.retain(|(path, _)| !path.ends_with("tests.rs") && !path.ends_with("nn/cpu/instruction_set.rs"));
    let words = ["env::var", "current_dir(", "rand::rng(", "thread_rng", "from_os_rng", "SystemTime::now"];
    refuse(&stages, &words, "all that a stage reads comes in by params and inputs");
}

/// The files that hold `unsafe`: maps of files, system calls, products of matrices, memory that is not zeroed,
/// the allocator, a GPU's kernel.
const UNSAFE: [&str; 17] = [
    "src/sandbox/watch.rs",
    "stages/src/formats/mapped_file.rs",
    "stages/src/models/faster_rcnn/tests.rs",
    "stages/src/nn/allocator.rs",
    "stages/src/nn/cpu/instruction_set.rs",
    "stages/src/nn/cpu/maps.rs",
    "stages/src/nn/cpu/parallel.rs",
    "stages/src/nn/cpu_tensor.rs",
    "stages/src/nn/gemm/kernel.rs",
    "stages/src/nn/gemm/mod.rs",
    "stages/src/nn/gemm/pack.rs",
    "stages/src/nn/gemm/tests.rs",
    "stages/src/nn/gpu/nvidia.rs",
    "stages/src/nn/gpu/testing/on_cpu.rs",
    "stages/src/nn/gpu/tests/mod.rs",
    "stages/src/nn/grouped.rs",
    "stages/src/nn/winograd.rs",
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

/// A module's file below the root, and the first sentence of its comment.
fn modules(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<(String, String)> = sources(folder)
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tests.rs") && !is_below(path, "tests"))
        .map(|(path, text)| {
            let path = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).collect();
            let comment = comment.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
            assert!(!comment.is_empty(), "{path}: the module comment is missing");
            let sentence = comment.split(". ").next().unwrap().trim_end_matches('.');
            // A long sentence lists what is inside; its beginning names it.
            let end = sentence.match_indices([':', ';']).map(|(at, _)| at).find(|at| *at > 30);
            let end = end.filter(|_| sentence.len() > 150).unwrap_or(sentence.len());
            (path, sentence[..end].replace('|', "\\|"))
        })
        .collect();
    found.sort();
    found
}

/// `MODULES=write` renews the list.
#[test]
fn the_list_of_modules_has_every_module() {
    const BEGIN: &str = "<!-- modules: written by `MODULES=write cargo test --test walls modules` -->\n";
    const END: &str = "<!-- end of the modules -->\n";
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    let mut expected = String::new();
    for (title, folder) in
        [("the engine", "src"), ("the contract", "stages/api/src"), ("the stages", "stages/src")]
    {
        let rows = modules(folder).into_iter().map(|(path, about)| format!("| `{path}` | {about} |\n"));
        expected.push_str(&format!(
            "\n<details>\n<summary>All modules of {title}</summary>\n\n| module | what is inside |\n| --- | --- |\n{}\n</details>\n",
            rows.collect::<String>()
        ));
    }
    expected.push('\n');
    if std::env::var_os("MODULES").is_some_and(|value| value == "write") {
        fs::write(&page, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else {
        assert_eq!(listed, expected, "the modules in docs/architecture.md; MODULES=write renews them");
    }
}
