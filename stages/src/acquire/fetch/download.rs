//! One download over HTTP that survives whatever a network does: a broken connection is continued where it broke, a
//! file that changed is downloaded again, a busy server is waited for. It does not know what the bytes should be.

use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use reqwest::redirect::Policy;
use sha2::{Digest, Sha256};
use stage_api::{Job, StageError, Unit, secrets};

use super::part::{Origin, Part, hex};
use super::response::{self, Outcome};
use super::retry::RetryPolicy;
use crate::host::{disk_space, http_client};

/// Who asks.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Anybody.
    #[default]
    None,
    /// The bearer of a token.
    Bearer(String),
    /// A user with a password or key.
    User(String, String),
}

/// An address to download from.
pub struct Source {
    /// The address.
    pub url: String,
    /// Who asks there, and nowhere that it leads on to.
    pub login: Credentials,
}

impl Source {
    /// The address without what may be a secret in it.
    pub fn shown(&self) -> String {
        secrets::shown(&self.url)
    }

    /// What is noted of the address on disk: it tells two addresses apart, and holds no secret.
    pub fn noted(&self) -> String {
        hex(&Sha256::digest(self.url.as_bytes()))
    }
}

/// Why a source did not give the file.
#[derive(Debug)]
pub enum Failure {
    /// The job was cancelled, or the disk does not take it: no other source would help.
    Job(StageError),
    /// The server wants a login that it accepts.
    Refused(String),
    /// Anything else.
    Source(String),
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self::Job(error)
    }
}

/// Downloads from one source after the other with the same settings.
pub struct Downloader<'a> {
    client: Client,
    retry_policy: RetryPolicy,
    job: &'a Job<'a>,
    /// The file's name and, where it is known, its length.
    file: (&'a str, Option<u64>),
}

/// What one attempt came to.
enum Attempt {
    Arrived,
    /// Trying again may help, after the pause that the server asked for.
    Again(String, Option<Duration>),
    Over(Failure),
}

/// Why an answer ended before its body did.
enum Broken {
    Job(StageError),
    TooLong,
    Connection(String),
}

impl<'a> Downloader<'a> {
    /// A downloader for the file of this name and, where it is known, length.
    ///
    /// # Errors
    /// When the system's certificates cannot be used.
    pub fn new(
        retry_policy: RetryPolicy,
        file: (&'a str, Option<u64>),
        job: &'a Job<'a>,
    ) -> Result<Self, StageError> {
        let client = http_client()
            // Bounds each wait for an answer or for bytes, not the whole download, which may take hours.
            .timeout(retry_policy.stall)
            .redirect(Policy::custom(|attempt| {
                let from_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                match attempt.previous().len() {
                    0..10 if from_secure && attempt.url().scheme() != "https" => {
                        attempt.error("it leads from https to http")
                    }
                    0..10 => attempt.follow(),
                    _ => attempt.error("it leads on and on"),
                }
            }))
            .build()
            .map_err(|error| StageError::from_chain(&error))?;
        Ok(Self { client, retry_policy, job, file })
    }

    /// Brings `part` to the whole file.
    ///
    /// # Errors
    /// See [`Failure`]. What has arrived stays in `part`.
    pub fn download(&self, source: &Source, part: &mut Part) -> Result<(), Failure> {
        let (mut failures, mut best) = (0, part.len());
        loop {
            self.job.check_cancelled()?;
            let attempt = self.once(source, part).unwrap_or_else(Attempt::Over);
            let more = match attempt {
                Attempt::Arrived => return Ok(()),
                Attempt::Over(failure) => Err(failure),
                Attempt::Again(problem, asked) => Ok((problem, asked)),
            };
            // Another process, or the next attempt at another address, may go on from here.
            part.keep().map_err(disk)?;
            let (problem, asked) = more?;
            // A connection that breaks again and again is no obstacle as long as it brings something.
            failures = if part.len() > best { 1 } else { failures + 1 };
            best = best.max(part.len());
            if failures >= self.retry_policy.attempts {
                return Err(Failure::Source(format!(
                    "{problem}; {failures} attempts in a row brought nothing new"
                )));
            }
            let pause = self.retry_policy.pause(&source.url, failures);
            let pause = match asked {
                Some(asked) if asked > self.retry_policy.longest_asked => {
                    let seconds = asked.as_secs();
                    return Err(Failure::Source(format!(
                        "{problem} and asks to wait {seconds} s; run again then"
                    )));
                }
                Some(asked) => asked.max(pause),
                None => pause,
            };
            self.job.progress.note(&format!("{problem}; again in {:.1} s", pause.as_secs_f64()));
            RetryPolicy::wait(pause, self.job)?;
        }
    }

    fn once(&self, source: &Source, part: &mut Part) -> Result<Attempt, Failure> {
        let (url, place) = (&source.url, source.noted());
        let known = part.origin().clone();
        let same_place = known.place == place;
        let asks_the_same = same_place && known.validator.is_some();
        if part.len() > 0 && !part.is_proven() && !asks_the_same {
            // Nothing would tell whether the rest belongs to these bytes.
            part.restart(Origin { place: place.clone(), ..Origin::default() }).map_err(disk)?;
        }
        let have = part.len();
        if have > 0 && known.total == Some(have) {
            return Ok(Attempt::Arrived);
        }
        let mut request = self.client.get(url).header(ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
            if let Some(validator) = known.validator.as_ref().filter(|_| same_place) {
                request = request.header(IF_RANGE, validator);
            }
        }
        let response = match login(request, &source.login).send() {
            Ok(response) => response,
            Err(error) if error.is_redirect() || error.is_builder() => {
                return Err(Failure::Source(chain(error)));
            }
            Err(error) => return Ok(Attempt::Again(chain(error), None)),
        };
        let (answer, now) = response::read(&response, have, &known, &place);
        match answer {
            Outcome::Whole => part.restart(now.clone()).map_err(disk)?,
            Outcome::Rest => {}
            Outcome::NothingLeft => return Ok(Attempt::Arrived),
            Outcome::Restart(problem) => {
                part.restart(Origin { place, ..Origin::default() }).map_err(disk)?;
                return Ok(Attempt::Again(problem, None));
            }
            Outcome::Retry(problem, asked) => return Ok(Attempt::Again(problem, asked)),
            Outcome::Refused(problem) => return Err(Failure::Refused(problem)),
            Outcome::Fatal(problem) => return Err(Failure::Source(problem)),
        }
        self.look(&response, part, now.total)?;
        self.receive(response, part, now.total)
    }

    /// Looks at what is about to come, before any of it does.
    fn look(&self, response: &Response, part: &Part, total: Option<u64>) -> Result<(), Failure> {
        let (name, size) = self.file;
        if response::is_page(response, name) {
            let problem =
                "the server answered with a web page, not with a file; open it in a browser to see why";
            return Err(Failure::Source(problem.to_owned()));
        }
        if let (Some(size), Some(total)) = (size, total)
            && size != total
        {
            let problem =
                format!("the server's file has {total} bytes, expected {size}: it is another version");
            return Err(Failure::Source(problem));
        }
        if !response::has_an_end(response) && !part.is_proven() && size.is_none() {
            let problem = "the server does not say how long the file is, so a broken one would pass for whole; \
                           give its `sha256` or `size`";
            return Err(Failure::Source(problem.to_owned()));
        }
        if let Some(total) = total.or(size) {
            disk_space::check(self.job.scratch, total.saturating_sub(part.len()))?;
        }
        Ok(())
    }

    fn receive(&self, mut body: Response, part: &mut Part, total: Option<u64>) -> Result<Attempt, Failure> {
        let total = total.or(self.file.1);
        let mut len = part.len();
        let end = part.answer(|pieces| {
            loop {
                self.job.check_cancelled().map_err(Broken::Job)?;
                // A body shorter than announced is an error of the reader, so it ends here and not as a short file.
                match pieces.read(&mut body).map_err(|error| Broken::Connection(cause(&error)))? {
                    0 => return Ok(()),
                    read => len += read as u64,
                }
                if total.is_some_and(|total| len > total) {
                    return Err(Broken::TooLong);
                }
                self.job.progress.advance(len, total.unwrap_or(0).max(len), Unit::Bytes);
            }
        });
        let problem = match end.map_err(disk)? {
            Err(Broken::Job(error)) => return Err(Failure::Job(error)),
            Err(Broken::TooLong) => {
                part.restart(Origin::default()).map_err(disk)?;
                "the server sent more than it announced".to_owned()
            }
            Err(Broken::Connection(problem)) => format!("the connection broke at byte {len}: {problem}"),
            Ok(()) => match total {
                Some(total) if len < total => format!("the answer ended at byte {len} of {total}"),
                _ => return Ok(Attempt::Arrived),
            },
        };
        Ok(Attempt::Again(problem, None))
    }
}

fn login(request: RequestBuilder, login: &Credentials) -> RequestBuilder {
    match login {
        Credentials::None => request,
        Credentials::Bearer(token) => request.bearer_auth(token),
        Credentials::User(name, key) => request.basic_auth(name, Some(key)),
    }
}

fn disk(error: std::io::Error) -> Failure {
    Failure::Job(StageError::failed(format!("what arrives cannot be kept: {error}")))
}

/// The chain of causes, without the address: where a redirect led may be signed, and is a secret then.
fn chain(error: reqwest::Error) -> String {
    StageError::from_chain(&error.without_url()).to_string()
}

fn cause(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<reqwest::Error>()) {
        // Its own text names the address; its cause does not.
        Some(inner) => std::error::Error::source(inner).map_or_else(
            || "the body ended early".to_owned(),
            |source| StageError::from_chain(source).to_string(),
        ),
        None => error.to_string(),
    }
}

/// Whether anybody on the way could read what is sent to `url`.
pub fn is_secret_safe(url: &str) -> bool {
    url.starts_with("https://")
        || url.starts_with("http://127.0.0.1:")
        || url.starts_with("http://localhost:")
}
