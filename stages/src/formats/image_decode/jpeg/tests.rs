//! Against pixels that PIL decoded: stages/tests/reference/jpegs.py wrote the fixtures, and writes larger sets.

// The table is for docs/fidelity.md.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/jpeg")
}

/// The JPEG files of a folder by name, without the ending.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = std::fs::read_dir(folder).unwrap().map(|item| item.unwrap().path());
    let jpegs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    jpegs
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn every_kind_of_file_decodes_to_the_pixels_of_pil() {
    let text = std::fs::read_to_string(fixtures().join("checksums.json")).unwrap();
    let checksums: BTreeMap<String, (usize, usize, u32)> = serde_json::from_str(&text).unwrap();
    let files = files(&fixtures());
    assert!(files.keys().eq(checksums.keys()));
    assert!(files.len() >= 40, "{}", files.len());
    for (name, bytes) in files {
        let picture = decode(&bytes).map_err(|problem| format!("{name}: {problem}")).unwrap();
        let found = (picture.width, picture.height, crc32fast::hash(&picture.rgb));
        assert_eq!(found, checksums[&name], "{name}");
    }
}

/// Prints the table of docs/fidelity.md for the folder that `REPRO_JPEGS` names: `MODE-….jpg` and PIL's pixels, `MODE-….rgb`.
#[test]
fn differences_to_pil_by_sampling_mode() {
    let Some(folder) = std::env::var_os("REPRO_JPEGS").map(PathBuf::from) else { return };
    let mut modes: BTreeMap<String, (usize, u8, u64, usize)> = BTreeMap::new();
    for (name, bytes) in files(&folder) {
        let pils = std::fs::read(folder.join(format!("{name}.rgb"))).unwrap();
        let ours = decode(&bytes).map_err(|problem| format!("{name}: {problem}")).unwrap().rgb;
        assert_eq!(ours.len(), pils.len(), "{name}");
        let mode = name.split('-').next().unwrap_or_default().to_owned();
        let (pictures, max, sum, count) = modes.entry(mode).or_default();
        *pictures += 1;
        *count += ours.len();
        for (a, b) in ours.iter().zip(&pils) {
            *max = a.abs_diff(*b).max(*max);
            *sum += u64::from(a.abs_diff(*b));
        }
    }
    for (mode, (pictures, max, sum, count)) in &modes {
        println!("| {mode} | {pictures} | {max} | {:.4} |", *sum as f64 / *count as f64);
    }
    assert!(!modes.is_empty() && modes.values().all(|(_, max, ..)| *max == 0));
}

/// Cut anywhere, a file is refused; damaged anywhere, it never panics.
#[test]
fn cut_and_damaged_files_come_to_an_end() {
    for (name, bytes) in files(&fixtures()).into_iter().filter(|(_, bytes)| bytes.len() < 900) {
        for length in 2..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{name} cut at {length}");
        }
        for at in 2..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = damaged[at].wrapping_mul(77).wrapping_add(at as u8 | 1);
            let _ = decode(&damaged);
        }
    }
}

/// A file without content, of the kind that `frame` is the marker of.
fn file(frame: u8, bits: u8, height: u16, width: u16, factors: &[u8]) -> Vec<u8> {
    let (height, width) = (height.to_be_bytes(), width.to_be_bytes());
    let mut bytes = vec![0xff, 0xd8, 0xff, frame, 0, 8 + 3 * factors.len() as u8, bits];
    bytes.extend([height[0], height[1], width[0], width[1], factors.len() as u8]);
    factors.iter().enumerate().for_each(|(id, factor)| bytes.extend([id as u8 + 1, *factor, 0]));
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn what_is_not_decoded_is_refused_by_name() {
    for (bytes, problem) in [
        (file(0xc9, 8, 8, 8, &[0x11]), "arithmetic coding"),
        (file(0xca, 8, 8, 8, &[0x11]), "arithmetic coding"),
        (file(0xc1, 12, 8, 8, &[0x11]), "12 bits"),
        (file(0xc3, 8, 8, 8, &[0x11]), "lossless"),
        (file(0xc5, 8, 8, 8, &[0x11]), "hierarchical"),
        (file(0xc0, 8, 0, 8, &[0x11]), "8 × 0 pixels"),
        (file(0xc0, 8, 8, 20_001, &[0x11]), "20001 × 8 pixels"),
        (file(0xc0, 8, 8, 8, &[0x11, 0x11]), "2 components"),
        (file(0xc0, 8, 8, 8, &[0x51]), "sampling factor"),
        (file(0xc0, 8, 8, 8, &[0x31, 0x21, 0x11]), "no divisors"),
        (file(0xc0, 8, 8, 8, &[0x11]), "no scan"),
        // A small file that asks for much memory.
        (file(0xc2, 8, 20_000, 20_000, &[0x11, 0x11, 0x11]), "ends early"),
    ] {
        let refused = decode(&bytes).err().unwrap();
        assert!(refused.contains(problem), "{refused}");
    }
}
