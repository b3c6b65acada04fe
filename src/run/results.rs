//! Results of steps before they are used: where they are, and whether their bytes are intact. A corrupted result counts as
//! gone, so that its step runs again. A result is hashed once in a run.

use std::collections::BTreeSet;

use petgraph::graph::NodeIndex;
use stage_api::Input;

use crate::pipeline::{Pipeline, Source, StepInput};
use crate::plan::{BuildState, Plan, Verdict};
use crate::store::{ResultError, StoreError};
use crate::tree::TreeError;
use crate::workspace::Workspace;

/// Where an input of a step is, the bytes of a result checked.
///
/// # Errors
/// Why the result cannot be used.
pub(super) fn located(workspace: &Workspace, plan: &Plan, input: &StepInput) -> Result<Input, ResultError> {
    let (step, output) = match &input.source {
        Source::File(path) => {
            let in_project = Some(path.clone());
            return Ok(Input { in_project, ..Input::new(&input.port, workspace.locate(path)) });
        }
        Source::Step { step, output } => (step, output.as_deref()),
    };
    let tree = plan.of(*step).tree.ok_or(ResultError::Missing)?;
    Ok(Input::new(&input.port, workspace.open_result(&tree, output)?))
}

/// Hashes the result of a fresh step and plans the step again if the result is corrupted. Returns the steps that this
/// touches.
///
/// The corruption may be known by now, from another step that wrote the same tree. The step is planned again all the
/// same, as its verdict is from before that.
///
/// # Errors
/// When the result cannot be read: then nothing is known of it, and nothing runs again.
pub(super) fn verify_tree(
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

/// Hashes every result that is yet to be published. Returns the steps whose results are corrupted.
///
/// # Errors
/// When one cannot be read.
pub fn verify_unpublished(
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
            && verify_tree(workspace, plan, node).map_err(StoreError::Unreadable)?.is_some()
        {
            damaged.push(step.name.clone());
        }
    }
    Ok(damaged)
}
