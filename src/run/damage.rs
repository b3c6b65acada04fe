//! Doubts results of earlier runs before they are used: what is not what its name says counts as gone, so that its
//! step runs again. It is asked only of results that a step is about to read or that are about to be published; a
//! result is hashed once in a run.

use std::collections::BTreeSet;

use petgraph::graph::NodeIndex;

use crate::pipeline::Pipeline;
use crate::plan::{BuildState, Plan, Verdict};
use crate::store::{ResultError, StoreError};
use crate::tree::TreeError;
use crate::workspace::Workspace;

/// Hashes the result of a fresh step; if it is damaged, the step is judged again. Returns the steps that touches.
///
/// That it is damaged may be known by now, from another step that wrote the same: the step is judged again all the
/// same, as it was judged before that.
///
/// # Errors
/// When the result cannot be read: then nothing is known of it, and nothing runs again.
pub(super) fn doubt(
    workspace: &Workspace,
    plan: &mut Plan,
    node: NodeIndex,
) -> Result<Option<BTreeSet<NodeIndex>>, TreeError> {
    let Some(tree) = plan.of(node).tree.filter(|_| *plan.verdict(node) == Verdict::Fresh) else {
        return Ok(None);
    };
    match workspace.open_result(&tree, None) {
        Ok(_) => return Ok(None),
        Err(ResultError::Unreadable(error)) => return Err(error),
        Err(ResultError::Damaged(_) | ResultError::Missing) => {}
    }
    let mut touched = plan.invalidate(node);
    // Evidence may have the paths that are read.
    if *plan.verdict(node) == Verdict::Fresh {
        return Ok(None);
    }
    touched.insert(node);
    Ok(Some(touched))
}

/// Doubts every result that is yet to be published. Returns the steps whose results are damaged.
///
/// # Errors
/// When one cannot be read.
pub fn doubt_unpublished(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &mut Plan,
) -> Result<Vec<String>, StoreError> {
    let needed: Vec<NodeIndex> = plan.needed().collect();
    let mut damaged = Vec::new();
    for node in needed {
        let step = &pipeline.graph[node];
        let is_open = plan.of(node).tree.is_some_and(|tree| !workspace.is_published(step, &tree));
        if step.publish.is_some()
            && is_open
            && doubt(workspace, plan, node).map_err(StoreError::Unreadable)?.is_some()
        {
            damaged.push(step.name.clone());
        }
    }
    Ok(damaged)
}
