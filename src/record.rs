//! What is known of one execution of a step. A record names its tree by digest and can outlive the tree's
//! bytes. On disk it carries a checksum: a damaged record is no record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{KeyText, StageKey};
use crate::pipeline::{Pipeline, Source};

/// Where a step ran. Noted, not part of any key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The host's name.
    pub name: String,
    /// The device the stage was given.
    pub device: String,
    /// The threads it was given.
    pub threads: usize,
}

/// An input as it was when the step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedInput {
    /// The port.
    pub port: String,
    /// What the pipeline called it: `step`, `step/output` or `./file`.
    pub source: String,
    /// Its digest.
    pub digest: Digest,
    /// The tree it is part of; `None` for a file of the project.
    pub tree: Option<Digest>,
}

/// What a pipeline calls a source: `step`, `step/output` or `./file`.
pub fn source_name(pipeline: &Pipeline, source: &Source) -> String {
    match source {
        Source::File(path) => format!("./{}", path.display()),
        Source::Step { step, output: None } => pipeline.graph[*step].name.clone(),
        Source::Step { step, output: Some(path) } => format!("{}/{path}", pipeline.graph[*step].name),
    }
}

/// A person's word that a change does not change the result: the record stands for a run that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The reason given.
    pub because: String,
    /// Who said so.
    pub who: String,
    /// The key under which the tree was written.
    pub from: StageKey,
}

/// What is known of one successful execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The text the key is the digest of.
    pub key_text: KeyText,
    /// The step's name then.
    pub step: String,
    /// The profile it ran in.
    pub profile: String,
    /// What it wrote.
    pub tree: Digest,
    /// The digests of the tree's top-level files and folders; deeper ones are in the tree's manifest.
    pub outputs: BTreeMap<String, Digest>,
    /// What it read.
    pub inputs: Vec<RecordedInput>,
    /// The tree's size in bytes.
    pub bytes: u64,
    /// When it began, in milliseconds since 1970; of an accepted result, when it was accepted.
    pub started_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// The log of the run, relative to the store; the scalars lie beside it as `.jsonl`.
    pub log: String,
    /// Set where nothing ran under this key: an earlier result was accepted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
}

impl RunRecord {
    /// The form on disk: a line with the digest of the rest, then JSON.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let body = serde_json::to_string_pretty(self)? + "\n";
        Ok(format!("{}\n{body}", Digest::of_bytes(body.as_bytes())))
    }

    /// Reads what [`RunRecord::to_text`] wrote; `None` when a single byte is not as it was written.
    pub fn from_text(text: &str) -> Option<Self> {
        let (checksum, body) = text.split_once('\n')?;
        let checksum: Digest = checksum.parse().ok()?;
        if checksum != Digest::of_bytes(body.as_bytes()) {
            return None;
        }
        serde_json::from_str(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_damaged_byte_goes_unnoticed() {
        let digest = Digest::of_bytes(b"tree");
        let record = RunRecord {
            key_text: KeyText::new("toy", 1, "()", [("in", digest)]),
            step: "a".into(),
            profile: "mini".into(),
            tree: digest,
            outputs: BTreeMap::from([("x".into(), digest)]),
            inputs: vec![],
            bytes: 3,
            started_ms: 5,
            seconds: 0.1,
            machine: Machine::default(),
            log: "logs/x".into(),
            accepted: None,
        };
        let text = record.to_text().unwrap();
        assert_eq!(RunRecord::from_text(&text).as_ref(), Some(&record));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(
                String::from_utf8(bytes).ok().and_then(|t| RunRecord::from_text(&t)),
                None,
                "byte {at}"
            );
        }
        assert_eq!(RunRecord::from_text(&text[..text.len() - 1]), None);
        assert_eq!(RunRecord::from_text(""), None);
    }
}
