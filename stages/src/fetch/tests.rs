//! `fetch` against a server on loopback that misbehaves on purpose.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use stage_api::testing::{Recorder, run_stage};

use super::*;

const BODY: &[u8] = b"twenty-six letters, or so";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers one connection after the other with `answers`, each made from the first byte asked for, and returns
/// those bytes.
fn serve(answers: Vec<fn(u64, &mut TcpStream)>) -> (String, JoinHandle<Vec<u64>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut start = 0;
            for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                let line = line.unwrap().to_ascii_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    start = range.trim_end_matches('-').parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            asked.push(start);
            answer(start, &mut stream);
        }
        asked
    });
    (url, server)
}

fn whole(_: u64, stream: &mut TcpStream) {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", BODY.len()).unwrap();
    stream.write_all(BODY).unwrap();
}

/// Announces everything and breaks off after ten bytes.
fn cut(_: u64, stream: &mut TcpStream) {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", BODY.len()).unwrap();
    stream.write_all(&BODY[..10]).unwrap();
}

fn rest(start: u64, stream: &mut TcpStream) {
    let (last, all) = (BODY.len() - 1, BODY.len());
    write!(stream, "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{last}/{all}\r\n").unwrap();
    write!(stream, "content-length: {}\r\nconnection: close\r\n\r\n", all - start as usize).unwrap();
    stream.write_all(&BODY[start as usize..]).unwrap();
}

fn missing(_: u64, stream: &mut TcpStream) {
    write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
}

fn fetch(url: &str, digest: &str, out: &Path) -> Result<Recorder, StageError> {
    let params = format!("(name: \"file.bin\", url: [\"{url}\"], sha256: [\"{digest}\"])");
    run_stage(&Fetch, &params, &[], out)
}

#[test]
fn a_whole_file_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![whole]);
    fetch(&url, &sha256(BODY), &dir.path().join("out")).unwrap();
    assert_eq!(fs::read(dir.path().join("out/file.bin")).unwrap(), BODY);
    assert_eq!(server.join().unwrap(), [0]);
}

#[test]
fn a_broken_connection_is_continued_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![cut, rest]);
    fetch(&url, &sha256(BODY), &dir.path().join("out")).unwrap();
    assert_eq!(fs::read(dir.path().join("out/file.bin")).unwrap(), BODY);
    assert_eq!(server.join().unwrap(), [0, 10]);
}

#[test]
fn a_body_that_always_ends_early_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![cut; 4]);
    let error = fetch(&url, &sha256(BODY), &dir.path().join("out")).err().unwrap().to_string();
    assert!(error.contains("broke at byte 10") && error.contains(&url), "{error}");
    assert!(!dir.path().join("out/file.bin").exists());
    assert_eq!(server.join().unwrap(), [0, 10, 10, 10]);
}

#[test]
fn another_digest_is_refused_and_the_bytes_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![whole]);
    let error = fetch(&url, &"0".repeat(64), &dir.path().join("out")).err().unwrap().to_string();
    assert!(error.contains(&sha256(BODY)) && error.contains(&"0".repeat(64)), "{error}");
    assert!(fs::read_dir(dir.path().join("out")).unwrap().next().is_none());
    assert!(fs::read_dir(dir.path().join("out.scratch")).unwrap().next().is_none());
    server.join().unwrap();
}

#[test]
fn the_next_address_is_tried_and_a_missing_page_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (gone, first) = serve(vec![missing]);
    let error = fetch(&gone, &sha256(BODY), &dir.path().join("out")).err().unwrap().to_string();
    assert!(error.contains("404") && error.contains(&gone), "{error}");
    first.join().unwrap();
    let ((gone, first), (there, second)) = (serve(vec![missing]), serve(vec![whole]));
    let params = format!("(name: \"file.bin\", url: [\"{gone}\", \"{there}\"])");
    run_stage(&Fetch, &params, &[], &dir.path().join("both")).unwrap();
    assert_eq!(fs::read(dir.path().join("both/file.bin")).unwrap(), BODY);
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn a_file_behind_a_licence_asks_for_a_person_until_it_is_placed() {
    let dir = tempfile::tempdir().unwrap();
    let params = format!(
        "(name: \"memes.zip\", licence: \"https://example.org/licence\", place: \"downloads/memes.zip\", \
         sha256: [\"{}\"])",
        sha256(BODY)
    );
    let Err(StageError::NeedsHuman { what }) = run_stage(&Fetch, &params, &[], &dir.path().join("none"))
    else {
        panic!("nobody was asked")
    };
    for part in ["https://example.org/licence", "downloads/memes.zip", &sha256(BODY)] {
        assert!(what.contains(part), "{what}");
    }
    let placed = dir.path().join("placed.zip");
    fs::write(&placed, BODY).unwrap();
    run_stage(&Fetch, &params, &[("placed", &placed)], &dir.path().join("out")).unwrap();
    assert_eq!(fs::read(dir.path().join("out/memes.zip")).unwrap(), BODY);
    fs::write(&placed, "other").unwrap();
    let error = run_stage(&Fetch, &params, &[("placed", &placed)], &dir.path().join("wrong")).err().unwrap();
    assert!(error.to_string().contains("placed.zip"), "{error}");
}

#[test]
fn params_that_cannot_work_are_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (params, word) in [
        ("(name: \"../a\", url: [\"https://example.org\"])", "plain file name"),
        ("(name: \"a\")", "`place`"),
        ("(name: \"a\", url: [\"ftp://example.org\"])", "https://"),
        ("(name: \"a\", url: [\"https://example.org\"], sha256: [\"abc\"])", "64 hexadecimal"),
    ] {
        let error = run_stage(&Fetch, params, &[], &dir.path().join("out")).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn what_a_person_placed_stays_theirs() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    let dir = tempfile::tempdir().unwrap();
    let (mine, placed) = (dir.path().join("mine.zip"), dir.path().join("placed.zip"));
    fs::write(&mine, BODY).unwrap();
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("mine.zip", &placed).unwrap();
    for (from, out) in [(&mine, "direct"), (&placed, "linked")] {
        let out = dir.path().join(out);
        let params = "(name: \"file.bin\", place: \"placed.zip\")";
        run_stage(&Fetch, params, &[("placed", from)], &out).unwrap();
        let file = out.join("file.bin");
        let made = fs::symlink_metadata(&file).unwrap();
        assert!(made.is_file(), "{from:?}");
        assert_ne!(made.ino(), fs::metadata(&mine).unwrap().ino(), "{from:?}");
        // What a commit does to every output.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(fs::metadata(&mine).unwrap().mode() & 0o777, 0o640, "{from:?}");
        fs::write(&mine, b"rewritten in place").unwrap();
        assert_eq!(fs::read(&file).unwrap(), BODY, "{from:?}");
        fs::write(&mine, BODY).unwrap();
    }
}
