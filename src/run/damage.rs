//! Doubts results of earlier runs before they are used: what is not what its name says counts as gone, so that its
//! step runs again. It is asked only of results that a step is about to read or that are about to be published; a
//! result is hashed once in a run.

use std::collections::BTreeSet;

use petgraph::graph::NodeIndex;

use crate::pipeline::Pipeline;
use crate::plan::{Known, Plan};
use crate::workspace::Workspace;

/// Hashes the result of a step; if it is damaged, the step is judged again. Returns the steps that touches.
pub(super) fn doubt(workspace: &Workspace, plan: &mut Plan, node: NodeIndex) -> Option<BTreeSet<NodeIndex>> {
    let tree = plan.of(node).tree?;
    // Bytes that are gone are known to be.
    if !workspace.has_bytes(&tree) || workspace.store().is_whole(&tree) {
        return None;
    }
    let mut touched = plan.reconsider(node);
    touched.insert(node);
    Some(touched)
}

/// Doubts every result that is yet to be published. Returns the steps whose results are damaged.
pub fn doubt_unpublished(pipeline: &Pipeline, workspace: &Workspace, plan: &mut Plan) -> Vec<String> {
    let needed: Vec<NodeIndex> = plan.needed().collect();
    let mut damaged = Vec::new();
    for node in needed {
        let step = &pipeline.graph[node];
        let is_open = plan.of(node).tree.is_some_and(|tree| !workspace.is_published(step, &tree));
        if step.publish.is_some() && is_open && doubt(workspace, plan, node).is_some() {
            damaged.push(step.name.clone());
        }
    }
    damaged
}
