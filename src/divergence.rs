//! Where the results of now part from those that the project committed: which steps differ, which of them differ although
//! nothing above them does, and how. Everything below the first ones may be their consequence. It does not know git.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::compare::{self, Difference};
use crate::digest::Digest;
use crate::evidence::Evidence;
use crate::explain::{Cause, changes_since};
use crate::key::StageKey;
use crate::pipeline::{Pipeline, Source};
use crate::plan::{BuildState, Plan};
use crate::record::{Machine, RunRecord};
use crate::workspace::Workspace;

/// How the needed steps of a plan compare with committed results. Steps are in the order of the graph.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Steps with the committed result.
    pub same: Vec<NodeIndex>,
    /// Steps with another one.
    pub differing: Vec<NodeIndex>,
    /// Those of them that no differing step is above of.
    pub first: Vec<NodeIndex>,
    /// Steps whose result is not known now, or was not compared.
    pub unknown: Vec<NodeIndex>,
}

/// Compares the needed steps. `is_same` says whether a step's tree is the committed one; `None` where there is nothing to
/// compare it with.
pub fn compare(
    pipeline: &Pipeline,
    plan: &Plan,
    is_same: impl Fn(NodeIndex, &Digest) -> Option<bool>,
) -> Comparison {
    let mut found = Comparison::default();
    // Steps that differ, and all below them.
    let mut touched: BTreeSet<NodeIndex> = BTreeSet::new();
    for node in plan.needed() {
        let is_below = pipeline.graph[node].inputs.iter().any(|input| match &input.source {
            Source::Step { step, .. } => touched.contains(step),
            Source::File(_) => false,
        });
        let verdict = plan.of(node).tree.and_then(|tree| is_same(node, &tree));
        match verdict {
            Some(true) => found.same.push(node),
            Some(false) => {
                found.differing.push(node);
                if !is_below {
                    found.first.push(node);
                }
            }
            None => found.unknown.push(node),
        }
        if is_below || verdict == Some(false) {
            touched.insert(node);
        }
    }
    found
}

/// One execution of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Execution {
    /// Its key.
    pub key: StageKey,
    /// The tree it wrote.
    pub tree: Digest,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
}

impl From<&RunRecord> for Execution {
    fn from(record: &RunRecord) -> Self {
        Self {
            key: record.key_text.key(),
            tree: record.tree,
            started_ms: record.started_ms,
            seconds: record.seconds,
            machine: record.machine.clone(),
        }
    }
}

/// A step whose result is not the committed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// The step.
    pub step: String,
    /// The execution that the evidence records; absent for a published step, which only its reports attest.
    pub committed: Option<Execution>,
    /// The execution that the result of now comes from.
    pub now: Option<Execution>,
    /// What of the key differs; empty where the same key gave other bytes, and where the committed key is not known.
    pub causes: Vec<Cause>,
    /// The files that differ.
    pub files: Vec<Difference>,
}

impl Divergence {
    /// A step without its committed execution, which differs in `files`.
    pub fn in_reports(
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        node: NodeIndex,
        files: Vec<Difference>,
    ) -> Self {
        let step = pipeline.graph[node].name.clone();
        let now = record_of(workspace, plan, node).as_ref().map(Execution::from);
        Self { step, committed: None, now, causes: Vec::new(), files }
    }

    /// How a step differs from what `evidence` records of it.
    pub fn from_record(
        pipeline: &Pipeline,
        workspace: &Workspace,
        plan: &Plan,
        node: NodeIndex,
        (evidence, committed): (&Evidence, &RunRecord),
    ) -> Self {
        let now = record_of(workspace, plan, node);
        let files = now.as_ref().map(|now| outputs(workspace, evidence, committed, now));
        Self {
            step: pipeline.graph[node].name.clone(),
            committed: Some(Execution::from(committed)),
            causes: changes_since(pipeline, workspace, plan, node, committed),
            files: files.unwrap_or_default(),
            now: now.as_ref().map(Execution::from),
        }
    }
}

fn record_of(workspace: &Workspace, plan: &Plan, node: NodeIndex) -> Option<RunRecord> {
    workspace.record(&plan.of(node).key_text.as_ref()?.key())
}

/// The files and folders in which two results differ, measured where the bytes of both are here.
fn outputs(
    workspace: &Workspace,
    evidence: &Evidence,
    committed: &RunRecord,
    now: &RunRecord,
) -> Vec<Difference> {
    let mut digests: BTreeMap<&str, (Option<Digest>, Option<Digest>)> = BTreeMap::new();
    for (path, digest) in &committed.outputs {
        // A record names what lies on top, and evidence also what lies deeper and is read.
        let new = now.outputs.get(path).copied().or_else(|| workspace.output(&now.tree, path));
        digests.insert(path, (Some(*digest), new));
    }
    for (path, digest) in now.outputs.iter().filter(|(path, _)| !path.contains('/')) {
        digests.entry(path).or_insert((None, Some(*digest)));
    }
    let mut found = Vec::new();
    for (path, digests) in digests {
        let mut tell = |how: String| found.push(Difference { path: path.to_owned(), how });
        match digests {
            (old, new) if old == new => {}
            (Some(_), None) => tell("is missing".to_owned()),
            (None, _) => tell("was not there".to_owned()),
            (Some(old), Some(new)) => {
                let opened = workspace.open_result(&now.tree, Some(path)).map_err(|error| error.to_string());
                let committed = evidence.open(&committed.tree, Some(path));
                let measured = match (committed, opened) {
                    (Some(was), Ok(is)) => {
                        compare::measure(path, &was, &is).map_err(|error| error.to_string())
                    }
                    (None, _) => Err("the evidence does not hold the committed bytes".to_owned()),
                    (_, Err(problem)) => Err(problem),
                };
                match measured {
                    Ok(files) => found.extend(files),
                    Err(problem) => {
                        tell(format!("has other bytes: {} -> {} ({problem})", old.short(), new.short()))
                    }
                }
            }
        }
    }
    found
}
