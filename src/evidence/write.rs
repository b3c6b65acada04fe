//! Selects what evidence must hold, from a plan in which all steps are fresh: the record of every step that does not
//! publish, and the bytes that published steps read. Published steps can thus run again from the evidence and prove
//! the reports. If a published step reads too much, such as images, evidence holds its own result instead.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use petgraph::graph::NodeIndex;

use crate::evidence::Proof;
use crate::pipeline::{Pipeline, Source};
use crate::plan::{BuildState, Plan, Verdict};
use crate::record::RunRecord;
use crate::store::{ResultError, VerifiedPath};
use crate::workspace::Workspace;

/// The reason why there is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A step is not fresh.
    NotFresh(String),
    /// The result of a step is not usable, with the reason.
    Unusable(String, String),
    /// A published step reads too much, and its own result is too large as well; its size in bytes.
    TooLarge(String, u64),
}

/// The content of evidence.
#[derive(Debug, Default)]
pub struct Collected {
    /// All results in it.
    pub proofs: Vec<Proof>,
    /// The published steps whose own result it holds.
    pub by_result: Vec<String>,
}

/// The paths of a step's tree that are stored, with their current locations.
type Parts = BTreeMap<Option<String>, VerifiedPath>;

/// The evidence for all that `plan` needs. The inputs of a published step are stored if each has at most `max_bytes`
/// bytes.
///
/// # Errors
/// When a result that it must hold is missing.
pub fn collect(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &Plan,
    max_bytes: u64,
) -> Result<Collected, Refusal> {
    let name = |node: NodeIndex| pipeline.graph[node].name.clone();
    if let Some(node) = plan.needed().find(|node| *plan.verdict(*node) != Verdict::Fresh) {
        return Err(Refusal::NotFresh(name(node)));
    }
    let publishes = |node: NodeIndex| pipeline.graph[node].publish.is_some();
    let mut kept: BTreeMap<NodeIndex, Parts> =
        plan.needed().filter(|node| !publishes(*node)).map(|node| (node, Parts::new())).collect();
    let mut by_result = Vec::new();
    for node in plan.needed().filter(|node| publishes(*node)) {
        let mut reads: Vec<(NodeIndex, Option<String>, VerifiedPath)> = Vec::new();
        let mut are_small = true;
        for input in &pipeline.graph[node].inputs {
            let Source::Step { step, output } = &input.source else { continue };
            if publishes(*step) {
                continue;
            }
            let Some(tree) = plan.of(*step).tree else { return Err(Refusal::NotFresh(name(*step))) };
            match workspace.open_result(&tree, output.as_deref()) {
                Ok(place) if size(&place).is_ok_and(|size| size <= max_bytes) => {
                    reads.push((*step, output.clone(), place));
                }
                Ok(_) | Err(ResultError::Missing) => are_small = false,
                Err(error) => return Err(Refusal::Unusable(name(*step), error.to_string())),
            }
        }
        if are_small {
            for (step, output, place) in reads {
                kept.entry(step).or_default().insert(output, place);
            }
            continue;
        }
        let Some(tree) = plan.of(node).tree else { return Err(Refusal::NotFresh(name(node))) };
        let own = workspace.open_result(&tree, None);
        let own = own.map_err(|error| Refusal::Unusable(name(node), error.to_string()))?;
        match size(&own) {
            Ok(size) if size <= max_bytes => kept.entry(node).or_default().insert(None, own),
            Ok(size) => return Err(Refusal::TooLarge(name(node), size)),
            Err(error) => return Err(Refusal::Unusable(name(node), error.to_string())),
        };
        by_result.push(name(node));
    }
    let mut proofs = Vec::new();
    for (node, parts) in kept {
        let record = record(pipeline, workspace, plan, node).ok_or_else(|| Refusal::NotFresh(name(node)))?;
        proofs.push(Proof { record, parts });
    }
    Ok(Collected { proofs, by_result })
}

/// The record of a fresh step, with the digests of all paths that its readers use.
fn record(pipeline: &Pipeline, workspace: &Workspace, plan: &Plan, node: NodeIndex) -> Option<RunRecord> {
    let planned = plan.of(node);
    let tree = planned.tree?;
    let mut record = workspace.record(&planned.key_text.as_ref()?.key())?;
    // The current name of the step: the record may be from before a rename.
    record.step = pipeline.graph[node].name.clone();
    // A reader of the evidence has no manifest to look deeper paths up in.
    for input in pipeline.graph.neighbors(node).flat_map(|reader| &pipeline.graph[reader].inputs) {
        if let Source::Step { step, output: Some(path) } = &input.source
            && *step == node
        {
            record.outputs.insert(path.clone(), workspace.output(&tree, path)?);
        }
    }
    Some(record)
}

/// The size of a file or a folder in bytes.
fn size(place: &Path) -> io::Result<u64> {
    if !place.is_dir() {
        return Ok(fs::metadata(place)?.len());
    }
    fs::read_dir(place)?.map(|item| size(&item?.path())).sum()
}
