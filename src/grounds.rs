//! What the judgement "nothing to do" rests on, kept beside it: as long as none of it has changed, the judgement
//! stands and need not be made again. It is kept in the state log, where a later execution makes it void.
//!
//! Judging is a pure function of the pipeline, the records, the files of the project, what counts of the machine,
//! the noted digests beside the pipeline file, and the published reports. The records stand in the log; the rest is here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use stage_api::Environment;

use crate::digest::Digest;
use crate::pipeline::{Pipeline, Source};
use crate::plan::{BuildState, Plan};
use crate::store::{Facts, StoreError};
use crate::workspace::Workspace;

const KIND: &str = "repro grounds v1";

/// What a judgement rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    /// How many steps were needed, all fresh.
    pub steps: usize,
    /// The pipeline file, the evidence, the lock file if outputs are held against it, the files of the project and of
    /// the reports that were looked at.
    files: Vec<String>,
    /// The digest of their digests.
    content: Digest,
    /// Files that may be there or not, and were or were not.
    looked_for: Vec<(String, bool)>,
    /// What counts of the machine, and what it was.
    machine: Vec<(Environment, Vec<(String, String)>)>,
}

impl Grounds {
    /// The grounds of a plan in which every needed step is fresh and published; `None` when they cannot be written
    /// down.
    pub fn of(pipeline: &Pipeline, workspace: &Workspace, plan: &Plan) -> Option<Self> {
        let mut files = vec![(pipeline.file.clone(), pipeline.text)];
        files.extend(pipeline.other_files.iter().map(|(path, digest)| (workspace.locate(path), *digest)));
        let mut machine: Vec<(Environment, Vec<(String, String)>)> = Vec::new();
        for node in plan.needed() {
            let step = &pipeline.graph[node];
            for input in &step.inputs {
                if let Source::File(path) = &input.source {
                    files.push((workspace.locate(path), workspace.file(path)?));
                }
            }
            if step.publish.is_some() {
                files.extend(workspace.published_files(step, &plan.of(node).tree?)?);
            }
            let counts = &step.environment;
            if *counts != Environment::default() && machine.iter().all(|(known, _)| known != counts) {
                machine.push((counts.clone(), workspace.environment(step).ok()?));
            }
        }
        let text = |path: &Path| path.to_str().map(ToOwned::to_owned);
        let mut looked_for = pipeline
            .looked_for
            .iter()
            .map(|(path, was_there)| Some((text(&workspace.locate(path))?, *was_there)))
            .collect::<Option<Vec<_>>>()?;
        match workspace.evidence().file() {
            Some((file, Some(digest))) => files.push((file, digest)),
            Some((file, None)) => looked_for.push((text(&file)?, false)),
            None => {}
        }
        if plan.needed().any(|node| pipeline.graph[node].is_pinned()) {
            match workspace.lock_file() {
                (lock, Some(digest)) => files.push((lock, digest)),
                (lock, None) => looked_for.push((text(&lock)?, false)),
            }
        }
        // The list of what was published, so that leftovers go; and the other pipelines of the folder that have published.
        let (ledger, others) = workspace.reports().rests_on();
        match workspace.digests().digest(&ledger) {
            Ok(digest) => files.push((ledger, digest)),
            Err(_) => looked_for.push((text(&ledger)?, false)),
        }
        for other in others {
            looked_for.push((text(&other)?, true));
        }
        files[1..].sort_unstable();
        files.dedup();
        Some(Self {
            steps: plan.needed().count(),
            content: content(files.iter().map(|(_, digest)| *digest)),
            files: files.iter().map(|(path, _)| text(path)).collect::<Option<_>>()?,
            looked_for,
            machine,
        })
    }

    /// Whether everything is as it was.
    pub fn hold(&self, facts: &mut Facts) -> bool {
        let mut digests = Vec::with_capacity(self.files.len());
        for file in &self.files {
            match facts.digests.digest(Path::new(file)) {
                Ok(digest) => digests.push(digest),
                Err(_) => return false,
            }
        }
        content(digests.into_iter()) == self.content
            && self.looked_for.iter().all(|(path, was_there)| Path::new(path).exists() == *was_there)
            && self.machine.iter().all(|(counts, was)| facts.versions.environment(counts).as_ref() == Ok(was))
    }

    /// The grounds on which `request` was last found done, if no step was executed since.
    pub fn known(request: &Digest, facts: &Facts) -> Option<Self> {
        serde_json::from_str(&facts.store.planned(request)?).ok()
    }

    /// Keeps the grounds of `request`, which was judged by what the store knows now.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep(&self, request: &Digest, workspace: &Workspace) -> Result<(), StoreError> {
        match serde_json::to_string(self) {
            Ok(text) => workspace.store().keep_judged(request, &text),
            Err(_) => Ok(()),
        }
    }
}

fn content(digests: impl Iterator<Item = Digest>) -> Digest {
    let all: Vec<u8> = digests.flat_map(|digest| digest.bytes()).collect();
    Digest::of_kind(KIND, &all)
}
