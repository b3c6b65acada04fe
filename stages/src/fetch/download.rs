//! One download over HTTP that survives a broken connection: what has arrived stays in a part file, and the next
//! attempt asks for the rest. It does not know what the bytes should be.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_RANGE, RANGE};
use stage_api::{Job, StageError};

/// How often one address is asked in a row while each attempt fails on the way.
const ATTEMPTS: u32 = 4;

/// The longest wait for a sign of life from the server.
const WAIT: Duration = Duration::from_secs(60);

/// Downloads `url` into `part`, continuing what is there.
///
/// # Errors
/// An address that cannot be reached or refuses; a body that still ends early after several attempts.
pub fn download(url: &str, part: &Path, job: &Job) -> Result<(), StageError> {
    let client = client()?;
    let mut last = String::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            job.progress.note(&format!("{last}; trying again"));
            std::thread::sleep(Duration::from_millis(100 << attempt));
        }
        job.checkpoint()?;
        match once(&client, url, part, job) {
            Ok(()) => return Ok(()),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Broken(problem)) => last = problem,
        }
    }
    Err(StageError::failed(format!("{last}; what arrived is kept, run again to continue")))
}

enum Failure {
    /// Trying again gives the same.
    Final(StageError),
    /// The connection failed; trying again may help.
    Broken(String),
}

fn client() -> Result<Client, StageError> {
    static PROVIDER: Once = Once::new();
    // An error here says that a provider is installed already, which is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder()
        // Bounds each wait for an answer or for bytes, not the whole download, which may take hours.
        .timeout(WAIT)
        .build()
        .map_err(|error| StageError::from_chain(&error))
}

fn once(client: &Client, url: &str, part: &Path, job: &Job) -> Result<(), Failure> {
    let have = fs::metadata(part).map_or(0, |meta| meta.len());
    let mut request = client.get(url);
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().map_err(|error| Failure::Broken(chain(&error)))?;
    let status = response.status();
    let start = match status {
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        StatusCode::OK => 0,
        // The part is whole, or the file has become shorter: the digest tells. Without one, begin anew.
        StatusCode::RANGE_NOT_SATISFIABLE if whole_length(&response) == Some(have) => return Ok(()),
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            fs::remove_file(part).map_err(|error| Failure::Final(error.into()))?;
            return Err(Failure::Broken(format!("the server cannot continue at byte {have}")));
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Failure::Broken(format!("the server answered {status}")));
        }
        status => return Err(Failure::Final(StageError::failed(format!("the server answered {status}")))),
    };
    let total = response.content_length().map_or(0, |length| start + length);
    let file = if start > 0 { OpenOptions::new().append(true).open(part) } else { File::create(part) };
    let file = file.map_err(|error| Failure::Final(StageError::input("", part, error)))?;
    copy(response, file, start, total, job)
}

fn copy(mut response: Response, mut file: File, start: u64, total: u64, job: &Job) -> Result<(), Failure> {
    let mut done = start;
    let mut buffer = vec![0; 1 << 18];
    loop {
        job.checkpoint().map_err(Failure::Final)?;
        // A body shorter than announced is an error of the reader, so it ends here and not as a short file.
        let read = response.read(&mut buffer).map_err(|error| {
            Failure::Broken(format!("the connection broke at byte {done}: {}", chain(&error)))
        })?;
        if read == 0 {
            return file.sync_all().map_err(|error| Failure::Final(error.into()));
        }
        file.write_all(&buffer[..read]).map_err(|error| Failure::Final(error.into()))?;
        done += read as u64;
        job.progress.advance(done, total.max(done));
    }
}

/// The first byte of a `content-range: bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The whole length in a `content-range: bytes */10`.
fn whole_length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_RANGE)?.to_str().ok()?.rsplit('/').next()?.parse().ok()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    StageError::from_chain(error).to_string()
}
