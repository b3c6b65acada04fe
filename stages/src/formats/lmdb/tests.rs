//! What is written is read; `fixtures/mmf/lmdb`, which LMDB itself wrote (`reference/lmdb_files.py`), too; and damage is an
//! error.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;

fn value(number: usize) -> Vec<u8> {
    (0..number * 37 % 9000).map(|at| (at * 7 + number) as u8).collect()
}

fn write(dir: &Path, count: usize) {
    let mut writer = LmdbWriter::create(dir).unwrap();
    for number in (0..count).rev() {
        writer.put(format!("{number}").as_bytes(), &value(number)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn what_was_written_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for count in [0, 1, 2, 90, 30_000] {
        write(dir.path(), count);
        let lmdb = Lmdb::open(dir.path()).unwrap();
        for number in (0..count).step_by(1 + count / 100) {
            assert_eq!(
                lmdb.get(format!("{number}").as_bytes()).unwrap(),
                Some(&value(number)[..]),
                "{number} of {count}"
            );
        }
        let mut expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        expected.sort();
        assert_eq!(lmdb.keys().unwrap(), expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
        for absent in ["", " ", "x", "999999", "00"] {
            assert_eq!(lmdb.get(absent.as_bytes()).unwrap(), None, "{absent} of {count}");
        }
    }
}

#[test]
fn what_lmdb_wrote_is_found() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/mmf/lmdb");
    let lmdb = Lmdb::open(&path).unwrap();
    for number in 0..300 {
        let expected = format!("value of {number}").repeat(if number % 50 == 0 { 400 } else { 1 });
        assert_eq!(lmdb.get(format!("{number}").as_bytes()).unwrap(), Some(expected.as_bytes()), "{number}");
    }
    assert_eq!(lmdb.get(b"300").unwrap(), None);
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LmdbWriter::create(dir.path()).unwrap();
    assert!(writer.put(b"", b"x").is_err());
    assert!(writer.put(&[b'x'; 512], b"x").is_err());
    writer.put(b"twice", b"x").unwrap();
    writer.put(b"twice", b"x").unwrap();
    assert!(writer.finish().unwrap_err().contains("`twice` was written twice"));
}

#[test]
fn damage_is_an_error_or_goes_unseen_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 400);
    let path = dir.path().join("data.mdb");
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    // The metas and the tree, which follows the values.
    let tree = whole.len() - 4 * 4096..whole.len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in (0..8192).step_by(3).chain(tree.step_by(5)) {
        file.write_all_at(&[whole[at] ^ 0xff], at as u64).unwrap();
        let read = Lmdb::open(&path).and_then(|lmdb| {
            lmdb.keys()?;
            (0..400).try_for_each(|number| lmdb.get(format!("{number}").as_bytes()).map(drop))
        });
        refused += usize::from(read.is_err());
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    assert!(fs::read(&path).unwrap() == whole, "each damage was undone");
    assert!(refused > 50, "{refused}");
    for length in [0, 100, 5000, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Lmdb::open(&path).is_err(), "{length} bytes");
    }
}

#[test]
fn a_tree_that_comes_back_to_itself_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 400);
    let path = dir.path().join("data.mdb");
    let mut bytes = fs::read(&path).unwrap();
    // The root is the last page; its nodes name the pages below.
    let root = bytes.len() - 4096;
    let number = (root / 4096) as u64;
    assert_eq!(bytes[root + 10], 1, "the root is a branch");
    let nodes = (u16::from_le_bytes([bytes[root + 12], bytes[root + 13]]) as usize - HEADER) / 2;
    for node in 0..nodes {
        let at = root
            + u16::from_le_bytes([bytes[root + HEADER + 2 * node], bytes[root + HEADER + 2 * node + 1]])
                as usize;
        bytes[at..at + 4].copy_from_slice(&(number as u32).to_le_bytes());
        bytes[at + 4..at + 6].fill(0);
    }
    fs::write(&path, bytes).unwrap();
    let lmdb = Lmdb::open(dir.path()).unwrap();
    assert!(lmdb.keys().unwrap_err().contains("names a page twice"));
    assert!(lmdb.get(b"7").unwrap_err().contains("comes back"));
}
