//! The params of `fetch`, what they may be, and what a person is asked for when a file is not to be had without one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stage_api::{ParamEnum, secrets};

use super::credentials::{KAGGLE_HOW, local};
use super::download::is_secret_safe;
use super::hugging_face::HubFile;

/// Settings of [`super::Fetch`].
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchParams {
    /// The file's name in the output.
    pub name: String,
    /// Where to get it: addresses of the same file, tried in this order. `file:///path` is a file of this machine,
    /// `hf://ORG/NAME@REVISION/FILE` one of the Hugging Face Hub.
    #[serde(default)]
    pub url: Vec<String>,
    /// A Kaggle data set (`owner/name`) whose archive it is; tried before `url` when there is a token for Kaggle.
    #[serde(default)]
    pub kaggle: Option<String>,
    /// The variable of the environment that holds a bearer token for `url`.
    #[serde(default)]
    pub token: Option<String>,
    /// SHA-256 digests the file may have, in hex. Without any, the first download is pinned.
    #[serde(default)]
    pub sha256: Vec<String>,
    /// What becomes of a file with another digest.
    #[serde(default)]
    pub unlisted: Unlisted,
    /// Its length in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// The page on which a person accepts the file's licence and gets it.
    #[serde(default)]
    pub licence: Option<String>,
    /// Where a person puts the file, within the project: what the pipeline connects to `placed`.
    #[serde(default)]
    pub place: Option<String>,
    /// What else a person should know who gets the file.
    #[serde(default)]
    pub advice: Option<String>,
}

/// What becomes of a file whose digest is none of those listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, ParamEnum)]
#[serde(rename_all = "snake_case")]
#[param(unquoted)]
pub enum Unlisted {
    /// It is refused.
    #[default]
    Refuse,
    /// It is taken, and the log says so: for archives that people pack again.
    Note,
}

impl FetchParams {
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { name, url, sha256, place, kaggle, token, .. } = self;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(format!("name: `{name}` is not a plain file name"));
        }
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(digest) = sha256.iter().find(|digest| !is_digest(digest)) {
            return Err(format!("sha256: `{digest}` is not 64 hexadecimal digits"));
        }
        for url in url {
            if let Some(parsed) = HubFile::parse(url) {
                parsed.map_err(|problem| format!("url: {problem}"))?;
                continue;
            }
            let rest = ["https://", "http://", "file:///"].iter().find_map(|scheme| url.strip_prefix(scheme));
            let Some(rest) = rest else {
                let url = secrets::shown(url);
                return Err(format!("url: `{url}` does not begin with https://, http://, hf:// or file:///"));
            };
            if local(url).is_none() && rest.split('/').next().is_some_and(|host| host.contains('@')) {
                return Err(
                    "url: a login does not belong into a pipeline; name a variable with `token`".to_owned()
                );
            }
            if token.is_some() && local(url).is_none() && !is_secret_safe(url) {
                let url = secrets::shown(url);
                return Err(format!("url: a token may not be sent to `{url}`, which is not https://"));
            }
        }
        if let Some(token) =
            token.as_ref().filter(|token| *token != "HF_TOKEN" && !token.starts_with("REPRO_"))
        {
            return Err(format!(
                "token: `{token}` is neither HF_TOKEN nor a variable that begins with REPRO_"
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(kaggle) = kaggle
            && !kaggle.split_once('/').is_some_and(|(owner, name)| {
                [owner, name].iter().all(|part| !part.is_empty() && part.chars().all(plain))
            })
        {
            return Err(format!("kaggle: `{kaggle}` is not `owner/name`"));
        }
        if url.is_empty() && place.is_none() && kaggle.is_none() {
            return Err(
                "give `url` or `kaggle` to download from, or `place` to put the file by hand".to_owned()
            );
        }
        Ok(())
    }

    /// Whether a file of this digest is the right one.
    pub(super) fn accept(&self, digest: &str) -> Result<(), String> {
        let listed = self.sha256.iter().any(|known| known.eq_ignore_ascii_case(digest));
        if self.sha256.is_empty() || listed || self.unlisted == Unlisted::Note {
            return Ok(());
        }
        let expected = self.sha256.join(" or ");
        Err(format!("the file has sha256 {digest}, expected {expected}: it is damaged or another version"))
    }

    /// Whether a digest decides over every file.
    pub(super) fn is_proven(&self) -> bool {
        !self.sha256.is_empty() && self.unlisted == Unlisted::Refuse
    }

    /// What a person has to do to get the file, a line each.
    pub(super) fn request(&self) -> String {
        let Self { name, licence, place, sha256, kaggle, advice, unlisted, .. } = self;
        let mut lines = Vec::new();
        let place = place.as_deref().unwrap_or(name);
        lines.push(format!("it waits for {name}"));
        lines.extend(licence.as_ref().map(|page| format!("open {page}, accept the licence and download it")));
        let called = if place.ends_with(name.as_str()) { String::new() } else { format!(" as {name}") };
        lines.push(format!("put it at {place}, or{called} into the folder $REPRO_DOWNLOADS"));
        let hub_file = self.url.iter().find_map(|url| HubFile::parse(url)?.ok());
        if let Some(file) = hub_file.filter(|_| licence.is_none()) {
            lines.push(format!(
                "or accept its terms on {}, run `hf auth login` (or set HF_TOKEN), and run again",
                file.page()
            ));
        }
        if kaggle.is_some() {
            lines.push(format!("or let it be downloaded: {KAGGLE_HOW}"));
        }
        lines.extend(advice.clone());
        match sha256.as_slice() {
            [] => {}
            [one] => lines.push(format!("its sha256 is {one}")),
            more => lines.push(format!("its sha256 is one of\n{}", more.join("\n"))),
        }
        if *unlisted == Unlisted::Note && !sha256.is_empty() {
            lines.push(
                "another one (an archive that was packed again) is taken too, with a note in the log"
                    .to_owned(),
            );
        }
        lines.join("\n")
    }
}
