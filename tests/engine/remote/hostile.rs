//! A hostile remote cache: false sizes and names, endless objects, silent servers. Each costs a warning, little
//! memory and a few seconds, and the step runs here.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use repro::digest::Digest;
use repro::tree::Manifest;

use super::{machine, made_alone, reports};
use crate::process::{Run, finished};
use crate::support::TestSpace;

/// Limit of memory for any object, in KiB.
const MEMORY: u64 = 2_000_000;

/// A folder that a first machine has filled.
fn filled() -> (TestSpace, String) {
    let first = machine();
    let store = first.path("store").display().to_string();
    first.run(&["make", "--remote", &store]).expect(0);
    (first, store)
}

/// The objects of a kind.
fn objects(store: &str, kind: &str) -> Vec<PathBuf> {
    let items = fs::read_dir(Path::new(store).join("v1").join(kind)).unwrap();
    items.map(|item| item.unwrap().path()).collect()
}

/// Builds everything with the remote cache under a limit of memory and time. It warns, and the result is right.
fn costs_a_warning(store: &str, what: &str) -> Run {
    let (second, since) = (machine(), Instant::now());
    let make = format!("ulimit -v {MEMORY}; exec timeout 60 \"$0\" make --remote-readonly --remote \"$1\"");
    let program = second.command(&[]).get_program().to_owned();
    // A server is an S3 one, because it may be unencrypted.
    let (place, port) = match store.strip_prefix("port ") {
        Some(port) => ("s3://results/paper", port),
        None => (store, "9"),
    };
    let mut command = Command::new("sh");
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")).env("AWS_ALLOW_HTTP", "true");
    command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b").env("AWS_DEFAULT_REGION", "c");
    command.arg("-c").arg(make).arg(program).arg(place).current_dir(second.path("")).env("NO_COLOR", "1");
    let run = finished(command.output().unwrap()).expect(0);
    assert!(run.err.contains("warning"), "{what}: {}", run.err);
    assert_eq!(reports(&second), made_alone(), "{what}");
    assert!(since.elapsed() < Duration::from_secs(40), "{what}: {:?}", since.elapsed());
    run
}

fn sealed(body: &str) -> String {
    format!("{}\n{body}", Digest::of_bytes(body.as_bytes()))
}

#[test]
fn false_sizes_in_a_tree_object() {
    for size in ["18446744073709551615", "9223372036854775807", "1099511627776", "184467440737095516150"] {
        let (first, store) = filled();
        // A record of a tree that names a file of that size.
        let digest = Digest::of_bytes(b"x");
        let list = format!("{digest} {size} file0\n");
        let tree = Manifest::parse(&list).map_or(digest, |manifest| manifest.digest());
        let record = first.record("large");
        let object = Path::new(&store).join("v1/records").join(record.key_text.key().to_string());
        let body = fs::read_to_string(&object).unwrap().split_once('\n').unwrap().1.to_owned();
        fs::write(&object, sealed(&body.replace(&record.tree.to_string(), &tree.to_string()))).unwrap();
        for chunks in [0, 1, 2] {
            let text = format!("{list}\n{}", format!("{digest}\n").repeat(chunks));
            fs::write(Path::new(&store).join("v1/trees").join(tree.to_string()), sealed(&text)).unwrap();
            costs_a_warning(&store, size);
        }
    }
}

#[test]
fn any_object_replaced_by_gigabytes() {
    for kind in ["records", "trees", "chunks"] {
        let (_first, store) = filled();
        for object in objects(&store, kind) {
            // A sparse file, which takes no space here.
            File::options().write(true).open(object).unwrap().set_len(4 << 30).unwrap();
        }
        let run = costs_a_warning(&store, kind);
        assert!(run.err.contains("it has 4294967296 bytes, more than the limit of "), "{kind}: {}", run.err);
    }
}

#[test]
fn objects_replaced_by_pipes_devices_links_and_folders() {
    for (kind, specials) in
        [("records", ["pipe", "folder"]), ("trees", ["device", "pipe"]), ("chunks", ["nowhere", "pipe"])]
    {
        for special in specials {
            let (first, store) = filled();
            for object in objects(&store, kind) {
                fs::remove_file(&object).unwrap();
                match special {
                    "pipe" => drop(Command::new("mkfifo").arg(&object).status().unwrap()),
                    "device" => symlink("/dev/zero", &object).unwrap(),
                    "folder" => fs::create_dir(&object).unwrap(),
                    _ => symlink("/nowhere/at/all", &object).unwrap(),
                }
            }
            let run = costs_a_warning(&store, special);
            assert!(run.err.contains("it is not a regular file"), "{kind} {special}: {}", run.err);
            // A machine with the results repairs what can be replaced.
            let push = first.run(&["push", "--again", "--remote", &store]);
            if special != "folder" {
                push.expect(0);
                assert_eq!(machine().run(&["make", "--remote", &store]).expect(0).ran(), [""; 0]);
            }
        }
    }
}

#[test]
fn a_record_that_contradicts_its_tree() {
    let (first, store) = filled();
    let record = first.record("left");
    let object = Path::new(&store).join("v1/records").join(record.key_text.key().to_string());
    let body = fs::read_to_string(&object).unwrap().split_once('\n').unwrap().1.to_owned();
    let (was, other) = (record.outputs["text"].to_string(), Digest::of_bytes(b"other").to_string());
    for body in [body.replace(&was, &other), body.replace("\"bytes\":", "\"bytes\":9")] {
        fs::write(&object, sealed(&body)).unwrap();
        costs_a_warning(&store, &body);
    }
}

/// A server that accepts, reads, and answers with `words`, one each second.
fn server(words: &'static [&'static str], last: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { continue };
            std::thread::spawn(move || {
                let _ = socket.read(&mut [0; 4096]);
                for word in words {
                    if socket.write_all(word.as_bytes()).is_err() {
                        return;
                    }
                }
                while last.is_empty() || socket.write_all(last.as_bytes()).is_ok() {
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
        }
    });
    port
}

#[test]
fn a_silent_or_very_slow_server_times_out_after_seconds() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                        ETag: \"1\"\r\nContent-Length: 100000\r\n\r\n";
    let servers = [
        (&[][..], ""),
        (&["HTTP/1.1 2"][..], ""),
        (&["HTTP/1.1 200 OK\r\n"][..], "x"),
        (&[HEAD][..], ""),
        (&[HEAD][..], "x"),
    ];
    // All at once: each is waited for.
    std::thread::scope(|scope| {
        for (words, last) in servers {
            scope.spawn(move || {
                let port = server(words, last);
                let run = costs_a_warning(&format!("port {port}"), &format!("{words:?} {last}"));
                assert_eq!(run.err.matches("warning").count(), 1, "{}", run.err);
                assert!(run.err.contains("continuing without the remote cache"), "{}", run.err);
            });
        }
    });
}
