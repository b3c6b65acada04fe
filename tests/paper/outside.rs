//! What comes from outside: what a person must place, what is downloaded, and what nobody may read afterwards.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::process::{Run, finished};
use super::project::{Project, made};

/// A small terminal: lines and columns.
const SCREEN: (usize, usize) = (24, 80);

const SECRET: &str = "s3cret-of-a-person";

/// Answers each request with the next of `bodies`, an empty one being a file that is not there; gives the heads of the requests in the end.
fn serve(bodies: Vec<&'static [u8]>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let server = thread::spawn(move || {
        let answer = |body: &'static [u8]| {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let (status, length) = (if body.is_empty() { "404 Not Found" } else { "200 OK" }, body.len());
            write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
                .unwrap();
            stream.write_all(body).unwrap();
            head.join("\n")
        };
        bodies.into_iter().map(answer).collect()
    });
    (address, server)
}

/// A pipeline that fetches `memes.bin` from `url`.
fn fetching(url: &str, more: &str) -> Project {
    let project = Project::new();
    project.write(&format!(
        r#"(
            default_profile: "p", profiles: [(name: "p", about: "a download", sources: [], defaults: {{}})],
            steps: [(name: "get", stage: "fetch", params: (name: "memes.bin", url: ["{url}"]{more}))],
            targets: {{"all": ["get"]}},
        )"#
    ));
    project
}

/// Runs with an environment that says nothing of this machine's person.
fn run(project: &Project, args: &[&str], variables: &[(&str, &Path)]) -> Run {
    let mut command = project.command(args);
    for name in
        ["REPRO_DOWNLOADS", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "http_proxy", "HTTP_PROXY"]
    {
        command.env_remove(name);
    }
    command.env("HOME", project.path("")).envs(variables.iter().copied());
    finished(command.output().unwrap())
}

#[test]
fn with_nothing_on_disk_one_screen_says_what_to_do() {
    let project = Project::new();
    let told = run(&project, &["make", "all", "--profile", "paper"], &[]).expect(3);
    let words = [
        "step `hmd-download` needs you",
        "https://hatefulmemeschallenge.com/",
        "downloads/hateful_memes.zip",
        "REPRO_HMD_PASSWORD",
        "step `mmh-download` needs you",
        "downloads/mmhs150k.zip",
        "kaggle.json",
        "go on with `repro make all --profile paper`",
    ];
    for words in words {
        assert!(told.err.contains(words), "{words}\n{}", told.err);
    }
    let rows: usize = told.err.lines().map(|line| line.chars().count().div_ceil(SCREEN.1)).sum();
    assert!(rows < SCREEN.0, "{rows} rows\n{}", told.err);
    assert_eq!((told.out.as_str(), project.cached("work")), ("", 0), "nothing was begun");
}

#[test]
fn archives_in_their_official_layouts_are_taken_without_another_word() {
    let made = made();
    let project = Project::new();
    let memes = made.project.path(&format!("cache/trees/{}", made.project.trees()["memes"]));
    fs::create_dir(project.path("downloads")).unwrap();
    fs::copy(memes.join("hateful_memes.zip"), project.path("downloads/hateful_memes.zip")).unwrap();
    // The other one lies where this person keeps downloads.
    let kept = project.path("kept");
    fs::create_dir(&kept).unwrap();
    fs::copy(memes.join("mmhs150k.zip"), kept.join("mmhs150k.zip")).unwrap();

    let secret = project.path("password");
    fs::write(&secret, SECRET).unwrap();
    let variables = [("REPRO_DOWNLOADS", kept.as_path()), ("REPRO_HMD_PASSWORD_FILE", &secret)];
    let done =
        run(&project, &["make", "hmd-samples", "mmh-samples", "--profile", "paper"], &variables).expect(0);
    let steps = ["hmd-download", "hmd-files", "hmd-samples", "mmh-download", "mmh-samples"];
    assert_eq!(done.ran(), steps);
    assert!(!done.err.contains("needs you"), "{}", done.err);
    // The same samples as the mini profile makes of the same archives.
    for step in ["hmd-samples", "mmh-samples"] {
        assert_eq!(project.trees()[step], made.project.trees()[step], "{step}");
    }
    // Nothing more is asked of a person for all the rest.
    let rest = run(&project, &["make", "all", "--profile", "paper", "--dry-run"], &variables).expect(0);
    assert!(!rest.err.contains("needs you"), "{}", rest.err);
    fs::remove_file(secret).unwrap();
    no_file_knows_the_secret(project.path("").as_path());
}

#[test]
fn a_download_goes_through_the_proxy_that_the_environment_names() {
    let (address, proxy) = serve(vec![b"bytes"]);
    let project = fetching("http://memes.invalid/memes.bin", "");
    let proxy_url = format!("http://{address}");
    run(&project, &["make"], &[("http_proxy", Path::new(&proxy_url))]).expect(0);
    let heads = proxy.join().unwrap();
    assert!(heads[0].starts_with("GET http://memes.invalid/memes.bin HTTP/1.1"), "{heads:?}");
    assert_eq!(
        fs::read(project.path(&format!("cache/trees/{}/memes.bin", project.trees()["get"]))).unwrap(),
        b"bytes"
    );
}

#[test]
fn a_token_reaches_the_server_and_no_file_or_line() {
    let (address, server) = serve(vec![b"bytes", b""]);
    let project = fetching(&format!("http://{address}/memes.bin"), r#", token: "REPRO_MEMES""#);
    let variables = [("REPRO_MEMES", Path::new(SECRET))];
    let done = run(&project, &["make", "--json"], &variables).expect(0);
    // Nor when the file is gone.
    let failed = run(&project, &["make", "--force", "get"], &variables).expect(1);
    assert!(server.join().unwrap()[0].to_lowercase().contains(&format!("authorization: bearer {SECRET}")));
    let shown = run(&project, &["show", "get"], &variables).expect(0);
    for text in [&done.out, &done.err, &failed.out, &failed.err, &shown.out, &shown.err] {
        assert!(!text.contains(SECRET), "{text}");
    }
    no_file_knows_the_secret(project.path("").as_path());
}

#[test]
fn what_was_downloaded_once_is_pinned_and_another_content_is_refused() {
    let (address, server) = serve(vec![b"first", b"other", b"first"]);
    let project = fetching(&format!("http://{address}/memes.bin"), "");
    run(&project, &["make"], &[]).expect(0);
    let lock = fs::read_to_string(project.path("pipeline.lock")).unwrap();
    assert!(lock.contains(&format!("p/get/memes.bin {}", blake3::hash(b"first"))), "{lock}");
    let before = project.trees();
    let told = run(&project, &["make", "--force", "get"], &[]).expect(1);
    assert!(told.err.contains("`memes.bin` has changed"), "{}", told.err);
    assert_eq!(project.trees(), before, "the good one stays");
    run(&project, &["make"], &[]).expect(0);
    run(&project, &["make", "--force", "get"], &[]).expect(0);
    assert_eq!(fs::read_to_string(project.path("pipeline.lock")).unwrap(), lock);
    server.join().unwrap();
}

/// Looks into every file below `folder`, the cache and its logs among them.
#[track_caller]
fn no_file_knows_the_secret(folder: &Path) {
    for item in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = item.path();
        if item.file_type().unwrap().is_dir() {
            no_file_knows_the_secret(&path);
        } else {
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()), "{}", path.display());
        }
    }
}
