//! A second machine reuses the results of the first: what is requested, what is fetched, what runs.

use std::fs;

use super::server::Server;
use super::{machine, made_alone, on, reports};
use crate::support::TestSpace;

#[test]
fn a_second_machine_runs_nothing_and_fetches_only_what_it_publishes() {
    let (server, first, second) = (Server::start(), machine(), machine());
    let run = on(&server, &first, &["make"]).expect(0);
    assert_eq!(run.ran(), ["head", "large", "left", "many", "table"]);
    assert!(run.err.contains("pushed 5 results"), "{}", run.err);
    let run = on(&server, &second, &["make"]).expect(0);
    assert_eq!(run.ran(), [""; 0]);
    assert_eq!((reports(&second), second.trees()), (reports(&first), first.trees()));
    assert_eq!(reports(&second), made_alone());
    assert_eq!(second.cached("trees").len(), 1, "only the table's bytes are needed");
    server.requests();
    assert!(on(&server, &second, &["make"]).expect(0).err.starts_with("nothing to do"));
    assert!(server.requests().is_empty(), "without work there is no request");
}

#[test]
fn a_large_file_is_sent_in_chunks_and_each_is_sent_once() {
    let (server, first, second) = (Server::start(), machine(), machine());
    let large = super::STEPS.replace("kilobytes: 50", "kilobytes: 17000");
    first.steps(&large);
    second.steps(&large);
    on(&server, &first, &["make", "large"]).expect(0);
    assert_eq!(server.objects("chunks").len(), 3);
    fs::remove_file(&server.objects("chunks")[1]).unwrap();
    server.requests();
    on(&server, &first, &["push", "large", "--again"]).expect(0);
    on(&server, &second, &["pull", "large"]).expect(0);
    assert_eq!(second.trees(), first.trees());
    second.run(&["verify"]).expect(0);
}

#[test]
fn keys_that_become_known_during_the_run_are_looked_up() {
    let (server, first, second) = (Server::start(), machine(), machine());
    on(&server, &first, &["make"]).expect(0);
    // Another seed, but `head` reads only the first bytes, which are the same.
    let changed = super::STEPS.replace("\"left/text\", \"large/file0\"", "\"left/text\"").replace(
        "(name: \"head\"",
        "(name: \"again\", stage: \"join\", params: (text: \"new\"), inputs: {\"in\": [\"head/text\"]}), (name: \"head\"",
    );
    second.steps(&changed);
    let run = on(&server, &second, &["make"]).expect(0);
    assert_eq!(run.ran(), ["again", "head", "table"], "{}", run.err);
    // And back: the key of `table` is known only after `head` has run here again.
    let third = machine();
    third.steps(&super::STEPS.replace("(chars: 3)", "(chars: 2)"));
    on(&server, &third, &["make"]).expect(0);
    third.steps(super::STEPS);
    let run = on(&server, &third, &["make"]).expect(0);
    assert_eq!(run.ran(), [""; 0], "{}", run.err);
    assert_eq!(reports(&third), reports(&first));
}

#[test]
fn after_an_early_cutoff_here_the_rest_is_fetched() {
    let steps = |text: &str| {
        format!(
            r#"(name: "a", stage: "join", params: (text: "{text}")),
               (name: "b", stage: "head", params: (chars: 1), inputs: {{"in": ["a/text"]}}),
               (name: "c", stage: "join", params: (text: "c"), inputs: {{"in": ["b/text"]}}),
               (name: "d", stage: "join", params: (text: "d"), inputs: {{"in": ["c/text"]}}, publish: "."),"#
        )
    };
    let (server, first, second) =
        (Server::start(), TestSpace::new(&steps("x1")), TestSpace::new(&steps("x2")));
    on(&server, &first, &["make"]).expect(0);
    let run = on(&server, &second, &["make"]).expect(0);
    assert_eq!(run.ran(), ["a", "b"], "the readers of `b` come from the first machine: {}", run.err);
    assert!(run.err.contains("d fetched"), "{}", run.err);
    assert_eq!(reports(&second), reports(&first));
}

#[test]
fn push_and_pull_by_hand() {
    let (server, first, second) = (Server::start(), machine(), machine());
    first.make().expect(0);
    let run = on(&server, &first, &["push", "--json"]).expect(0);
    let pushed: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(pushed["pushed"].as_array().unwrap().len(), 5);
    let run = on(&server, &first, &["push"]).expect(0);
    assert!(run.err.contains("5 results were there already"), "{}", run.err);
    let run = on(&server, &second, &["pull", "many", "--json"]).expect(0);
    let pulled: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!((&pulled["fetched"], &pulled["bytes"]), (&serde_json::json!(["many"]), &(40 * 1024).into()));
    let status = second.run(&["status", "-v"]).expect(0).out;
    assert!(
        status.contains("fresh    many") && status.contains("stale    large"),
        "only that was requested: {status}"
    );
    second.steps(&super::STEPS.replace("seed: 2", "seed: 3"));
    let run = on(&server, &second, &["pull"]).expect(4);
    assert!(run.err.contains("`many` is not in s3://results/paper"), "{}", run.err);
    second.run(&["push"]).expect(2);
}

#[test]
fn a_read_only_machine_writes_nothing() {
    let (server, first, second) = (Server::start(), machine(), machine());
    on(&server, &first, &["make", "left"]).expect(0);
    server.requests();
    let run = on(&server, &second, &["make", "--remote-readonly"]).expect(0);
    assert_eq!(run.ran(), ["head", "large", "table"], "{}", run.err);
    let requests = server.requests();
    assert!(requests.keys().all(|method| method == "GET" || method == "HEAD"), "{requests:?}");
    let run = on(&server, &second, &["push", "--remote-readonly"]).expect(2);
    assert!(run.err.contains("s3://results/paper is only read from"), "{}", run.err);
}

#[test]
fn a_folder_can_be_a_remote_cache() {
    let (first, second, folder) = (machine(), machine(), tempfile::tempdir().unwrap());
    let store = folder.path().join("not/yet/there");
    let store = store.to_str().unwrap();
    first.run(&["make", "--remote", store]).expect(0);
    let run = second.run(&["make", "--remote", store]).expect(0);
    assert_eq!(run.ran(), [""; 0]);
    assert_eq!(reports(&second), made_alone());
}

#[test]
fn an_invalid_remote_is_an_error() {
    let space = machine();
    for (place, expected) in [
        ("ftp://x/y", "is not a remote cache"),
        ("s3://", "is not a remote cache"),
        ("https://me:secret@host/x", "the URL contains a password, which others could read"),
    ] {
        let run = space.run(&["make", "--remote", place]).expect(2);
        assert!(run.err.contains(expected) && !run.err.contains("secret@"), "{place}: {}", run.err);
    }
    space.run(&["pull"]).expect(2);
}
