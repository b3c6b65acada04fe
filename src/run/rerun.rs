//! Runs a step again on what it ran on, on the side, and compares what it writes with what it wrote. Nothing of the
//! second run is kept but the verdict.

use std::sync::mpsc::channel;

use super::executor::{Executor, Message, Outcome, Report, Reporter, Task};
use super::inputs::ProjectInputs;
use super::resources::Resources;
use super::results::located;
use crate::compare;
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::store::{self, TryClaim, Writer};
use crate::workspace::Workspace;
use petgraph::graph::NodeIndex;

/// Runs the fresh step `node` again and compares.
///
/// # Errors
/// When it cannot be run, or fails, this time.
pub fn rerun(
    pipeline: &Pipeline,
    workspace: &Workspace,
    writer: &Writer,
    plan: &Plan,
    node: NodeIndex,
    executor: &dyn Executor,
    resources: &Resources,
) -> Result<store::RerunOutcome, String> {
    let step = &pipeline.graph[node];
    let (Some(key_text), Some(tree)) = (&plan.of(node).key_text, plan.of(node).tree) else {
        return Err("its result is not known".to_owned());
    };
    let message = |error: store::StoreError| error.to_string();
    let claim = match writer.claim(key_text.key()).map_err(message)? {
        TryClaim::Acquired(claim) => claim,
        TryClaim::HeldBy(_) => return Err("another process runs it".to_owned()),
    };
    let allocation =
        resources.clone().acquire(&step.needs, resources).ok_or("it needs more than there is")?;
    let inputs = step.inputs.iter().map(|input| {
        located(workspace, plan, input)
            .map_err(|error| format!("the input `{}` cannot be used: {error}", input.port))
    });
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let old =
        workspace.open_result(&tree, None).map_err(|error| format!("its result cannot be used: {error}"))?;
    let project_inputs = ProjectInputs::at_start(workspace, step)?;
    let work = writer.begin_aside(key_text.key(), claim).map_err(message)?;
    let task = Task::for_step(step, inputs, &work, &allocation, resources);
    let (sender, messages) = channel();
    let running = executor.start(task, Reporter::new(sender, node));
    let _running = running.map_err(|error| format!("its process cannot be started: {error}"))?;
    let outcome = messages.into_iter().find_map(|message| match message {
        Message::Step { report: Report::Ended(outcome), .. } => Some(outcome),
        _ => None,
    });
    let put_back = project_inputs.put_back(workspace, &work);
    if put_back.is_lost {
        let kept = writer.keep_aside(work).map_err(message)?;
        return Err(format!(
            "{}; what the step wrote is kept in {}",
            put_back.notes.join("; "),
            kept.display()
        ));
    }
    let unchanged = project_inputs.are_unchanged(workspace, &work);
    let compared = match outcome {
        _ if !put_back.notes.is_empty() => Err(put_back.notes.join("; ")),
        Some(Outcome::Done) if unchanged.is_err() => unchanged.map(|()| store::RerunOutcome::Same),
        Some(Outcome::Done) => {
            let new = writer.hash(&work).map_err(message)?;
            if new.digest() == tree {
                Ok(store::RerunOutcome::Same)
            } else {
                let was = workspace.manifest(&tree).ok_or("what it wrote is not known file by file")?;
                let tolerance = step.tolerance;
                compare::outputs((&old, &was), (&work.out, &new), tolerance)
                    .map(|files| match tolerance {
                        Some(tolerance) if files.is_empty() => store::RerunOutcome::Within { tolerance },
                        tolerance => store::RerunOutcome::Differs { tolerance, files },
                    })
                    .map_err(|error| format!("its output cannot be read: {error}"))
            }
        }
        Some(Outcome::Failed(problem) | Outcome::NeedsHuman(problem)) => {
            Err(format!("it failed this time: {problem}"))
        }
        Some(Outcome::Cancelled) | None => Err("it was stopped".to_owned()),
    };
    writer.discard(work).map_err(message)?;
    compared
}
