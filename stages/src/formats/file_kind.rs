//! What a file is, by its first bytes, for messages: a reader that cannot read a file names what it found. It knows a few
//! signatures, not how to read any of them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes that are looked at.
const HEAD: u64 = 4096;
/// Characters of a file's text that a message shows.
const SHOWN: usize = 60;
/// The first line of a Git LFS pointer (its specification, version 1).
const LFS: &[u8] = b"version https://git-lfs";

/// Signatures of formats, and their names in a sentence.
const SIGNATURES: [(&[u8], &str); 18] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a .npy file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\0", "an SQLite database"),
];

/// The first bytes of a file.
///
/// # Errors
/// A file that cannot be read.
pub fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// What was saved in place of data: nothing, a Git LFS pointer, a web page; with what helps.
pub fn placeholder(head: &[u8]) -> Option<String> {
    if head.is_empty() {
        return Some("is empty".to_owned());
    }
    if head.starts_with(LFS) {
        let text = String::from_utf8_lossy(head);
        let size = text.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("?");
        return Some(format!(
            "is a Git LFS pointer to {} bytes, not the file itself; run `git lfs pull` in its repository",
            shown(size)
        ));
    }
    let text = String::from_utf8_lossy(&head[..head.len().min(HEAD as usize)]);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lower = text.to_ascii_lowercase();
    if ["<!doctype html", "<html", "<head", "<body"].iter().any(|start| lower.starts_with(start)) {
        return Some(format!("is a web page (`{}`); download the file itself", page_title(text, &lower)));
    }
    if lower.starts_with("<?xml") && lower.contains("<error>") {
        return Some(format!("is a server's error (`{}`); download the file again", shown(&plain(text))));
    }
    None
}

/// That a file is not `expected` ("a zip archive"), and what it is instead.
pub fn mismatch(expected: &str, head: &[u8]) -> String {
    if let Some(problem) = placeholder(head) {
        return format!("{problem} (expected {expected})");
    }
    if let Some((_, name)) = SIGNATURES.iter().find(|(signature, _)| head.starts_with(signature)) {
        return format!("is {name}, not {expected}");
    }
    format!("is not {expected}: it begins with {}", beginning(head))
}

/// The first line of a text, or the first bytes.
pub fn beginning(head: &[u8]) -> String {
    let line = head.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let line = &line[..line.len().min(4 * SHOWN)];
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        // A character that the end of the head cuts.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => "",
    };
    match text {
        text if !text.trim().is_empty() && !text.contains(|c: char| c.is_control() && c != '\t') => {
            format!("`{}`", shown(text))
        }
        _ => {
            let bytes: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("the bytes {}", bytes.join(" "))
        }
    }
}

/// The title of a web page, or the first words of it.
fn page_title(text: &str, lower: &str) -> String {
    // `lower` has the same bytes but for the case of ASCII letters, so places in it are places in `text`.
    let title = lower.find("<title").and_then(|at| {
        let start = at + lower[at..].find('>')? + 1;
        let end = start + lower[start..].find('<')?;
        Some(text[start..end].trim()).filter(|title| !title.is_empty())
    });
    title.map_or_else(|| shown(&plain(text)), shown)
}

/// Text without the marks of HTML and XML.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        plain.push_str(before);
        plain.push(' ');
        rest = after.split_once('>').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text as a message may have it: no control characters, not too long.
pub fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Of `names` the few that are most like `name`, in backquotes.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    const FEW: usize = 3;
    let mut found: Vec<(f64, &str)> =
        names.map(|other| (strsim::normalized_levenshtein(name, other), other)).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    found.truncate(FEW);
    found.iter().map(|(_, other)| format!("`{}`", shown(other))).collect::<Vec<_>>().join(", ")
}

/// An error of JSON that is one line of a file: its place within the line, and the problem.
pub fn json_in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    format!("column {}: {}", error.column(), text.strip_suffix(&place).unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_in_place_of_data_is_named() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n";
        for (head, found) in [
            (&b""[..], "is empty"),
            (lfs, "is a Git LFS pointer to 440449768 bytes"),
            (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page (`Sign in`)"),
            (b"\xef\xbb\xbf\n<HTML>\n<head><TITLE lang=en>Log \x1b[2Jin</TITLE>", "(`Log \u{fffd}[2Jin`)"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "(`AccessDenied`)"),
        ] {
            let problem = placeholder(head).unwrap();
            assert!(problem.contains(found), "{problem}");
            assert!(mismatch("a zip archive", head).contains("expected a zip archive"));
        }
        assert_eq!(placeholder(b"{\"id\": 1}"), None);
    }

    #[test]
    fn other_formats_are_named_or_shown() {
        for (head, found) in [
            (&b"Rar!\x1a\x07\x01\0"[..], "is a RAR archive, not an LMDB"),
            (b"#!/bin/sh\nexit", "begins with `#!/bin/sh`"),
            (b"\0\0\x01\xff", "the bytes 00 00 01 ff"),
            (b"\n", "the bytes 0a"),
            ("é".repeat(500).as_bytes(), "é…`"),
        ] {
            let problem = mismatch("an LMDB", head);
            assert!(problem.contains(found), "{problem}");
        }
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["epoch", "_orig_mod.bert.weight", "bert.weight_", "x"];
        assert_eq!(
            nearest("bert.weight", names.into_iter()),
            "`bert.weight_`, `_orig_mod.bert.weight`, `epoch`"
        );
    }

    #[test]
    fn an_error_within_a_line_has_its_column() {
        let error = serde_json::from_str::<Vec<u8>>("[1, x]").unwrap_err();
        assert_eq!(json_in_line(&error), "column 5: expected value");
    }
}
