//! What evidence is to hold, picked from a plan in which everything is fresh: the record of every step that publishes
//! nothing, and the bytes that the published steps read. So the published steps run anew wherever the evidence is, and show
//! that the reports follow from it. A published step that reads more than a repository should hold, pictures say, is
//! attested by its own result instead.

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

/// Why there is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A step is not fresh.
    NotFresh(String),
    /// The bytes of a step's result cannot be used, and why.
    Unusable(String, String),
    /// A published step reads too much, and its own result is too large as well, in bytes.
    TooLarge(String, u64),
}

/// Evidence before it is written.
#[derive(Debug, Default)]
pub struct Attested {
    /// All that it holds.
    pub proofs: Vec<Proof>,
    /// The published steps that are attested by their own result.
    pub by_result: Vec<String>,
}

/// The parts of a step's tree that are kept, and where they are.
type Parts = BTreeMap<Option<String>, VerifiedPath>;

/// The evidence of all that `plan` needs. What a published step reads is kept where each input is at most `largest`
/// bytes.
///
/// # Errors
/// When something that it is to hold is not here.
pub fn attest(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &Plan,
    largest: u64,
) -> Result<Attested, Refusal> {
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
                Ok(place) if size(&place).is_ok_and(|size| size <= largest) => {
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
            Ok(size) if size <= largest => kept.entry(node).or_default().insert(None, own),
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
    Ok(Attested { proofs, by_result })
}

/// The record of a fresh step with all that its readers look up in it.
fn record(pipeline: &Pipeline, workspace: &Workspace, plan: &Plan, node: NodeIndex) -> Option<RunRecord> {
    let judged = plan.of(node);
    let tree = judged.tree?;
    let mut record = workspace.record(&judged.key_text.as_ref()?.key())?;
    // The name of the step as it is now: an earlier one may have made the record.
    record.step = pipeline.graph[node].name.clone();
    // Who reads the evidence has no manifest to look deeper paths up in.
    for input in pipeline.graph.neighbors(node).flat_map(|reader| &pipeline.graph[reader].inputs) {
        if let Source::Step { step, output: Some(path) } = &input.source
            && *step == node
        {
            record.outputs.insert(path.clone(), workspace.output(&tree, path)?);
        }
    }
    Some(record)
}

/// How many bytes lie in a file or a folder.
fn size(place: &Path) -> io::Result<u64> {
    if !place.is_dir() {
        return Ok(fs::metadata(place)?.len());
    }
    fs::read_dir(place)?.map(|item| size(&item?.path())).sum()
}
