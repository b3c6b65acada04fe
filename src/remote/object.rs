//! The text objects of a remote cache and their names: a record by its key, a tree by its digest. An object begins
//! with the digest of the rest, so changed bytes are noticed, and its content must match its name. It knows no
//! network.
//!
//! ```text
//! v1/records/<key>      the record of one execution
//! v1/trees/<tree>       the tree's manifest, an empty line, and its chunks: one digest per line
//! v1/chunks/<digest>    bytes of one large file, or of several small ones
//! ```

use std::collections::HashSet;
use std::path::Path;

use super::pack;
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::{Manifest, shown};

/// Size limit of a record, in bytes.
pub const MAX_RECORD_BYTES: u64 = 16 << 20;
/// Size limit of a tree object, in bytes: about half a million files.
pub const MAX_TREE_BYTES: u64 = 64 << 20;

/// A tree object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The files of the tree.
    pub manifest: Manifest,
    /// The digests of its chunks, in the order of `pack::chunks`.
    pub chunks: Vec<Digest>,
}

/// The name of a record.
pub fn record_name(key: &StageKey) -> String {
    format!("v1/records/{key}")
}

/// The name of a tree.
pub fn tree_name(tree: &Digest) -> String {
    format!("v1/trees/{tree}")
}

/// The name of a chunk.
pub fn chunk_name(chunk: &Digest) -> String {
    format!("v1/chunks/{chunk}")
}

/// The bytes of a record object.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn of_record(record: &RunRecord) -> serde_json::Result<Vec<u8>> {
    Ok(sealed(&format!("{}\n", serde_json::to_string(record)?)))
}

/// Parses what [`of_record`] wrote under the name of `key`.
///
/// # Errors
/// The reason, as a sentence.
pub fn to_record(key: &StageKey, bytes: &[u8]) -> Result<RunRecord, String> {
    let text = opened(bytes)?;
    let record: RunRecord =
        serde_json::from_str(text).map_err(|error| format!("it is not a record: {error}"))?;
    if record.key_text.key() == *key { Ok(record) } else { Err("it is the record of another key".to_owned()) }
}

/// Whether a record and its tree's manifest agree; readers of the record rely on it.
pub fn agree(record: &RunRecord, manifest: &Manifest) -> bool {
    record.bytes == manifest.bytes()
        && record.outputs.iter().all(|(path, digest)| manifest.at(path) == Some(*digest))
}

/// The bytes of a tree object.
pub fn of_tree(stored: &Stored) -> Vec<u8> {
    let chunks: String = stored.chunks.iter().map(|chunk| format!("{chunk}\n")).collect();
    sealed(&format!("{}\n{chunks}", stored.manifest.text()))
}

/// Parses what [`of_tree`] wrote under the name of `tree`.
///
/// # Errors
/// The reason, as a sentence.
pub fn to_tree(tree: &Digest, bytes: &[u8]) -> Result<Stored, String> {
    let text = opened(bytes)?;
    // A tree without files has no line before the empty one.
    let (manifest, chunks) = match text.strip_prefix('\n') {
        Some(chunks) => ("", chunks),
        None => text.split_once("\n\n").ok_or("it has no list of chunks")?,
    };
    let manifest = Manifest::parse(manifest)?;
    if manifest.digest() != *tree {
        return Err("it is the manifest of another tree".to_owned());
    }
    if let Some(path) = file_that_is_a_folder(&manifest) {
        return Err(format!("it has a file and a folder named {}", shown(Path::new(path))));
    }
    let chunks: Option<Vec<Digest>> = chunks.lines().map(|line| line.parse().ok()).collect();
    let chunks = chunks.ok_or("its list of chunks is not valid")?;
    // Checked before anything is allocated by these sizes: a few bytes can name a file of any size.
    if chunks.len() as u64 != pack::count(&manifest) {
        return Err("its number of chunks does not match the size of its files".to_owned());
    }
    Ok(Stored { manifest, chunks })
}

/// The first path that is a file and has files below it.
fn file_that_is_a_folder(manifest: &Manifest) -> Option<&str> {
    let paths: HashSet<&str> = manifest.entries().iter().map(|entry| entry.path.as_str()).collect();
    let folders = |path: &'_ str| path.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    manifest.entries().iter().find_map(|entry| {
        folders(&entry.path).into_iter().find_map(|at| paths.get(&entry.path[..at]).copied())
    })
}

fn sealed(text: &str) -> Vec<u8> {
    format!("{}\n{text}", Digest::of_bytes(text.as_bytes())).into_bytes()
}

fn opened(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let (seal, text) = text.split_once('\n').ok_or("it has no checksum line")?;
    let is_intact = seal.parse() == Ok(Digest::of_bytes(text.as_bytes()));
    if is_intact { Ok(text) } else { Err("its checksum does not match".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyText;
    use crate::record::Machine;

    fn record() -> RunRecord {
        RunRecord {
            key_text: KeyText::new("join", 1, "()", vec![]),
            step: "a".to_owned(),
            profile: "mini".to_owned(),
            tree: Digest::of_bytes(b"tree"),
            outputs: Default::default(),
            inputs: Vec::new(),
            bytes: 3,
            started_ms: 1,
            seconds: 0.5,
            peak_memory: None,
            work: None,
            machine: Machine::default(),
            log: String::new(),
            accepted: None,
        }
    }

    fn stored(files: &[(&str, u64)]) -> Stored {
        let digest = Digest::of_bytes(b"x");
        let text: String = files.iter().map(|(path, size)| format!("{digest} {size} {path}\n")).collect();
        let manifest = Manifest::parse(&text).unwrap();
        let chunks = vec![digest; pack::chunks(&manifest).len()];
        Stored { manifest, chunks }
    }

    #[test]
    fn objects_round_trip_and_no_flipped_bit_or_cut_passes() {
        let (record, tree) = (record(), stored(&[("a", 3), ("b/c", pack::MAX_CHUNK_BYTES + 1)]));
        let key = record.key_text.key();
        let bytes = of_record(&record).unwrap();
        assert_eq!(to_record(&key, &bytes).unwrap(), record);
        let texts = of_tree(&tree);
        assert_eq!(to_tree(&tree.manifest.digest(), &texts).unwrap(), tree);
        for at in 0..bytes.len().max(texts.len()) {
            for mask in [1, 0x80] {
                let flipped = |bytes: &[u8]| {
                    let mut bytes = bytes.to_vec();
                    let at = at.min(bytes.len() - 1);
                    bytes[at] ^= mask;
                    bytes
                };
                assert!(to_record(&key, &flipped(&bytes)).is_err(), "byte {at}");
                assert!(to_tree(&tree.manifest.digest(), &flipped(&texts)).is_err(), "byte {at}");
            }
            assert!(to_record(&key, &bytes[..at.min(bytes.len() - 1)]).is_err(), "cut at {at}");
            assert!(
                to_tree(&tree.manifest.digest(), &texts[..at.min(texts.len() - 1)]).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn an_object_under_another_name_is_refused() {
        let bytes = of_record(&record()).unwrap();
        let other = KeyText::new("join", 2, "()", vec![]).key();
        assert_eq!(to_record(&other, &bytes), Err("it is the record of another key".to_owned()));
        let empty = of_tree(&stored(&[]));
        assert_eq!(to_tree(&stored(&[]).manifest.digest(), &empty), Ok(stored(&[])));
        assert_eq!(
            to_tree(&stored(&[("a", 1)]).manifest.digest(), &empty),
            Err("it is the manifest of another tree".to_owned())
        );
    }

    /// A tree object with this list of files and a valid checksum.
    fn crafted(files: &[(&str, &str)], chunks: usize) -> Vec<u8> {
        let digest = Digest::of_bytes(b"x");
        let files: String = files.iter().map(|(size, path)| format!("{digest} {size} {path}\n")).collect();
        sealed(&format!("{files}\n{}", format!("{digest}\n").repeat(chunks)))
    }

    #[test]
    fn no_tree_leads_out_of_its_folder() {
        for path in ["../a", "/etc/a", "a/../../b", "."] {
            let problem = to_tree(&Digest::of_bytes(b""), &crafted(&[("1", path)], 1)).unwrap_err();
            assert!(problem.contains("outside of the tree"), "{path}: {problem}");
        }
    }

    #[test]
    fn sizes_that_do_not_match_the_chunks_are_refused_before_anything_is_allocated() {
        let tree = |files: &[(&str, u64)]| {
            let digest = Digest::of_bytes(b"x");
            let text: String = files.iter().map(|(path, size)| format!("{digest} {size} {path}\n")).collect();
            Manifest::parse(&text).unwrap().digest()
        };
        for size in [u64::MAX, 1 << 62, 1 << 40, pack::MAX_CHUNK_BYTES * 3 + 1] {
            for chunks in [0, 1, 3] {
                let object = crafted(&[(&size.to_string(), "a")], chunks);
                let problem = to_tree(&tree(&[("a", size)]), &object).unwrap_err();
                assert_eq!(
                    problem, "its number of chunks does not match the size of its files",
                    "{size}, {chunks}"
                );
            }
        }
        let half = u64::MAX.to_string();
        let problem =
            to_tree(&Digest::of_bytes(b""), &crafted(&[(&half, "a"), (&half, "b")], 1)).unwrap_err();
        assert_eq!(problem, "its files are larger than any disk");
        let problem = to_tree(
            &tree(&[("a", 1), ("a-b", 1), ("a/b", 1)]),
            &crafted(&[("1", "a"), ("1", "a-b"), ("1", "a/b")], 1),
        );
        assert_eq!(problem.unwrap_err(), "it has a file and a folder named a");
    }
}
