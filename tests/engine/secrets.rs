//! Secrets of a pipeline appear nowhere in clear: values of variables, logins and queries of URLs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::process::finished;
use super::support::TestSpace;

const STEPS: &str = r#"
    (name: "a", stage: "command", params: (shell: "echo b > {out}/b", pass_env: ["TOKEN"])),
    (name: "b", stage: "command", inputs: {"in": "a/b"}, params: (shell: "cat {input.in} > {out}/b"), publish: "b"),
"#;

/// The files of the project that contain these bytes, except for the pipeline file and its stored copies.
fn holding(space: &TestSpace, bytes: &[u8]) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![space.path("")]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap().flatten() {
            let path = item.path();
            if item.file_type().unwrap().is_dir() {
                if !path.ends_with("cache/pipelines") {
                    folders.push(path);
                }
            } else if !path.ends_with("pipeline.ron")
                && fs::read(&path).unwrap().windows(bytes.len()).any(|part| part == bytes)
            {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_value_of_a_variable_is_nowhere_in_clear() {
    let space = TestSpace::new(STEPS);
    let store = space.path("store").to_str().unwrap().to_owned();
    let run = |args: &[&str], token: Option<&str>| {
        let mut command = space.command(args);
        match token {
            Some(token) => command.env("TOKEN", token),
            None => command.env_remove("TOKEN"),
        };
        finished(command.output().unwrap())
    };
    let mut output = String::new();
    for args in [
        &["make", "--json", "--remote", &store][..],
        &["make"],
        &["make"],
        &["evidence"],
        &["show", "a", "--json"],
        &["status", "--json"],
    ] {
        let run = run(args, Some("S3KRET")).expect(0);
        output += &(run.out + &run.err);
    }
    for other in [Some("S3KRET2"), None] {
        let (why, json) =
            (run(&["why", "a"], other).expect(0), run(&["why", "a", "--json"], other).expect(0));
        assert!(why.out.contains("environment variable TOKEN"), "{}", why.out);
        output += &(why.out + &json.out);
    }
    assert!(!output.contains("S3KRET"), "{output}");
    assert_eq!(holding(&space, b"S3KRET"), Vec::<PathBuf>::new());
    let plain = repro::digest::Digest::of_bytes(b"S3KRET").to_string();
    assert_eq!(holding(&space, plain.as_bytes()), Vec::<PathBuf>::new());
    // Another machine with the same value uses the result.
    let second = TestSpace::new(STEPS);
    let mut make = second.command(&["make", "--remote", &store]);
    assert_eq!(finished(make.env("TOKEN", "S3KRET").output().unwrap()).expect(0).ran(), [""; 0]);
    let mut make = second.command(&["make", "--remote", &store]);
    assert_eq!(finished(make.env("TOKEN", "another").output().unwrap()).expect(0).ran(), ["a"]);
}

#[test]
fn different_values_of_a_variable_differ() {
    let space = TestSpace::new(STEPS);
    let run = |value: Option<&[u8]>| {
        let mut command = space.command(&["make", "a"]);
        match value {
            Some(value) => command.env("TOKEN", std::ffi::OsStr::from_bytes(value)),
            None => command.env_remove("TOKEN"),
        };
        finished(command.output().unwrap()).expect(0)
    };
    let values: [Option<&[u8]>; 8] = [
        Some(b"caf\xe9"),
        Some(b"caf\xe8"),
        Some("caf\u{fffd}".as_bytes()),
        None,
        Some(b"(not set)"),
        Some(b"not set"),
        Some(b""),
        Some(b"\""),
    ];
    for value in values {
        assert_eq!(run(value).ran(), ["a"], "{value:?}");
        assert_eq!(run(value).ran(), [""; 0], "{value:?}");
    }
    for value in values {
        assert_eq!(run(value).ran(), [""; 0], "{value:?}");
    }
}

#[test]
fn a_version_that_is_not_text_counts_by_its_bytes() {
    let space = TestSpace::new(
        r#"(name: "a", stage: "command", params: (shell: "echo > {out}/x", version: ["/bin/cat", "VERSION"])),"#,
    );
    let file = space.path("version").to_str().unwrap().to_owned();
    space.write("pipeline.ron", &space.read("pipeline.ron").replace("VERSION", &file));
    for version in [&b"caf\xe9"[..], b"caf\xe8"] {
        fs::write(space.path("version"), version).unwrap();
        // A run that executes steps runs the version command again.
        let ran = space.run(&["make", "--force", "a"]).expect(0);
        assert_eq!(ran.ran(), ["a"]);
    }
    assert_eq!(space.records(), 2, "two keys");
}

#[test]
fn logins_and_queries_of_urls_are_not_shown_and_not_recorded() {
    let step = |url: &str| {
        format!(
            r#"(name: "a", stage: "command", params: (shell: "echo {url} > /dev/null; echo 1 > {{out}}/x; echo see {url} >&2; exit CODE")),"#
        )
    };
    let url = "https://me:S3KRET@host.example/file?sig=S1GNED";
    let space = TestSpace::new(&step(url).replace("CODE", "0"));
    let store = format!("{}?sig=S1GNED", space.path("store").display());
    let mut output = String::new();
    for args in [
        &["make", "--json"][..],
        &["make"],
        &["show", "a"],
        &["show", "a", "--json"],
        &["list", "--json"],
        &["evidence"],
    ] {
        let run = space.run(args);
        output += &(run.out + &run.err);
    }
    space.steps(&step("https://me:S3KRET2@host.example/file?sig=S1GNED2").replace("CODE", "0"));
    for args in [&["why", "a"][..], &["why", "a", "--json"], &["status", "--json"]] {
        output += &space.run(args).expect(0).out;
    }
    assert!(output.contains("host.example/file"), "{output}");
    assert_eq!(space.make().expect(0).ran(), ["a"], "another query is another address");
    // An error may name it, and so may the excerpt of the pipeline file.
    space.steps(&step(url).replace("CODE", "3"));
    output += &space.make().expect(1).err;
    space.steps(&step(url).replace("stage: \"command\"", "stage: \"comand\""));
    output += &space.make().expect(2).err;
    for place in
        [store.as_str(), "https://S3KRET@127.0.0.1:9/x?sig=S1GNED", "https://me:S3KRET@127.0.0.1:9/x"]
    {
        let run = space.run(&["pull", "--remote", place]);
        output += &(run.out + &run.err);
    }
    for secret in ["S3KRET", "S1GNED"] {
        assert!(!output.contains(secret), "{output}");
    }
    // The step's own log holds what the step prints.
    let found: Vec<PathBuf> = holding(&space, b"S3KRET")
        .into_iter()
        .filter(|path| !path.parent().unwrap().ends_with("logs"))
        .collect();
    assert_eq!(found, Vec::<PathBuf>::new());
}

/// Answers each connection with `head` and returns the headers of the first request.
fn listen(head: String) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let _ = sender.send(request.join("\n"));
            let _ = (&stream).write_all(head.as_bytes());
        }
    });
    (port, receiver)
}

#[test]
fn signing_headers_follow_no_redirect_to_another_host() {
    let (other_port, reached) =
        listen("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
    let (port, requests) = listen(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:{other_port}/x?sig=S1GNED\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    ));
    let space = TestSpace::new(STEPS);
    let mut command = space.command(&["make", "--remote", "s3://results/x"]);
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")).env("AWS_ALLOW_HTTP", "true");
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("AWS_SESSION_TOKEN", "S3SSION").env("AWS_DEFAULT_REGION", "us-east-1").env("TOKEN", "t");
    let run = finished(command.output().unwrap()).expect(0);
    assert!(requests.recv().unwrap().to_ascii_lowercase().contains("x-amz-security-token: s3ssion"));
    assert!(reached.try_recv().is_err(), "the other host got no request");
    assert!(run.err.contains("another host") && !run.err.contains("S1GNED"), "{}", run.err);
}
