//! `fetch`: brings one file of the outside world into the pipeline and proves that it is the right one: downloaded,
//! or, where a licence must be accepted first, placed by hand. It does not know what the file is for.

mod download;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stage_api::{Job, Port, Stage, StageError};

/// Fetches a file.
pub struct Fetch;

/// Settings of [`Fetch`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The file's name in the output.
    name: String,
    /// Where to download it: the first address that answers. Empty for a file that a person must place.
    #[serde(default)]
    url: Vec<String>,
    /// SHA-256 digests the file may have, in hex; any file is taken when none is given, and its digest noted.
    #[serde(default)]
    sha256: Vec<String>,
    /// The page on which a person accepts the file's licence and gets it.
    #[serde(default)]
    licence: Option<String>,
    /// Where a person puts the file, within the project: what the pipeline connects to `placed`.
    #[serde(default)]
    place: Option<String>,
}

impl Stage for Fetch {
    type Params = Params;
    const NAME: &'static str = "fetch";
    const ABOUT: &'static str = "One file by download or placed by hand, checked against its SHA-256";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::optional("placed")];

    fn check(&self, params: &Params) -> Result<(), String> {
        let Params { name, url, sha256, place, .. } = params;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(format!("name: `{name}` is no plain file name"));
        }
        if let Some(digest) = sha256.iter().find(|digest| !is_sha256(digest)) {
            return Err(format!("sha256: `{digest}` is not 64 hexadecimal digits"));
        }
        if let Some(url) = url.iter().find(|url| !url.starts_with("https://") && !url.starts_with("http://"))
        {
            return Err(format!("url: `{url}` does not begin with https:// or http://"));
        }
        if url.is_empty() && place.is_none() {
            return Err("give either `url` to download from or `place` to put the file by hand".to_owned());
        }
        Ok(())
    }

    fn run(&self, params: &Params, job: &Job) -> Result<(), StageError> {
        let target = job.out.join(&params.name);
        if let Some(placed) = job.inputs.optional("placed") {
            let digest = digest(placed, job)?;
            accept(params, &digest).map_err(|problem| StageError::input("placed", placed, problem))?;
            // No link: the output becomes read-only and must never change, the person's file stays theirs. A copy
            // follows symbolic links, and shares the blocks on file systems that can.
            fs::copy(placed, &target).map_err(|error| StageError::input("placed", placed, error))?;
            job.progress.note(&format!("{}: sha256 {digest}", params.name));
            return Ok(());
        }
        if params.url.is_empty() {
            return Err(StageError::NeedsHuman { what: request(params) });
        }
        let part = job.scratch.join(format!("{}.part", params.name));
        let mut problems = Vec::new();
        for url in &params.url {
            job.progress.note(&format!("downloading {url}"));
            match download::download(url, &part, job) {
                Ok(()) => {
                    let digest = digest(&part, job)?;
                    match accept(params, &digest) {
                        Ok(()) => {
                            job.progress.note(&format!("{}: sha256 {digest}", params.name));
                            return Ok(fs::rename(&part, &target)?);
                        }
                        Err(problem) => problems.push(format!("{url}: {problem}")),
                    }
                    // Wrong bytes cannot be continued, neither here nor at another address.
                    fs::remove_file(&part)?;
                }
                Err(StageError::Cancelled) => return Err(StageError::Cancelled),
                Err(error) => problems.push(format!("{url}: {error}")),
            }
        }
        let advice = params.place.as_ref().map_or_else(String::new, |place| {
            format!("; or download it yourself, put it at {place} and run again")
        });
        Err(StageError::failed(format!(
            "{} could not be fetched: {}{advice}",
            params.name,
            problems.join("; ")
        )))
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a person has to do to get the file.
fn request(params: &Params) -> String {
    let Params { name, licence, place, sha256, .. } = params;
    let place = place.as_deref().unwrap_or(name);
    let from = licence.as_ref().map_or_else(
        || format!("get `{name}`"),
        |page| format!("open {page}, accept the licence and download `{name}`"),
    );
    let digests = match sha256.as_slice() {
        [] => String::new(),
        digests => format!(" Its sha256 must be {}.", digests.join(" or ")),
    };
    format!("`{name}` cannot be downloaded automatically: {from}, put it at {place} and run again.{digests}")
}

fn accept(params: &Params, digest: &str) -> Result<(), String> {
    if params.sha256.is_empty() || params.sha256.iter().any(|known| known.eq_ignore_ascii_case(digest)) {
        return Ok(());
    }
    let expected = params.sha256.join(" or ");
    Err(format!("the file has sha256 {digest}, expected {expected}: it is damaged or another version"))
}

/// SHA-256 of a file in lower-case hex.
fn digest(path: &Path, job: &Job) -> Result<String, StageError> {
    let mut file = File::open(path).map_err(|error| StageError::input("", path, error))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        job.checkpoint()?;
        let read = file.read(&mut buffer).map_err(|error| StageError::input("", path, error))?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests;
