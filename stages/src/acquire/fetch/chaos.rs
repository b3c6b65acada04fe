//! Five hundred downloads from a server that breaks, stalls, sends wrong bytes and changes the file: each ends in the right bytes or
//! in an error, none in wrong bytes. What goes wrong is drawn from a seeded generator.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use stage_api::testing::run_stage;

use super::{Fetch, RetryPolicy};

/// A `fetch` that waits for nothing long.
pub fn patient() -> Fetch {
    Fetch {
        retry_policy: RetryPolicy {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(4),
            longest_asked: Duration::from_secs(2),
            stall: Duration::from_millis(300),
            ..RetryPolicy::default()
        },
    }
}

/// What the server does to one request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Breaks the connection at a byte.
    Cut,
    /// Sends some and falls silent.
    Stall,
    /// Announces more than it has.
    Longer,
    /// Announces and sends less than it has, as if that were all.
    Shorter,
    /// Sends the whole file whatever part was asked for.
    NoRanges,
    /// Sends another part than it says.
    WrongPart,
    /// Says that the part asked for does not exist.
    NoPart,
    /// Busy, with a time to come back in seconds or as a date.
    Busy,
    /// Failed.
    Error,
    /// Another version of the file from now on.
    Change,
    /// Breaks off in the middle of chunks.
    Chunks,
    /// Answers nothing that is HTTP.
    Noise,
}

const FAULTS: [Fault; 12] = [
    Fault::Cut,
    Fault::Stall,
    Fault::Longer,
    Fault::Shorter,
    Fault::NoRanges,
    Fault::WrongPart,
    Fault::NoPart,
    Fault::Busy,
    Fault::Error,
    Fault::Change,
    Fault::Chunks,
    Fault::Noise,
];
/// Faults that only a known digest detects.
const UNDETECTABLE: [Fault; 2] = [Fault::Shorter, Fault::WrongPart];

/// One file of the server and what it does to the requests for it, one after the other.
struct Story {
    versions: Vec<Vec<u8>>,
    now: usize,
    faults: Vec<Fault>,
    /// Whether it tells versions apart by a tag.
    tagged: bool,
    rng: ChaCha8Rng,
}

impl Story {
    fn new(seed: u64, known: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let size = rng.random_range(0..100_000);
        let versions = (0..2).map(|_| {
            // Of one length or of two.
            let size = if rng.random_bool(0.5) { size } else { rng.random_range(0..100_000) };
            let mut bytes = vec![0; size];
            rng.fill_bytes(&mut bytes);
            bytes
        });
        let versions = versions.collect();
        let count = rng.random_range(0..6);
        let faults = std::iter::repeat_with(|| FAULTS[rng.random_range(0..FAULTS.len())])
            .filter(|fault| known || !UNDETECTABLE.contains(fault))
            .take(count)
            .collect();
        Self { versions, now: 0, faults, tagged: rng.random_bool(0.7), rng }
    }

    fn answer(&mut self, head: &str, mut stream: &TcpStream) -> std::io::Result<()> {
        let fault = if self.faults.is_empty() { None } else { Some(self.faults.remove(0)) };
        if fault == Some(Fault::Change) {
            self.now = 1 - self.now;
        }
        let body = &self.versions[self.now];
        let tag = format!("\"v{}\"", self.now);
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let range =
            header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let range: Option<usize> = range.filter(|_| header("if-range").is_none_or(|known| known == tag));
        let tag_line = if self.tagged { format!("etag: {tag}\r\n") } else { String::new() };
        let start = range.filter(|_| fault != Some(Fault::NoRanges)).unwrap_or(0);
        match fault {
            Some(Fault::Noise) => return stream.write_all(b"\x16\x03\x01 what?\r\n\r\n"),
            Some(Fault::Error) => {
                let status = if self.rng.random_bool(0.5) { 500 } else { 503 };
                return write!(stream, "HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n");
            }
            Some(Fault::Busy) => {
                let when = if self.rng.random_bool(0.5) {
                    "retry-after: 0"
                } else {
                    "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT"
                };
                return write!(stream, "HTTP/1.1 429 Busy\r\n{when}\r\ncontent-length: 0\r\n\r\n");
            }
            Some(Fault::NoPart) if range.is_some() => {
                return write!(
                    stream,
                    "HTTP/1.1 416 No\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n\r\n",
                    body.len() / 2
                );
            }
            _ => {}
        }
        if start > 0 && start >= body.len() {
            return write!(
                stream,
                "HTTP/1.1 416 No\r\ncontent-range: bytes */{}\r\ncontent-length: 0\r\n\r\n",
                body.len()
            );
        }
        if start > 0 {
            let said =
                if fault == Some(Fault::WrongPart) && self.rng.random_bool(0.5) { start + 1 } else { start };
            write!(
                stream,
                "HTTP/1.1 206 Part\r\ncontent-range: bytes {said}-{}/{}\r\n",
                body.len() - 1,
                body.len()
            )?;
        } else {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
        }
        let mut rest = body[start..].to_vec();
        if fault == Some(Fault::WrongPart) && !rest.is_empty() {
            rest[0] ^= 1;
        }
        let cut = self.rng.random_range(0..=rest.len());
        if fault == Some(Fault::Chunks) {
            write!(stream, "{tag_line}transfer-encoding: chunked\r\n\r\n")?;
            write!(stream, "{:x}\r\n", rest.len().max(1))?;
            return stream.write_all(&rest[..cut]);
        }
        let length = match fault {
            Some(Fault::Longer) => rest.len() + 100,
            Some(Fault::Shorter) => cut,
            _ => rest.len(),
        };
        write!(
            stream,
            "{tag_line}accept-ranges: bytes\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        match fault {
            Some(Fault::Cut) => stream.write_all(&rest[..cut]),
            Some(Fault::Stall) => {
                stream.write_all(&rest[..cut])?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            }
            Some(Fault::Shorter) => stream.write_all(&rest[..length]),
            _ => stream.write_all(&rest),
        }
    }
}

/// Serves one story at a port of its own until the listener's last story has ended.
fn serve(story: Arc<Mutex<Story>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && (&stream).read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            if head == b"STOP" {
                return;
            }
            // A client that has gone away is no trouble of the server.
            let _ = story.lock().unwrap().answer(&String::from_utf8_lossy(&head), &stream);
        }
    });
    url
}

/// Downloads once; `Ok` for the right bytes, `Err` for an error. Wrong bytes panic.
fn download(seed: u64) -> Result<(), String> {
    let known = !seed.is_multiple_of(4);
    let story = Story::new(seed, known);
    let (versions, faults) = (story.versions.clone(), story.faults.clone());
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let story = Arc::new(Mutex::new(story));
    let url = serve(Arc::clone(&story));
    let digest = if known { format!("\"{}\"", hex(&versions[0])) } else { String::new() };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let params = format!("(name: \"file.bin\", url: [\"{url}\"], sha256: [{digest}])");
    let result = run_stage(&patient(), &params, &[], &out);
    let address = url.trim_start_matches("http://").trim_end_matches("/file.bin");
    let _ = TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"STOP"));
    match result {
        Ok(_) => {
            let bytes = fs::read(out.join("file.bin")).unwrap();
            let right = if known { bytes == versions[0] } else { versions.contains(&bytes) };
            assert!(
                right,
                "wrong bytes for seed {seed}: {faults:?}, {} of {:?}",
                bytes.len(),
                versions.iter().map(Vec::len)
            );
            Ok(())
        }
        Err(error) => {
            assert!(!out.join("file.bin").exists(), "an error and a file for seed {seed}: {faults:?}");
            let error = error.to_string();
            assert!(error.contains("file.bin could not be fetched") && error.contains(&url), "{error}");
            Err(format!("{faults:?}: {error}"))
        }
    }
}

#[test]
fn five_hundred_downloads_end_in_the_right_bytes_or_in_an_error() {
    const DOWNLOADS: usize = 500;
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= DOWNLOADS {
                        return;
                    }
                    if let Err(error) = download(seed as u64) {
                        errors.lock().unwrap().push((seed, error));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    // Where nothing but the network was at fault, trying again always helps: an error needs a lie, or a file that changed
    // under its digest.
    let may_fail = |error: &str| ["Change", "Shorter", "WrongPart"].iter().any(|fault| error.contains(fault));
    let helpless = errors.iter().filter(|(_, error)| !may_fail(error)).collect::<Vec<_>>();
    assert!(helpless.is_empty(), "{} of {DOWNLOADS}: {helpless:#?}", helpless.len());
    assert!(!errors.is_empty() && errors.len() < DOWNLOADS / 3, "{} of {DOWNLOADS}", errors.len());
}
