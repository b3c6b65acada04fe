//! The record of one execution of a step. It names its tree by digest and can outlive the tree's bytes. The store
//! decides how it is stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::key::{KeyText, StageKey};
use crate::pipeline::{Pipeline, Source};

/// The machine of an execution. It is not part of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The host's name.
    pub name: String,
    /// The device the stage was given.
    pub device: String,
    /// The threads it was given.
    pub threads: usize,
    /// Its GPUs, as in `CUDA_VISIBLE_DEVICES`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
}

/// An input at the time of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedInput {
    /// The port.
    pub port: String,
    /// Its source in the pipeline: `step`, `step/output` or `./file`.
    pub source: String,
    /// Its digest.
    pub digest: Digest,
    /// The tree it is part of; `None` for a file of the project.
    pub tree: Option<Digest>,
}

/// The name of a source in the pipeline: `step`, `step/output` or `./file`.
pub fn source_name(pipeline: &Pipeline, source: &Source) -> String {
    match source {
        Source::File(path) => format!("./{}", path.display()),
        Source::Step { step, output: None } => pipeline.graph[*step].name.clone(),
        Source::Step { step, output: Some(path) } => format!("{}/{path}", pipeline.graph[*step].name),
    }
}

/// A person's statement that a change does not change the result. The record replaces a run that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The reason given.
    pub because: String,
    /// The author of the statement.
    pub who: String,
    /// The key under which the tree was written.
    pub from: StageKey,
}

/// The work of a step in the units of its stage: images, updates, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The number of units.
    pub units: u64,
    /// The time per unit, from the first report of the stage to its last; absent if there was only one report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_a_unit: Option<f64>,
}

/// The record of a successful execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The text of its key.
    pub key_text: KeyText,
    /// The step's name at that time.
    pub step: String,
    /// The profile.
    pub profile: String,
    /// The digest of its output.
    pub tree: Digest,
    /// The digests of the tree's top-level files and folders; deeper ones are in the tree's manifest.
    pub outputs: BTreeMap<String, Digest>,
    /// Its inputs.
    pub inputs: Vec<RecordedInput>,
    /// The tree's size in bytes.
    pub bytes: u64,
    /// When it started, in milliseconds since 1970; for an accepted result, when it was accepted.
    pub started_ms: u64,
    /// Its duration.
    pub seconds: f64,
    /// The peak memory of the process in bytes, if it is known; without GPU memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// The counted work, if the stage counts any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// The machine.
    pub machine: Machine,
    /// The log of the run, relative to the store; the scalars are next to it as `.jsonl`.
    pub log: String,
    /// Present if nothing ran under this key: an earlier result was accepted for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Acceptance>,
}
