//! The remote cache end to end, with toy stages and a real S3 server: two machines with their own caches, and all
//! kinds of failures between them. The machines are folders; the program is `examples/toy.rs`.

mod conflict;
mod damage;
mod hostile;
mod network;
mod server;
mod share;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::process::{Run, finished};
use super::support::TestSpace;
use server::Server;

/// Steps of different kinds: many small files, a deep path, a published end.
const STEPS: &str = r#"
    (name: "large", stage: "fill", params: (seed: 1, kilobytes: 50)),
    (name: "many", stage: "fill", params: (seed: 2, kilobytes: 1, files: 40)),
    (name: "left", stage: "join", params: (text: "l"), inputs: {"in": ["many/file7"]}),
    (name: "head", stage: "head", params: (chars: 3), inputs: {"in": ["left/text", "large/file0"]}),
    (name: "table", stage: "join", params: (text: "t"), inputs: {"in": ["head/text", "left/parts/0"]}, publish: "tables"),
"#;

/// A machine with these steps.
fn machine() -> TestSpace {
    TestSpace::new(STEPS)
}

/// Runs the program on a machine with the remote cache.
fn on(server: &Server, machine: &TestSpace, args: &[&str]) -> Run {
    finished(server.with(machine.command(args)).output().unwrap())
}

/// The reports of a machine.
fn reports(machine: &TestSpace) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            if item.path().is_dir() {
                walk(&item.path(), found);
            } else {
                found.insert(item.path(), fs::read(item.path()).unwrap());
            }
        }
    }
    let (root, mut found) = (machine.path("reports"), BTreeMap::new());
    walk(&root, &mut found);
    found.into_iter().map(|(path, bytes)| (path.strip_prefix(&root).unwrap().to_owned(), bytes)).collect()
}

/// The reports of a machine without a remote cache.
fn made_alone() -> BTreeMap<PathBuf, Vec<u8>> {
    let alone = machine();
    alone.make().expect(0);
    let expected = reports(&alone);
    assert!(!expected.is_empty());
    expected
}
