//! MLflow's server as it should not be, and a plain one that writes down what it is asked. That a real one keeps what it is
//! sent is what `tests/export/read_back.py` shows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use stage_api::testing::Recorder;
use stage_api::{Host, Results, StepView};

use super::super::tracked::sample;
use super::*;

struct Nothing;

impl Results for Nothing {
    fn root(&self) -> &Path {
        Path::new(".")
    }
    fn file(&self) -> &Path {
        Path::new("pipeline.ron")
    }
    fn profile(&self) -> &str {
        "mini"
    }
    fn steps(&self) -> Vec<StepView> {
        Vec::new()
    }
    fn output(&self, step: &str) -> Result<PathBuf, StageError> {
        Err(StageError::failed(step))
    }
}

fn send(server: Option<&str>, variables: &[(&str, &str)]) -> Result<String, StageError> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let context = ToolContext {
        results: &Nothing,
        host: &Host { device: "cpu".to_owned(), threads: 1 },
        allowed_env: &AllowedEnv::select(VARIABLES, variables),
        progress: &Recorder::default(),
        columns: None,
    };
    export(&sample(), server, &context)
}

/// A server that gives these answers (status, body) one after the other, and what it was asked: request line, headers and
/// body as one text each.
fn server(answers: Vec<(u16, &'static str)>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                head.push_str(&line);
            }
            let mut text = vec![0; length];
            reader.read_exact(&mut text).unwrap();
            let _ = sender.send(head + &String::from_utf8(text).unwrap());
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    (address, asked)
}

const FOUND: (u16, &str) = (200, r#"{"experiment": {"experiment_id": "7"}}"#);
const NO_RUNS: (u16, &str) = (200, "{}");
const BEGUN: (u16, &str) = (200, r#"{"run": {"info": {"run_id": "abc"}}}"#);
const DONE: (u16, &str) = (200, "{}");

#[test]
fn a_run_is_begun_filled_and_finished() {
    let missing = (404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "x"}"#);
    let made = (200, r#"{"experiment_id": "7"}"#);
    let (address, asked) = server(vec![missing, made, NO_RUNS, BEGUN, DONE, DONE, DONE]);
    let variables = [("MLFLOW_EXPERIMENT_NAME", "my memes"), ("MLFLOW_TRACKING_TOKEN", "t0ken")];
    let at = send(Some(&address), &variables).unwrap();
    assert_eq!(at, format!("{address}/#/experiments/7/runs/abc"));
    let asked: Vec<String> = asked.iter().collect();
    let lines: Vec<&str> = asked.iter().filter_map(|text| text.lines().next()?.split(' ').nth(1)).collect();
    let api = |path: &str| format!("/api/2.0/mlflow/{path}");
    let expected = [
        api("experiments/get-by-name?experiment_name=my%20memes"),
        api("experiments/create"),
        api("runs/search"),
        api("runs/create"),
        api("runs/log-batch"),
        api("runs/log-batch"),
        api("runs/update"),
    ];
    assert_eq!(lines, expected);
    assert!(asked.iter().all(|text| text.to_ascii_lowercase().contains("authorization: bearer t0ken")));
    let body = |text: &String| -> Value { serde_json::from_str(text.lines().last().unwrap()).unwrap() };
    assert_eq!(body(&asked[3])["start_time"], 1_700_000_000_000u64);
    assert_eq!(body(&asked[4])["params"][1], json!({"key": "lr", "value": "0.005"}));
    let nan = json!({"key": "val/loss", "value": "NaN", "timestamp": 1_700_000_008_000u64, "step": 40});
    assert_eq!(body(&asked[5])["metrics"][2], nan);
    let end = json!({"run_id": "abc", "status": "FINISHED", "end_time": 1_700_000_008_000u64});
    assert_eq!(body(&asked[6]), end);
}

#[test]
fn a_run_that_is_there_is_not_sent_again() {
    let there = (200, r#"{"runs": [{"info": {"run_id": "old"}}]}"#);
    let (address, asked) = server(vec![FOUND, there]);
    let at = send(None, &[("MLFLOW_TRACKING_URI", &address)]).unwrap();
    assert!(at.ends_with("/runs/old"), "{at}");
    let asked: Vec<String> = asked.iter().collect();
    assert!(asked.len() == 2 && asked[1].contains("repro.key` = '0123456789abcdef'"), "{asked:?}");
}

#[test]
fn a_run_that_cannot_be_filled_is_marked_as_failed() {
    let full = (500, r#"{"error_code": "INTERNAL_ERROR", "message": "disk full"}"#);
    let (address, asked) = server(vec![FOUND, NO_RUNS, BEGUN, full, DONE]);
    let error = send(Some(&address), &[]).unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("500") && error.contains("disk full"), "{error}");
    assert!(asked.iter().last().unwrap().contains("\"FAILED\""));
}

#[test]
fn what_is_wrong_with_a_server_is_reported_without_its_login() {
    let secrets = [("MLFLOW_TRACKING_USERNAME", "me"), ("MLFLOW_TRACKING_PASSWORD", "s3cret")];
    let (address, asked) = server(vec![(401, "")]);
    let error = send(Some(&address.replace("//", "//you:pa55@")), &secrets).unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("MLFLOW_TRACKING_TOKEN"), "{error}");
    assert!(!error.contains("s3cret") && !error.contains("pa55"), "{error}");
    // me:s3cret, in base64 and small letters
    assert!(asked.recv().unwrap().to_ascii_lowercase().contains("authorization: basic bwu6cznjcmv0"));

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = send(Some(&format!("http://you:pa55@{closed}")), &[]).unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("is it running"), "{error}");
    assert!(!error.contains("pa55"), "{error}");

    let (address, _asked) = server(vec![(200, "<html>")]);
    let error = send(Some(&address), &[]).unwrap_err().to_string();
    assert!(error.contains("not JSON"), "{error}");
    let (address, _asked) = server(vec![(404, "<html>")]);
    assert!(send(Some(&address), &[]).unwrap_err().to_string().contains("404"));
}

#[test]
fn a_server_must_be_named_and_speak_http() {
    for (server, words) in
        [(None, "MLFLOW_TRACKING_URI"), (Some("mlruns"), "http://"), (Some("file:///pa55"), "http://")]
    {
        let error = send(server, &[]).unwrap_err();
        assert!(matches!(&error, StageError::Params(problem) if problem.contains(words)), "{error}");
        assert!(!error.to_string().contains("pa55"), "{error}");
    }
}
