//! What is known of one execution of a step. A record names its tree by digest and can outlive the tree's
//! bytes. How it is kept is the store's business.

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
    /// The GPUs it was given, as `CUDA_VISIBLE_DEVICES` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
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

/// The work of a step in the units that its stage counts: pictures, updates, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// How many units it was.
    pub units: u64,
    /// How long one took, from the first report of the stage to its last; absent where one report is all there was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_a_unit: Option<f64>,
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
    /// The most memory that the process of a stage held, in bytes, where that is known; memory of a GPU is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// The work that a stage counted, where it counted any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// Where it ran.
    pub machine: Machine,
    /// The log of the run, relative to the store; the scalars lie beside it as `.jsonl`.
    pub log: String,
    /// Set where nothing ran under this key: an earlier result was accepted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
}
