//! The steps whose results differ from the committed ones, and how. The first ones in the graph have no differing
//! step above them; everything below may be a consequence. It does not know git.

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

/// The needed steps of a plan compared with committed results, in the order of the graph.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Steps with the committed result.
    pub same: Vec<NodeIndex>,
    /// Steps with a different result.
    pub differing: Vec<NodeIndex>,
    /// The first of them: steps without a differing step above them.
    pub first: Vec<NodeIndex>,
    /// Steps whose current result is unknown, or that were not compared.
    pub unknown: Vec<NodeIndex>,
}

/// Compares the needed steps. `is_same` returns whether a step's tree is the committed one; `None` if there is no
/// committed one.
pub fn compare(
    pipeline: &Pipeline,
    plan: &Plan,
    is_same: impl Fn(NodeIndex, &Digest) -> Option<bool>,
) -> Comparison {
    let mut found = Comparison::default();
    // Steps that differ, and all steps below them.
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
    /// When it started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Its duration.
    pub seconds: f64,
    /// The machine that ran it.
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

/// A step whose result differs from the committed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// The step.
    pub step: String,
    /// The execution that the evidence records; absent for a published step, which only its reports prove.
    pub committed: Option<Execution>,
    /// The execution of the current result.
    pub now: Option<Execution>,
    /// The differences between the keys; empty if the same key gave different bytes, or the committed key is unknown.
    pub causes: Vec<Cause>,
    /// The files that differ.
    pub files: Vec<Difference>,
}

impl Divergence {
    /// A step without a committed execution, whose `files` differ.
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

    /// The differences between a step and its record in `evidence`.
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

/// The files and folders in which two results differ, measured if the bytes of both are present.
fn outputs(
    workspace: &Workspace,
    evidence: &Evidence,
    committed: &RunRecord,
    now: &RunRecord,
) -> Vec<Difference> {
    let mut digests: BTreeMap<&str, (Option<Digest>, Option<Digest>)> = BTreeMap::new();
    for (path, digest) in &committed.outputs {
        // A record lists the top-level paths; evidence also lists deeper ones that other steps read.
        let new = now.outputs.get(path).copied().or_else(|| workspace.output(&now.tree, path));
        digests.insert(path, (Some(*digest), new));
    }
    for (path, digest) in now.outputs.iter().filter(|(path, _)| !path.contains('/')) {
        digests.entry(path).or_insert((None, Some(*digest)));
    }
    let mut found = Vec::new();
    for (path, digests) in digests {
        let mut add = |how: String| found.push(Difference { path: path.to_owned(), how });
        match digests {
            (old, new) if old == new => {}
            (Some(_), None) => add("is missing".to_owned()),
            (None, _) => add("was added".to_owned()),
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
                        add(format!("has different bytes: {} -> {} ({problem})", old.short(), new.short()))
                    }
                }
            }
        }
    }
    found
}
