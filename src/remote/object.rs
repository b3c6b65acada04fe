//! The objects of a shared store that are text, and their names: a record by its key, a tree by its digest. Such an object
//! begins with the digest of what follows, so a byte that is not as it was written is seen; and it must be what its name
//! says. It knows no network.
//!
//! ```text
//! v1/records/<key>      what is known of one execution
//! v1/trees/<tree>       the tree's manifest, an empty line, and its chunks: a digest a line
//! v1/chunks/<digest>    bytes of one large file, or of several small ones
//! ```

use std::collections::HashSet;
use std::path::Path;

use super::pack;
use crate::digest::Digest;
use crate::key::StageKey;
use crate::record::RunRecord;
use crate::tree::{Manifest, shown};

/// No record is larger, in bytes.
pub const LARGEST_RECORD: u64 = 16 << 20;
/// No description of a tree is larger, in bytes: about half a million files.
pub const LARGEST_TREE: u64 = 64 << 20;

/// A tree as the store describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What is in it.
    pub manifest: Manifest,
    /// Its chunks, in the order of `pack::chunks`.
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

/// A record as it is stored.
///
/// # Errors
/// When it has no text form.
pub fn of_record(record: &RunRecord) -> serde_json::Result<Vec<u8>> {
    Ok(sealed(&format!("{}\n", serde_json::to_string(record)?)))
}

/// Reads what [`of_record`] wrote under the name of `key`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn to_record(key: &StageKey, bytes: &[u8]) -> Result<RunRecord, String> {
    let text = opened(bytes)?;
    let record: RunRecord =
        serde_json::from_str(text).map_err(|error| format!("it is no record: {error}"))?;
    if record.key_text.key() == *key { Ok(record) } else { Err("it is the record of another key".to_owned()) }
}

/// Whether what a record says of its tree is so: readers of the record look no further.
pub fn agree(record: &RunRecord, manifest: &Manifest) -> bool {
    record.bytes == manifest.bytes()
        && record.outputs.iter().all(|(path, digest)| manifest.at(path) == Some(*digest))
}

/// A tree as it is stored.
pub fn of_tree(stored: &Stored) -> Vec<u8> {
    let chunks: String = stored.chunks.iter().map(|chunk| format!("{chunk}\n")).collect();
    sealed(&format!("{}\n{chunks}", stored.manifest.text()))
}

/// Reads what [`of_tree`] wrote under the name of `tree`.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn to_tree(tree: &Digest, bytes: &[u8]) -> Result<Stored, String> {
    let text = opened(bytes)?;
    // A tree without files has no line before the empty one.
    let (manifest, chunks) = match text.strip_prefix('\n') {
        Some(chunks) => ("", chunks),
        None => text.split_once("\n\n").ok_or("it has no list of chunks")?,
    };
    let manifest = Manifest::parse(manifest)?;
    if manifest.digest() != *tree {
        return Err("it describes another tree".to_owned());
    }
    if let Some(path) = file_that_is_a_folder(&manifest) {
        return Err(format!("it has a file and a folder of the name {}", shown(Path::new(path))));
    }
    let chunks: Option<Vec<Digest>> = chunks.lines().map(|line| line.parse().ok()).collect();
    let chunks = chunks.ok_or("its list of chunks cannot be read")?;
    // Counted from the sizes before anything is laid out by them: a few bytes can name a file of any size.
    if chunks.len() as u64 != pack::count(&manifest) {
        return Err("it has another number of chunks than its files need".to_owned());
    }
    Ok(Stored { manifest, chunks })
}

/// A path that is a file and has files below it.
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
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let (seal, text) = text.split_once('\n').ok_or("it is cut short")?;
    let is_intact = seal.parse() == Ok(Digest::of_bytes(text.as_bytes()));
    if is_intact { Ok(text) } else { Err("its bytes are not those that were written".to_owned()) }
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
    fn what_is_written_comes_back_and_no_flipped_bit_or_cut_passes() {
        let (record, tree) = (record(), stored(&[("a", 3), ("b/c", pack::LARGEST + 1)]));
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
            Err("it describes another tree".to_owned())
        );
    }

    /// A tree object with this list of files, sealed as it must be.
    fn crafted(files: &[(&str, &str)], chunks: usize) -> Vec<u8> {
        let digest = Digest::of_bytes(b"x");
        let files: String = files.iter().map(|(size, path)| format!("{digest} {size} {path}\n")).collect();
        sealed(&format!("{files}\n{}", format!("{digest}\n").repeat(chunks)))
    }

    #[test]
    fn no_tree_leads_out_of_its_folder() {
        for path in ["../a", "/etc/a", "a/../../b", "."] {
            let told = to_tree(&Digest::of_bytes(b""), &crafted(&[("1", path)], 1)).unwrap_err();
            assert!(told.contains("outside of the tree"), "{path}: {told}");
        }
    }

    #[test]
    fn sizes_that_no_chunks_back_are_refused_before_anything_is_laid_out() {
        let tree = |files: &[(&str, u64)]| {
            let digest = Digest::of_bytes(b"x");
            let text: String = files.iter().map(|(path, size)| format!("{digest} {size} {path}\n")).collect();
            Manifest::parse(&text).unwrap().digest()
        };
        for size in [u64::MAX, 1 << 62, 1 << 40, pack::LARGEST * 3 + 1] {
            for chunks in [0, 1, 3] {
                let object = crafted(&[(&size.to_string(), "a")], chunks);
                let told = to_tree(&tree(&[("a", size)]), &object).unwrap_err();
                assert_eq!(told, "it has another number of chunks than its files need", "{size}, {chunks}");
            }
        }
        let half = u64::MAX.to_string();
        let told = to_tree(&Digest::of_bytes(b""), &crafted(&[(&half, "a"), (&half, "b")], 1)).unwrap_err();
        assert_eq!(told, "its files are larger than any disk");
        let told = to_tree(
            &tree(&[("a", 1), ("a-b", 1), ("a/b", 1)]),
            &crafted(&[("1", "a"), ("1", "a-b"), ("1", "a/b")], 1),
        );
        assert_eq!(told.unwrap_err(), "it has a file and a folder of the name a");
    }
}
