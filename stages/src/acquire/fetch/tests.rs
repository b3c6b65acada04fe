//! `fetch` against a server on loopback that misbehaves on purpose.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use sha2::{Digest, Sha256};
use stage_api::testing::{Recorder, run_stage, run_stage_outside};

use super::chaos::patient;
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
    run_stage(&patient(), &params, &[], out)
}

#[test]
fn what_an_address_holds_of_a_login_or_a_signature_is_not_shown_and_not_noted() {
    for answers in [vec![whole as fn(u64, &mut TcpStream)], vec![missing], vec![cut, missing]] {
        let dir = tempfile::tempdir().unwrap();
        let (url, _server) = serve(answers);
        let url = format!("{url}?sig=S1GNED");
        let params = format!("(name: \"file.bin\", url: [\"{url}\"], sha256: [\"{}\"])", sha256(BODY));
        let result = run_stage(&patient(), &params, &[], &dir.path().join("out"));
        let message = match result {
            Ok(said) => said.notes.into_inner().unwrap().join("\n"),
            Err(error) => error.to_string(),
        };
        assert!(message.contains("file.bin") && !message.contains("S1GNED"), "{message}");
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for item in fs::read_dir(folder).unwrap().flatten() {
                match item.path().is_dir() {
                    true => folders.push(item.path()),
                    false => {
                        let text = String::from_utf8_lossy(&fs::read(item.path()).unwrap()).into_owned();
                        assert!(!text.contains("S1GNED"), "{}: {text}", item.path().display());
                    }
                }
            }
        }
    }
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
    let (url, server) = serve(vec![cut; 6]);
    let error = fetch(&url, &sha256(BODY), &dir.path().join("out")).err().unwrap().to_string();
    assert!(error.contains("broke at byte 10") && error.contains(&url), "{error}");
    assert!(!dir.path().join("out/file.bin").exists());
    assert_eq!(server.join().unwrap(), [0, 10, 10, 10, 10, 10]);
}

#[test]
fn another_digest_is_refused_and_the_bytes_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![whole]);
    let error = fetch(&url, &"0".repeat(64), &dir.path().join("out")).err().unwrap().to_string();
    assert!(error.contains(&sha256(BODY)) && error.contains(&"0".repeat(64)), "{error}");
    assert!(fs::read_dir(dir.path().join("out")).unwrap().next().is_none());
    assert_eq!(fs::metadata(dir.path().join("out.scratch/download.part")).unwrap().len(), 0);
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
    run_stage(&patient(), &params, &[], &dir.path().join("both")).unwrap();
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
    let Err(StageError::NeedsHuman { what }) = run_stage(&patient(), &params, &[], &dir.path().join("none"))
    else {
        panic!("no person was asked")
    };
    for part in ["https://example.org/licence", "downloads/memes.zip", &sha256(BODY)] {
        assert!(what.contains(part), "{what}");
    }
    let placed = dir.path().join("placed.zip");
    fs::write(&placed, BODY).unwrap();
    run_stage(&patient(), &params, &[("placed", &placed)], &dir.path().join("out")).unwrap();
    assert_eq!(fs::read(dir.path().join("out/memes.zip")).unwrap(), BODY);
    fs::write(&placed, "other").unwrap();
    let error =
        run_stage(&patient(), &params, &[("placed", &placed)], &dir.path().join("wrong")).err().unwrap();
    assert!(error.to_string().contains("placed.zip"), "{error}");
}

fn allowed_env(variables: &[(&str, &Path)]) -> AllowedEnv {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    AllowedEnv::select(Fetch::OUTSIDE, variables)
}

#[test]
fn a_file_among_the_downloads_is_taken_and_checked_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let allowed_env = allowed_env(&[("REPRO_DOWNLOADS", dir.path())]);
    let params = format!("(name: \"memes.zip\", place: \"x\", sha256: [\"{}\"])", sha256(BODY));
    let run = |out: &str| run_stage_outside(&patient(), &params, &[], &dir.path().join(out), &allowed_env);
    assert!(matches!(run("none"), Err(StageError::NeedsHuman { .. })));
    fs::write(dir.path().join("memes.zip"), BODY).unwrap();
    run("out").unwrap();
    assert_eq!(fs::read(dir.path().join("out/memes.zip")).unwrap(), BODY);
    fs::write(dir.path().join("memes.zip"), &BODY[1..]).unwrap();
    let error = run("wrong").err().unwrap().to_string();
    assert!(error.contains(&sha256(BODY)) && error.contains(&sha256(&BODY[1..])), "{error}");
    // The same by an address.
    let url = format!("file://{}", dir.path().join("memes.zip").display());
    let by_url = |size: u64| {
        let params = format!("(name: \"a.zip\", url: [\"{url}\"], size: {size})");
        run_stage(&patient(), &params, &[], &dir.path().join(format!("by-url-{size}")))
    };
    by_url(BODY.len() as u64 - 1).unwrap();
    let error = by_url(7).err().unwrap().to_string();
    assert!(error.contains("expected 7") && error.contains("memes.zip"), "{error}");
}

#[test]
fn a_file_of_unlisted_digest_is_taken_where_people_repack_and_the_log_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let placed = dir.path().join("placed.zip");
    fs::write(&placed, BODY).unwrap();
    let params =
        format!("(name: \"a.zip\", place: \"x\", sha256: [\"{}\"], unlisted: \"note\")", "0".repeat(64));
    let recorder = run_stage(&patient(), &params, &[("placed", &placed)], &dir.path().join("out")).unwrap();
    let notes = recorder.notes.lock().unwrap().join("\n");
    assert!(notes.contains(&sha256(BODY)) && notes.contains("is not listed"), "{notes}");
}

#[test]
fn kaggle_wants_its_token_and_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let params = "(name: \"a.zip\", kaggle: \"somebody/memes\")";
    let run = |allowed_env: &AllowedEnv| match run_stage_outside(
        &patient(),
        params,
        &[],
        &dir.path().join("out"),
        allowed_env,
    ) {
        Err(StageError::NeedsHuman { what }) => what,
        _ => panic!("no person was asked"),
    };
    let what = run(&AllowedEnv::default());
    assert!(what.contains("kaggle.json") && what.contains("REPRO_DOWNLOADS"), "{what}");
    fs::create_dir(dir.path().join(".kaggle")).unwrap();
    fs::write(dir.path().join(".kaggle/kaggle.json"), "{\"username\": \"me\", \"k3y\": \"s3cret\"}").unwrap();
    let what = run(&allowed_env(&[("HOME", dir.path())]));
    assert!(what.contains("kaggle.json: it is not a token") && !what.contains("s3cret"), "{what}");
    fs::write(dir.path().join(".kaggle/kaggle.json"), "{\"username\": \"me\", \"key\": \"s3cret\"}").unwrap();
    let home = allowed_env(&[("HOME", dir.path())]);
    let Ok(Some(login)) = credentials::kaggle(&home) else { panic!("no login") };
    let source = credentials::kaggle_source("somebody/memes", login);
    assert_eq!(source.url, "https://www.kaggle.com/api/v1/datasets/download/somebody/memes");
    assert!(matches!(source.login, Credentials::User(user, key) if user == "me" && key == "s3cret"));
    let variables = allowed_env(&[("KAGGLE_USERNAME", Path::new("you")), ("KAGGLE_KEY", Path::new("k"))]);
    assert!(matches!(credentials::kaggle(&variables), Ok(Some(Credentials::User(user, _))) if user == "you"));
}

#[test]
fn what_an_earlier_process_left_is_believed_only_as_far_as_it_can_be_proven() {
    let dir = tempfile::tempdir().unwrap();
    // (digest known, what is there, what the server is asked for)
    for (number, (known, note, asked)) in [
        (true, "{\"origin\":{\"place\":\"PLACE\",\"validator\":null,\"total\":25},\"kept\":0}", vec![10]),
        (
            false,
            "{\"origin\":{\"place\":\"PLACE\",\"validator\":\"\\\"1\\\"\",\"total\":25},\"kept\":4}",
            vec![4],
        ),
        (false, "{\"origin\":{\"place\":\"PLACE\",\"validator\":null,\"total\":25},\"kept\":4}", vec![0]),
        (true, "not a note", vec![0]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(number.to_string());
        let scratch = out.with_extension("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let answer = |start: u64, stream: &mut TcpStream| {
            if start > 0 { rest(start, stream) } else { whole(start, stream) }
        };
        let (url, server) = serve(vec![answer]);
        fs::write(scratch.join("download.part"), &BODY[..10]).unwrap();
        fs::write(scratch.join("download.note"), note.replace("PLACE", &sha256(url.as_bytes()))).unwrap();
        let digest = if known { format!("\"{}\"", sha256(BODY)) } else { String::new() };
        let params = format!("(name: \"file.bin\", url: [\"{url}\"], sha256: [{digest}])");
        run_stage(&patient(), &params, &[], &out).unwrap();
        assert_eq!(fs::read(out.join("file.bin")).unwrap(), BODY, "{number}");
        assert_eq!(server.join().unwrap(), asked, "{number}");
    }
}

#[test]
fn what_is_no_file_or_too_large_or_asks_for_too_long_a_wait_is_reported() {
    fn page(_: u64, stream: &mut TcpStream) {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=x\r\ncontent-length: 2\r\n\r\nhi"
        )
        .unwrap();
    }
    fn huge(_: u64, stream: &mut TcpStream) {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000000\r\n\r\n").unwrap();
    }
    fn endless(_: u64, stream: &mut TcpStream) {
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbytes").unwrap();
    }
    fn tomorrow(_: u64, stream: &mut TcpStream) {
        write!(stream, "HTTP/1.1 503 Busy\r\nretry-after: 86400\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
    fn forbidden(_: u64, stream: &mut TcpStream) {
        write!(stream, "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    type Answer = fn(u64, &mut TcpStream);
    let cases: [(Answer, &str, &str); 6] = [
        (page, "", "a web page"),
        (huge, "", "more are needed"),
        (endless, "", "does not say how long"),
        (tomorrow, "", "asks to wait 86400 s"),
        (whole, ", size: 7", "has 25 bytes, expected 7"),
        (forbidden, "", "was refused"),
    ];
    for (number, (answer, more, words)) in cases.into_iter().enumerate() {
        let (url, server) = serve(vec![answer]);
        let params = format!("(name: \"file.bin\", url: [\"{url}\"]{more})");
        let out = dir.path().join(number.to_string());
        let error = run_stage(&patient(), &params, &[], &out).err().unwrap().to_string();
        // A full disk is no fault of the address.
        assert!(error.contains(words) && (error.contains(&url) || words == "more are needed"), "{error}");
        assert!(!out.join("file.bin").exists());
        server.join().unwrap();
    }
}

#[test]
fn a_token_goes_to_its_address_and_into_no_note_or_message() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        missing(0, &mut stream);
        head.join("\n")
    });
    let dir = tempfile::tempdir().unwrap();
    let params = format!("(name: \"file.bin\", url: [\"{url}\"], token: \"REPRO_T\")");
    let allowed_env = allowed_env(&[("REPRO_T", Path::new("s3cret"))]);
    let error =
        run_stage_outside(&patient(), &params, &[], &dir.path().join("out"), &allowed_env).err().unwrap();
    assert!(server.join().unwrap().to_lowercase().contains("authorization: bearer s3cret"));
    assert!(!error.to_string().contains("s3cret"), "{error}");
    for file in fs::read_dir(dir.path().join("out.scratch")).unwrap() {
        assert!(!String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).contains("s3cret"));
    }
}

#[test]
fn params_that_cannot_work_are_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (params, word) in [
        ("(name: \"../a\", url: [\"https://example.org\"])", "plain file name"),
        ("(name: \"a\")", "`place`"),
        ("(name: \"a\", url: [\"ftp://example.org\"])", "https://"),
        ("(name: \"a\", url: [\"https://example.org\"], sha256: [\"abc\"])", "64 hexadecimal"),
        ("(name: \"a\", url: [\"https://me:pw@example.org/a\"])", "login does not belong"),
        ("(name: \"a\", url: [\"http://example.org/a\"], token: \"REPRO_T\")", "not https://"),
        ("(name: \"a\", url: [\"https://example.org/a\"], token: \"PATH\")", "begins with REPRO_"),
        ("(name: \"a\", kaggle: \"memes\")", "owner/name"),
    ] {
        let error = run_stage(&patient(), params, &[], &dir.path().join("out")).err().unwrap().to_string();
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
        run_stage(&patient(), params, &[("placed", from)], &out).unwrap();
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
