//! The remote cache on the command line: its options and messages.

use std::rc::Rc;

use clap::Args;

use super::error::CliError;
use super::format;
use crate::make::RemoteAddress;
use crate::pipeline::needs::bytes;
use crate::remote::{PushSummary, RemoteCache, RemoteError, RemoteEvent};

/// Options of the remote cache.
#[derive(Args, Default)]
pub struct RemoteArgs {
    /// The remote cache of results: s3://BUCKET/FOLDER, gs://…, az://…, https://… (read-only), or a folder. Credentials come
    /// from the environment.
    #[arg(long, value_name = "URL", env = "REPRO_REMOTE")]
    remote: Option<String>,
    /// Fetch results from the remote cache and push none.
    #[arg(long, env = "REPRO_REMOTE_READONLY", value_parser = clap::builder::FalseyValueParser::new())]
    remote_readonly: bool,
}

impl RemoteArgs {
    /// The remote cache, if one is named.
    pub fn address(&self) -> Option<RemoteAddress> {
        // A variable that is set to nothing counts as not set.
        let url = self.remote.clone().filter(|url| !url.is_empty());
        url.map(|url| RemoteAddress { url, is_readonly: self.remote_readonly })
    }

    /// Opens the remote cache.
    ///
    /// # Errors
    /// When none is named, or it cannot be named like that.
    pub fn open(&self) -> Result<Rc<RemoteCache>, CliError> {
        let address = self.address().ok_or_else(|| CliError::Usage {
            message: "no remote cache is named".to_owned(),
            hint: Some("name one with --remote, or in the variable REPRO_REMOTE".to_owned()),
        })?;
        Ok(address.open()?)
    }
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        let hint = matches!(error, RemoteError::Place { .. })
            .then(|| "s3://BUCKET/FOLDER, gs://…, az://…, https://…, or a folder".to_owned());
        Self::Usage { message: error.to_string(), hint }
    }
}

/// Prints an event of the remote cache.
pub fn print_remote_event(news: RemoteEvent) {
    match news {
        RemoteEvent::Fetched { step, bytes } => print_err!("{}", format::fetched(step, bytes)),
        RemoteEvent::Trouble { step, text } => print_err!("warning: step `{step}`: {text}"),
    }
}

/// Tells what became of results that were offered to the store of that name.
pub fn print_push_summary(place: &str, offered: &PushSummary) {
    if !offered.pushed.is_empty() {
        let results = format::count(offered.pushed.len(), "result");
        print_err!("pushed {results}, {}, to {place}", bytes(offered.sent));
    }
    for (step, theirs) in &offered.conflicts {
        let (there, on, when) =
            (format::short(&theirs.tree), &theirs.machine.name, format::ago(theirs.started_ms));
        print_err!(
            "warning: `{step}`: {place} has another result of the same key ({there}, built on {on} {when}); neither \
             is replaced"
        );
    }
    if let Some((step, _)) = offered.conflicts.first() {
        print_err!(
            "hint: `repro pull --theirs {step}` takes that one; steps that read it are then checked again"
        );
    }
    // One of a kind is enough where the store does not answer at all.
    if let Some((step, error)) = offered.troubles.first() {
        let more = match offered.troubles.len() {
            1 => String::new(),
            number => format!(" (and {} more)", number - 1),
        };
        print_err!("warning: `{step}` was not pushed{more}: {error}");
        print_err!("hint: `repro push` sends what is missing");
    }
}
