//! Guards `VERSION`: a stage whose output changes for the same params and inputs must say so, or results that are
//! kept under its old version would pass for new ones. Every stage of the registry runs on a small fixture made by
//! the stages before it, and what it wrote is compared with the digests kept in `kept/<case>-<version>.json`: bit for bit,
//! for every CPU computes the same (docs/trust.md).
//!
//! A case is an entry of [`cases::CASES`]. After raising a VERSION, or adding a case, look at what changed and
//! keep the new output with
//!
//! ```text
//! GOLDEN=write cargo test --release --workspace --test golden
//! ```
//!
//! which writes what is new and nothing else: output that changed under an unchanged VERSION stays an error.

mod cases;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stage_api::testing::run_stage;

use cases::{CASES, Case};
use summary::Part;

const HOW: &str = "`GOLDEN=write cargo test --release --workspace --test golden`";

/// What a case was run on; where this differs, the kept output says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Basis {
    params: String,
    inputs: Vec<(String, String)>,
    /// The cases it reads, directly or through others, with the versions of their stages.
    above: BTreeMap<String, u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Golden {
    basis: Basis,
    parts: BTreeMap<String, Part>,
}

#[derive(Debug, PartialEq)]
enum Finding {
    Same,
    /// Something that `GOLDEN=write` may write.
    New(String),
    /// The stage wrote something else under the same version.
    Changed(Vec<String>),
    /// It differs because a case above it does.
    Follows(String),
}

#[test]
fn no_stage_changed_its_output_under_an_unchanged_version() {
    let registry = stages::registry();
    let covered: BTreeSet<&str> = CASES.iter().map(|case| case.stage).collect();
    let bare: Vec<&str> =
        registry.iter().map(|stage| stage.name()).filter(|n| !covered.contains(n)).collect();
    assert!(bare.is_empty(), "no golden test for {bare:?}: add an entry to stages/tests/golden/cases.rs");

    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kept");
    let may_write = std::env::var("GOLDEN").is_ok_and(|value| value == "write");
    let space = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let mut bases: BTreeMap<&str, (u32, Basis)> = BTreeMap::new();
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    let mut problems = Vec::new();
    for case in CASES {
        let stage = registry.get(case.stage).unwrap_or_else(|| panic!("there is no stage `{}`", case.stage));
        let basis = basis(case, &bases);
        let out = space.path().join(case.name);
        let inputs: Vec<(&str, PathBuf)> =
            case.inputs.iter().map(|(port, source)| (*port, locate(space.path(), source))).collect();
        let inputs: Vec<(&str, &Path)> = inputs.iter().map(|(port, path)| (*port, path.as_path())).collect();
        run_stage(stage, case.params, &inputs, &out)
            .map_err(|error| format!("the case `{}` failed: {error}", case.name))
            .unwrap();
        let parts = summary::of_folder(&out);
        let file = kept.join(format!("{}-{}.json", case.name, stage.version()));
        let finding = judge(case, stage.version(), &basis, &parts, &file, &changed);
        match &finding {
            Finding::Same => {}
            Finding::New(_) if may_write => {
                keep(&kept, case.name, &file, &Golden { basis: basis.clone(), parts })
            }
            Finding::New(why) => {
                problems.push(format!("{why}: look at what it writes, then keep it with {HOW}"))
            }
            Finding::Follows(above) => {
                problems.push(format!("`{}` differs because `{above}` does", case.name));
            }
            Finding::Changed(parts) => problems.push(format!(
                "`{}` writes other bytes than VERSION {} of `{}` did:\n      {}\n    \
                 Raise VERSION of `{}` or undo the change; once raised, keep the new output with {HOW}. \
                 Every CPU and number of threads gives the same bits: a difference on this machine alone is a fault",
                case.name,
                stage.version(),
                case.stage,
                parts.join("\n      "),
                case.stage
            )),
        }
        if matches!(finding, Finding::Changed(_) | Finding::Follows(_)) {
            changed.insert(case.name);
        }
        bases.insert(case.name, (stage.version(), basis));
    }
    let names: BTreeSet<String> =
        bases.iter().map(|(name, (version, _))| format!("{name}-{version}.json")).collect();
    let surplus = fs::read_dir(&kept).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    problems.extend(
        surplus
            .filter(|name| !names.contains(name))
            .map(|name| format!("kept/{name} belongs to no case: delete it")),
    );
    assert!(problems.is_empty(), "\n\n  - {}\n", problems.join("\n  - "));
}

/// A file of an earlier case's output (`case/path`), or of the project (`./path`, from its root).
fn locate(space: &Path, source: &str) -> PathBuf {
    match source.strip_prefix("./") {
        Some(path) => Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path),
        None => space.join(source),
    }
}

fn basis(case: &Case, done: &BTreeMap<&str, (u32, Basis)>) -> Basis {
    let mut above = BTreeMap::new();
    for source in case.inputs.iter().map(|(_, source)| source).filter(|source| !source.starts_with("./")) {
        let name = source.split('/').next().unwrap();
        let (version, basis) = done
            .get(name)
            .unwrap_or_else(|| panic!("`{}` reads `{name}`, which is no case before it", case.name));
        above.insert(name.to_owned(), *version);
        above.extend(basis.above.clone());
    }
    let inputs =
        case.inputs.iter().map(|(port, source)| ((*port).to_owned(), (*source).to_owned())).collect();
    Basis { params: case.params.to_owned(), inputs, above }
}

fn judge(
    case: &Case,
    version: u32,
    basis: &Basis,
    parts: &BTreeMap<String, Part>,
    file: &Path,
    changed: &BTreeSet<&str>,
) -> Finding {
    // A case above that changed silently explains what follows.
    if let Some(above) = basis.above.keys().find(|above| changed.contains(above.as_str())) {
        return Finding::Follows(above.clone());
    }
    let Ok(text) = fs::read_to_string(file) else {
        return Finding::New(format!(
            "`{}` has no kept output for VERSION {version} of `{}`",
            case.name, case.stage
        ));
    };
    let golden: Golden =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if golden.basis != *basis {
        let moved = basis.above.iter().find(|(name, version)| golden.basis.above.get(*name) != Some(version));
        return Finding::New(match moved {
            Some((name, version)) => {
                format!("the kept output of `{}` was made before VERSION {version} of `{name}`", case.name)
            }
            None => format!("the kept output of `{}` was made from other params or inputs", case.name),
        });
    }
    let differences = summary::differences(&golden.parts, parts);
    if differences.is_empty() { Finding::Same } else { Finding::Changed(differences) }
}

/// Writes the kept output of a case; those of its other versions go.
fn keep(folder: &Path, case: &str, file: &Path, golden: &Golden) {
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if stem.rsplit_once('-').is_some_and(|(name, _)| name == case) {
            fs::remove_file(path).unwrap();
        }
    }
    let mut text = String::from("{\n\"basis\": ");
    text.push_str(&serde_json::to_string(&golden.basis).unwrap());
    text.push_str(",\n\"parts\": {\n");
    // A line a part: what changed is seen in a diff.
    let lines: Vec<String> = golden
        .parts
        .iter()
        .map(|(name, part)| {
            format!("{}: {}", serde_json::to_string(name).unwrap(), serde_json::to_string(part).unwrap())
        })
        .collect();
    text.push_str(&lines.join(",\n"));
    text.push_str("\n}}\n");
    fs::write(file, text).unwrap();
}
