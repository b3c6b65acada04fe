//! A real S3 server in this process, over a folder, that checks signatures and simulates failures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::runtime::Runtime;

type Body = UnsyncBoxBody<Bytes, io::Error>;

const KEY: &str = "AKEXAMPLE";
const SECRET: &str = "no-secret-at-all";

/// The simulated failures.
#[derive(Debug, Default)]
pub struct Faults {
    /// This many requests are answered with 503.
    pub unavailable: usize,
    /// This many bodies stop half way and never continue.
    pub stalled: usize,
    /// This many bodies end half way.
    pub cut: usize,
    /// After this many requests the server is dead.
    pub dies_after: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    requests: BTreeSet<(String, String)>,
}

/// The server.
pub struct Server {
    port: u16,
    folder: TempDir,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

impl Server {
    /// A server with an empty bucket `results`.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("results")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (service, state) = (service.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let answer =
                        service_fn(move |request| answer(service.clone(), Arc::clone(&state), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), answer)
                        .await;
                });
            }
        });
        Self { port, folder, state, _runtime: runtime }
    }

    /// Sets the address and the right credentials for a command.
    pub fn with(&self, mut command: Command) -> Command {
        command
            .env("REPRO_REMOTE", "s3://results/paper")
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_READ_TIMEOUT", "5s");
        command
    }

    /// Simulates these failures from now on.
    pub fn set(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// The number of objects per method since the last call; repeated requests count once.
    pub fn requests(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let distinct: BTreeSet<(String, String)> = std::mem::take(&mut self.state.lock().unwrap().requests);
        for (method, _) in distinct {
            *counts.entry(method).or_default() += 1;
        }
        counts
    }

    /// The files of the objects whose names have this prefix, by name.
    pub fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let folder = self.folder.path().join("results/paper/v1").join(kind);
        let mut found: Vec<PathBuf> = list(&folder);
        found.sort();
        found
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|item| item.unwrap().path())
        .filter(|path| path.is_file())
        .collect()
}

async fn answer(
    service: S3Service,
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let is_get = request.method() == Method::GET;
    let (stalls, cuts) = {
        let state = &mut *state.lock().unwrap();
        state.requests.insert((request.method().to_string(), request.uri().path().to_owned()));
        if let Some(left) = &mut state.faults.dies_after {
            if *left == 0 {
                return Err(io::Error::other("dead"));
            }
            *left -= 1;
        }
        let one_of = |number: &mut usize| {
            let is_due = *number > 0;
            *number = number.saturating_sub(1);
            is_due
        };
        if one_of(&mut state.faults.unavailable) {
            let body = Full::new(Bytes::from("slow down")).map_err(|never| match never {}).boxed_unsync();
            return Ok(Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(body).unwrap());
        }
        (is_get && one_of(&mut state.faults.stalled), is_get && one_of(&mut state.faults.cut))
    };
    let response = hyper::service::Service::call(&service, request)
        .await
        .map_err(|e| io::Error::other(format!("{e:?}")))?;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(|error| io::Error::other(error.to_string()))?.to_bytes();
    let whole = Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync();
    if !(stalls || cuts) || parts.status != StatusCode::OK {
        return Ok(Response::from_parts(parts, whole));
    }
    let half = bytes.slice(..bytes.len() / 2);
    let frames = stream::unfold(Some(half), move |half| async move {
        match half {
            Some(half) => Some((Ok(Frame::data(half)), None)),
            None if stalls => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                None
            }
            None => Some((Err(io::Error::other("cut")), None)),
        }
    });
    Ok(Response::from_parts(parts, StreamBody::new(frames).boxed_unsync()))
}
