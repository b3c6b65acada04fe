//! Zip archives and folders as data sets, and what is wrong with others.

use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

fn archive(files: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut zip = ZipWriter::new(file.reopen().unwrap());
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

#[test]
fn finds_the_data_set_anywhere_in_the_archive() {
    for root in ["", "data/", "a/b/"] {
        let name = |file: &str| format!("{root}{file}");
        let (landmark, picture) = (name("train.jsonl"), name("img/1.png"));
        let file = archive(&[("__MACOSX/._train.jsonl", b"x"), (&landmark, b"hello"), (&picture, b"png")]);
        let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
        assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
        assert!(archive.has("img/1.png") && !archive.has("img/2.png"));
        let error = archive.bytes("img/2.png").unwrap_err().to_string();
        assert!(error.contains("img/2.png`: is missing"), "{error}");
    }
}

#[test]
fn a_folder_reads_like_the_archive_it_was() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("data/img")).unwrap();
    fs::write(dir.path().join("data/train.jsonl"), "hello").unwrap();
    fs::write(dir.path().join("data/img/1.png"), "png").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("data/img/2.png")).unwrap();
    let mut archive = Archive::open("archive", dir.path(), "train.jsonl").unwrap();
    assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
    assert!(archive.has("img/1.png") && !archive.has("img/2.png") && !archive.has("img"));
    let error = archive.bytes("img/2.png").unwrap_err().to_string();
    assert!(error.contains("data/img/2.png`: is missing"), "{error}");
    let mut streamed = String::new();
    archive.clone().stream("img/1.png").unwrap().read_to_string(&mut streamed).unwrap();
    assert_eq!(streamed, "png");
    assert!(archive.stream("img/2.png").is_err());
}

#[test]
fn refuses_names_that_lead_out_of_it() {
    for (name, problem) in [
        ("../evil.txt", "leads out of the archive"),
        ("/etc/evil", "leads out of the archive"),
        ("a/../../evil", "leads out of the archive"),
        ("..\\evil", "systems read differently"),
        ("c:evil", "systems read differently"),
    ] {
        let file = archive(&[("train.jsonl", b""), (name, b"")]);
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn says_what_is_wrong_with_what_is_no_archive() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not a zip").unwrap();
    let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
    assert!(error.contains("is not a zip archive: it begins with `not a zip`"), "{error}");
    let file = archive(&[("other.txt", b"")]);
    let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
    assert!(error.contains("holds no `train.jsonl`"), "{error}");
}

#[test]
fn a_zip_of_windows_reads_like_any_other() {
    let file = archive(&[("data\\train.jsonl", b"hello"), ("data\\img\\1.png", b"png")]);
    let mut bytes = std::fs::read(file.path()).unwrap();
    let entries: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(b"PK\x01\x02")).collect();
    assert_eq!(entries.len(), 2);
    entries.into_iter().for_each(|at| bytes[at + 5] = 0);
    std::fs::write(file.path(), bytes).unwrap();
    let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
    assert_eq!(archive.bytes("train.jsonl").unwrap(), b"hello");
    assert_eq!(archive.bytes("img/1.png").unwrap(), b"png");
}

#[test]
fn what_a_zip_is_followed_by_is_not_dropped() {
    let file = archive(&[("train.jsonl", b"hello")]);
    let whole = std::fs::read(file.path()).unwrap();
    for (bytes, problem) in [
        ([&whole[..], &whole[..]].concat(), "before its first file that begin as another zip archive"),
        ([&whole[..], b"more"].concat(), "4 bytes after its end, with `more`"),
        (whole[..whole.len() / 2].to_vec(), "has no end"),
        (b"<html><title>Log in</title>".to_vec(), "web page (`Log in`)"),
    ] {
        std::fs::write(file.path(), bytes).unwrap();
        let error = Archive::open("archive", file.path(), "train.jsonl").err().unwrap().to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn a_small_archive_holds_no_large_file() {
    let file = archive(&[("train.jsonl", &[0; 20 << 20])]);
    let mut archive = Archive::open("archive", file.path(), "train.jsonl").unwrap();
    let error = archive.bytes("train.jsonl").unwrap_err().to_string();
    assert!(error.contains("is larger than 16777216 bytes"), "{error}");
}

#[test]
fn names_of_files() {
    assert_eq!(file_name("img/01234.png"), Some("01234.png"));
    for bad in ["", "img/", "../x.png", "/x.png", "img/..", "a\\b"] {
        assert_eq!(file_name(bad), None, "{bad}");
    }
}
