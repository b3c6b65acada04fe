//! Damaged objects: each is reported, its step runs here, and a machine with the complete result repairs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::server::Server;
use super::{machine, made_alone, on, reports};

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
}

fn each_kind(kind: &str, harm: fn(&Path)) {
    let (server, first) = (Server::start(), machine());
    on(&server, &first, &["make"]).expect(0);
    let expected = made_alone();
    let objects = server.objects(kind);
    assert!(objects.len() > 2, "{objects:?}");
    for object in objects {
        harm(&object);
        let name = format!("v1/{kind}/{}", object.file_name().unwrap().to_str().unwrap());
        // Requests everything, including bytes.
        let second = machine();
        let pull = on(&server, &second, &["pull", "large", "many", "left", "head", "table"]);
        assert!(
            pull.err.contains(&name) && pull.err.contains(" counts as missing: "),
            "{name}: {}",
            pull.err
        );
        pull.expect(1);
        let run = on(&server, &second, &["make"]).expect(0);
        assert_eq!(reports(&second), expected, "{name}: {}", run.err);
        assert_eq!(second.trees(), first.trees());
        // The first machine has the complete result, if the second has not repaired it.
        on(&server, &first, &["push", "--again"]).expect(0);
        on(&server, &machine(), &["pull", "large", "many", "left", "head", "table"]).expect(0);
    }
}

#[test]
fn a_flipped_bit_in_a_record() {
    each_kind("records", flip);
}

#[test]
fn a_flipped_bit_in_a_tree() {
    each_kind("trees", flip);
}

#[test]
fn a_flipped_bit_in_a_chunk() {
    each_kind("chunks", flip);
}

#[test]
fn a_record_cut_short() {
    each_kind("records", cut);
}

#[test]
fn a_tree_cut_short() {
    each_kind("trees", cut);
}

#[test]
fn a_chunk_cut_short() {
    each_kind("chunks", cut);
}

#[test]
fn a_missing_chunk() {
    each_kind("chunks", |path| fs::remove_file(path).unwrap());
}

#[test]
fn a_damaged_object_that_was_rebuilt_here_is_repaired_at_once() {
    let (server, first) = (Server::start(), machine());
    on(&server, &first, &["make"]).expect(0);
    let objects = server.objects("chunks");
    let whole: Vec<Vec<u8>> = objects.iter().map(|object| fs::read(object).unwrap()).collect();
    objects.iter().for_each(|object| flip(object));
    let second = machine();
    let run = on(&server, &second, &["make"]).expect(0);
    assert_eq!(run.ran(), ["head", "large", "left", "many", "table"], "{}", run.err);
    assert_eq!(reports(&second), reports(&first));
    for (object, whole) in objects.iter().zip(whole) {
        assert_eq!(fs::read(object).unwrap(), whole);
    }
}

#[test]
fn intact_chunks_of_another_tree_are_noticed() {
    let (server, first) = (Server::start(), machine());
    on(&server, &first, &["make"]).expect(0);
    // A tree that lists another tree's chunks, with a valid checksum.
    let trees = server.objects("trees");
    let texts: Vec<String> = trees.iter().map(|tree| fs::read_to_string(tree).unwrap()).collect();
    let chunk = |text: &str| text.lines().last().unwrap().to_owned();
    let of = |name: &str| {
        let tree = &first.trees()[name];
        trees.iter().position(|path| path.ends_with(tree)).unwrap()
    };
    let (table, left) = (of("table"), of("left"));
    let body = texts[table].split_once('\n').unwrap().1.replace(&chunk(&texts[table]), &chunk(&texts[left]));
    let seal = repro::digest::Digest::of_bytes(body.as_bytes());
    fs::write(&trees[table], format!("{seal}\n{body}")).unwrap();
    let second = machine();
    let run = on(&server, &second, &["make"]).expect(0);
    assert!(run.err.contains(" counts as missing: "), "{}", run.err);
    assert_eq!(reports(&second), reports(&first));
}
