//! The clean evaluation: what drawn steps write, computed by the test and not by the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::drawn::{Drawn, FOLDER, Leaves, NAMES, Place, Work};

/// What the files of the project hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The single files, then the first file of the folder.
    pub texts: [u8; FOLDER + 1],
    /// The second file of the folder.
    pub second: Option<u8>,
}

impl Files {
    /// The bytes of a file, or of all files of the folder one after the other.
    fn bytes(&self, file: usize) -> Vec<u8> {
        let second = self.second.filter(|_| file == FOLDER);
        [self.texts[file]].into_iter().chain(second).map(letter).collect()
    }
}

/// What a file holds.
pub fn letter(text: u8) -> u8 {
    b'a' + text
}

/// A file or a folder of an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File { bytes: Vec<u8>, runs: bool },
    Folder(Tree),
}

/// A folder's content.
pub type Tree = BTreeMap<OsString, Node>;

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Leaves(Tree),
    /// It fails, its output is not valid, or a step that it reads failed.
    Fails,
}

/// The existing inputs of a step: numbers of steps, and whether only their `text` is read.
pub fn reads(drawn: &[Drawn], number: usize) -> BTreeSet<(usize, bool)> {
    let is_there = |(read, _): &(usize, bool)| *read < number && drawn[*read].present;
    drawn[number].reads.iter().copied().filter(is_there).collect()
}

/// The numbers of a step and of all that it needs; without a target, all steps.
pub fn needed(drawn: &[Drawn], target: Option<usize>) -> BTreeSet<usize> {
    let mut needed: BTreeSet<usize> = (0..drawn.len()).filter(|number| drawn[*number].present).collect();
    if let Some(target) = target.filter(|target| needed.contains(target)) {
        needed = BTreeSet::from([target]);
        for number in (0..=target).rev().filter(|number| drawn[*number].present) {
            if needed.contains(&number) {
                needed.extend(reads(drawn, number).into_iter().map(|(read, _)| read));
            }
        }
    }
    needed
}

/// The outcome of each step of the pipeline.
pub fn evaluate(drawn: &[Drawn], files: &Files) -> BTreeMap<usize, Outcome> {
    let mut outcomes = BTreeMap::new();
    for number in (0..drawn.len()).filter(|number| drawn[*number].present) {
        let outcome = step(drawn, number, files, &outcomes).map_or(Outcome::Fails, Outcome::Leaves);
        outcomes.insert(number, outcome);
    }
    outcomes
}

fn step(drawn: &[Drawn], number: usize, files: &Files, above: &BTreeMap<usize, Outcome>) -> Option<Tree> {
    let step = &drawn[number];
    let read: Vec<(&Tree, bool)> = reads(drawn, number)
        .into_iter()
        .map(|(read, part)| match &above[&read] {
            Outcome::Leaves(tree) => Some((tree, part)),
            Outcome::Fails => None,
        })
        .collect::<Option<_>>()?;
    if step.fails {
        return None;
    }
    match step.work {
        Work::Command(leaves) => command(step, leaves, &read, files),
        work => Some(toy(work, step, &read, files)),
    }
}

fn text(bytes: Vec<u8>) -> Node {
    Node::File { bytes, runs: false }
}

fn text_of(tree: &Tree) -> &[u8] {
    match &tree[&OsString::from("text")] {
        Node::File { bytes, .. } => bytes,
        Node::Folder(_) => unreachable!("`text` is a file"),
    }
}

/// The names of the folder's files.
pub const IN_FOLDER: [&str; 2] = ["first", "second"];

/// The output of the toy stages `join` and `head`; see toy.rs.
fn toy(work: Work, step: &Drawn, read: &[(&Tree, bool)], files: &Files) -> Tree {
    let mut parts: Vec<Vec<u8>> =
        read.iter().map(|(tree, part)| if *part { text_of(tree).to_owned() } else { joined(tree) }).collect();
    parts.extend(step.file.map(|file| match file {
        FOLDER => {
            let second = files.second.map(|second| (1, second));
            let named = [(0, files.texts[FOLDER])].into_iter().chain(second);
            named
                .flat_map(|(name, text)| {
                    format!("{}={} ", IN_FOLDER[name], char::from(letter(text))).into_bytes()
                })
                .collect()
        }
        file => files.bytes(file),
    }));
    // `head` needs an input.
    if work == Work::Head && !parts.is_empty() {
        let first = |part: &Vec<u8>| -> String {
            String::from_utf8_lossy(part).chars().take(usize::from(step.param)).collect()
        };
        let head: String = parts.iter().map(first).collect();
        return Tree::from([("text".into(), text(head.into_bytes()))]);
    }
    let mut joined = step.param.to_string().into_bytes();
    let mut folder = Tree::new();
    for (number, part) in parts.into_iter().enumerate() {
        joined = [&joined, b"(".as_slice(), &part, b")"].concat();
        folder.insert(number.to_string().into(), text(part));
    }
    let parts = (!folder.is_empty()).then(|| ("parts".into(), Node::Folder(folder)));
    [("text".into(), text(joined))].into_iter().chain(parts).collect()
}

/// A tree as the toy stages read it.
fn joined(tree: &Tree) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, node) in tree {
        let inner = match node {
            Node::File { bytes, .. } => bytes.clone(),
            Node::Folder(tree) => joined(tree),
        };
        all.extend([name.to_string_lossy().as_bytes(), b"=", &inner, b" "].concat());
    }
    all
}

/// The output of the shell line of [`super::script`].
fn command(step: &Drawn, leaves: Leaves, read: &[(&Tree, bool)], files: &Files) -> Option<Tree> {
    let mut written = step.param.to_string().into_bytes();
    read.iter().for_each(|(tree, _)| written.extend(text_of(tree)));
    written.extend(step.file.map(|file| files.bytes(file)).unwrap_or_default());
    let has_tool =
        |tree: &Tree| matches!(tree.get(&OsString::from("tool")), Some(Node::File { runs: true, .. }));
    let tools = read.iter().filter(|(tree, part)| !part && has_tool(tree)).count();
    written.extend(vec![b'X'; tools]);
    let mut tree = Tree::new();
    match leaves {
        Leaves::Nothing => {}
        Leaves::Private => drop(tree.insert("private".into(), text(b"p".to_vec()))),
        Leaves::ClosedFolder => {
            let inner = Tree::from([("inner".into(), text(b"c".to_vec()))]);
            tree.insert("closed".into(), Node::Folder(inner));
        }
        Leaves::EmptyFolder => drop(tree.insert("empty".into(), Node::Folder(Tree::new()))),
        Leaves::Tool => drop(tree.insert("tool".into(), Node::File { bytes: b"t".to_vec(), runs: true })),
        Leaves::Name(name) if is_refused_name(NAMES[name]) => return None,
        Leaves::Name(name) => {
            drop(tree.insert(OsString::from_vec(NAMES[name].to_vec()), text(b"n".to_vec())))
        }
        Leaves::Link | Leaves::LinkInstead => return None,
        Leaves::HardLink => {
            let linked = step.file.filter(|file| *file < FOLDER).map(|file| files.bytes(file));
            tree.insert("hard".into(), text(linked.unwrap_or_else(|| written.clone())));
        }
    }
    tree.insert("text".into(), text(written));
    Some(tree)
}

/// Whether an output must not have a file of this name.
fn is_refused_name(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_err()
}

/// Where a step publishes.
pub fn place(number: usize, place: Place) -> String {
    match place {
        Place::Own => number.to_string(),
        Place::Moved => format!("moved/{number}"),
        Place::Below(other) => format!("{other}/text"),
    }
}

/// Whether one of these steps hard-links a file of the project.
pub fn links_project(drawn: &[Drawn], needed: &BTreeSet<usize>) -> bool {
    needed.iter().map(|number| &drawn[*number]).any(|step| {
        step.work == Work::Command(Leaves::HardLink) && step.file.is_some_and(|file| file < FOLDER)
    })
}

/// Whether a pipeline is invalid: a step publishes into a folder within that of another one.
pub fn is_refused_pipeline(drawn: &[Drawn]) -> bool {
    let publishing = drawn.iter().enumerate().filter(|(_, step)| step.present);
    let places: Vec<PathBuf> =
        publishing.filter_map(|(number, step)| Some(place(number, step.publishes?).into())).collect();
    places.iter().any(|place| places.iter().any(|other| other != place && other.starts_with(place)))
}

/// The reports of these steps, which all succeed; `None` if two of them conflict.
pub fn reports(
    drawn: &[Drawn],
    outcomes: &BTreeMap<usize, Outcome>,
    needed: &BTreeSet<usize>,
) -> Option<BTreeMap<PathBuf, Vec<u8>>> {
    let mut reports = BTreeMap::new();
    for number in needed {
        if let (Some(to), Outcome::Leaves(tree)) = (drawn[*number].publishes, &outcomes[number]) {
            for (path, bytes) in files_of(tree) {
                if reports.insert(PathBuf::from(place(*number, to)).join(path), bytes).is_some() {
                    return None;
                }
            }
        }
    }
    let is_clear = |path: &PathBuf| path.ancestors().skip(1).all(|folder| !reports.contains_key(folder));
    reports.keys().all(is_clear).then_some(reports)
}

fn files_of(tree: &Tree) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for (name, node) in tree {
        match node {
            Node::File { bytes, .. } => files.push((PathBuf::from(name), bytes.clone())),
            Node::Folder(inner) => {
                files.extend(
                    files_of(inner).into_iter().map(|(path, bytes)| (PathBuf::from(name).join(path), bytes)),
                );
            }
        }
    }
    files
}
