//! `fetch`: brings one file of the outside world into the pipeline and proves that it is the right one: placed by hand,
//! found among the downloads of this machine, or downloaded. It does not know what the file is for.

mod credentials;
mod download;
mod hugging_face;
mod params;
mod part;
mod response;
mod retry;

use std::fs;
use std::path::{Path, PathBuf};

use stage_api::{AllowedEnv, Job, Port, Stage, StageError};

pub use params::FetchParams;

use crate::host::disk_space;
use download::{Credentials, Downloader, Failure, Source};
use hugging_face::HubFile;
use part::Part;
use retry::RetryPolicy;

/// The folder in which files are looked for before they are downloaded.
const DOWNLOADS: &str = "REPRO_DOWNLOADS";

/// Fetches a file.
#[derive(Default)]
pub struct Fetch {
    retry_policy: RetryPolicy,
}

impl Stage for Fetch {
    type Params = FetchParams;
    const NAME: &'static str = "fetch";
    const ABOUT: &'static str = "One file by download or placed by hand, checked against its SHA-256";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::placed("placed")];
    const OUTSIDE: &'static [&'static str] = credentials::VARIABLES;

    fn check(&self, params: &FetchParams) -> Result<(), String> {
        params.check()
    }

    fn needs_human(&self, params: &FetchParams, ports: &[&str], allowed_env: &AllowedEnv) -> Option<String> {
        if ports.contains(&"placed") || !params.url.is_empty() || found(params, allowed_env).is_some() {
            return None;
        }
        match params.kaggle.as_ref().map(|_| credentials::kaggle(allowed_env)) {
            Some(Ok(Some(_))) => None,
            Some(Err(problem)) => Some(problem),
            Some(Ok(None)) | None => Some(params.request()),
        }
    }

    fn is_unproven(&self, params: &FetchParams) -> bool {
        !params.is_proven()
    }

    fn run(&self, params: &FetchParams, job: &Job) -> Result<(), StageError> {
        if let Some(placed) = job.inputs.optional("placed") {
            return take(placed, params, job).map_err(|problem| {
                problem.unwrap_or_else(|problem| StageError::input("placed", placed, problem))
            });
        }
        if let Some(found) = found(params, job.allowed_env) {
            job.progress.note(&format!("taken from {DOWNLOADS}"));
            return take(&found, params, job).map_err(|problem| {
                problem.unwrap_or_else(|problem| {
                    StageError::input("", &found, format!("{problem}; remove it or replace it"))
                })
            });
        }
        if let Some(what) = self.needs_human(params, &[], job.allowed_env) {
            return Err(StageError::NeedsHuman { what });
        }
        let mut problems = Vec::new();
        for path in params.url.iter().filter_map(|url| credentials::local(url)) {
            match take(&path, params, job) {
                Ok(()) => return Ok(()),
                Err(Taken::Over(error)) => return Err(error),
                Err(Taken::Wrong(problem)) => problems.push(format!("{}: {problem}", path.display())),
            }
        }
        self.download(params, job, problems)
    }
}

impl Fetch {
    fn download(&self, params: &FetchParams, job: &Job, mut problems: Vec<String>) -> Result<(), StageError> {
        let downloader = Downloader::new(self.retry_policy, (&params.name, params.size), job)?;
        let mut part = Part::open(&job.scratch.join("download.part"), params.is_proven(), job)?;
        let mut refused = 0;
        let sources = sources(params, job.allowed_env)?;
        for source in &sources {
            job.progress.note(&format!("downloading {}", source.shown()));
            let mut again = true;
            while std::mem::take(&mut again) {
                match downloader.download(source, &mut part) {
                    Ok(()) => {
                        let digest = part.digest();
                        let problem = match params.accept(&digest) {
                            Ok(()) => {
                                note(params, &digest, job);
                                return Ok(part.finish(&job.out.join(&params.name))?);
                            }
                            Err(problem) => problem,
                        };
                        // Pieces of several answers may not belong together, whatever the server said of them.
                        again = part.is_pieced();
                        // Wrong bytes cannot be continued, neither here nor at another address.
                        part.restart(part::Origin::default())?;
                        if again {
                            job.progress.note(&format!(
                                "{problem}; it came in pieces, so once more from its beginning"
                            ));
                        } else {
                            problems.push(format!("{}: {problem}", source.shown()));
                        }
                    }
                    Err(Failure::Job(error)) => return Err(error),
                    Err(Failure::Refused(problem)) => {
                        refused += 1;
                        problems.push(format!("{}: {problem}", source.shown()));
                    }
                    Err(Failure::Source(problem)) => problems.push(format!("{}: {problem}", source.shown())),
                }
            }
        }
        let problems = problems.join("; ");
        let name = &params.name;
        if !sources.is_empty() && refused == sources.len() {
            let what = format!("`{name}` was refused: {problems}\n{}", params.request());
            return Err(StageError::NeedsHuman { what });
        }
        let place = params.place.as_ref().map_or_else(String::new, |place| format!("put it at {place} or "));
        Err(StageError::failed(format!(
            "{name} could not be fetched: {problems}; what arrived is kept, run again to continue; or get it yourself, \
             {place}into the folder that {DOWNLOADS} names, and run again"
        )))
    }
}

/// Where to download from, with the logins that go there.
fn sources(params: &FetchParams, allowed_env: &AllowedEnv) -> Result<Vec<Source>, StageError> {
    let needs = |what: String| StageError::NeedsHuman { what };
    let mut sources = Vec::new();
    if let Some(data_set) = &params.kaggle {
        sources.extend(
            credentials::kaggle(allowed_env)
                .map_err(needs)?
                .map(|login| credentials::kaggle_source(data_set, login)),
        );
    }
    let token = match &params.token {
        None => None,
        Some(name) => allowed_env.secret(name).map_err(needs)?,
    };
    let login = token.clone().map_or(Credentials::None, Credentials::Bearer);
    for url in params.url.iter().filter(|url| credentials::local(url).is_none()) {
        sources.push(match HubFile::parse(url) {
            Some(file) => {
                let file = file.map_err(StageError::Params)?;
                file.source(token.clone(), allowed_env).map_err(needs)?
            }
            None => Source { url: url.clone(), login: login.clone() },
        });
    }
    Ok(sources)
}

/// The file among the downloads of this machine.
fn found(params: &FetchParams, allowed_env: &AllowedEnv) -> Option<PathBuf> {
    allowed_env.path(DOWNLOADS).map(|folder| folder.join(&params.name)).filter(|file| file.is_file())
}

/// Why a file that is on disk already was not taken.
enum Taken {
    /// It is not what it should be.
    Wrong(String),
    /// The job cannot go on.
    Over(StageError),
}

impl Taken {
    fn unwrap_or_else(self, of: impl FnOnce(String) -> StageError) -> StageError {
        match self {
            Self::Wrong(problem) => of(problem),
            Self::Over(error) => error,
        }
    }
}

/// Copies a file that is on disk already into the output, and checks the copy.
fn take(path: &Path, params: &FetchParams, job: &Job) -> Result<(), Taken> {
    let wrong = |error: std::io::Error| Taken::Wrong(error.to_string());
    let size = fs::metadata(path).map_err(wrong)?.len();
    if let Some(expected) = params.size.filter(|expected| *expected != size) {
        return Err(Taken::Wrong(format!(
            "it has {size} bytes, expected {expected}: it is incomplete, or another version"
        )));
    }
    disk_space::check(job.out, size).map_err(Taken::Over)?;
    let target = job.out.join(&params.name);
    // No link: the output becomes read-only and must never change, the person's file stays theirs. A copy follows
    // symbolic links, and shares the blocks on file systems that can.
    fs::copy(path, &target).map_err(wrong)?;
    let digest = part::digest(&target, job).map_err(Taken::Over)?;
    params.accept(&digest).map_err(Taken::Wrong)?;
    note(params, &digest, job);
    Ok(())
}

/// Says in the log which file it was.
fn note(params: &FetchParams, digest: &str, job: &Job) {
    let listed = params.sha256.iter().any(|known| known.eq_ignore_ascii_case(digest));
    let remark = if params.sha256.is_empty() || listed { "" } else { ", which is not listed" };
    job.progress.note(&format!("{}: sha256 {digest}{remark}", params.name));
}

#[cfg(test)]
mod chaos;
#[cfg(test)]
mod tests;
