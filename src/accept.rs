//! `accept`: a person states that a change does not change the result, so an earlier result of the step is recorded
//! under the new key. The record keeps who stated it and why, and never looks like a run.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use petgraph::graph::NodeIndex;

use crate::key::Difference;
use crate::pipeline::Pipeline;
use crate::plan::{BuildState, Plan, Reason, Verdict};
use crate::record::{Acceptance, RunRecord};
use crate::workspace::Workspace;

/// The statement of a person.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// Why the result is the same.
    pub because: String,
    /// The author of the statement.
    pub who: String,
    /// Params whose change is accepted too (`lr`, `schedule.warm_up`).
    pub params: BTreeSet<String>,
    /// Ports whose change is accepted too.
    pub inputs: BTreeSet<String>,
}

/// The reason why nothing was accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The result is known.
    #[error("its result is known; there is nothing to accept")]
    Fresh,
    /// The key is not known yet.
    #[error("its inputs are unknown until {0} has run; run or accept that step first")]
    Waiting(String),
    /// The step can never run.
    #[error("{0}")]
    Broken(String),
    /// There is no earlier result.
    #[error("it has no earlier result to accept; run it")]
    NeverRun,
    /// The result is known, but its bytes are missing.
    #[error("its result is known and only the bytes are missing; `repro make` rebuilds them")]
    OnlyBytesMissing,
    /// The bytes of the earlier result are missing.
    #[error("the bytes of its last result are not in the cache; run it")]
    BytesMissing,
    /// The step runs another stage now.
    #[error("it now runs another stage ({0} -> {1}): `accept` covers only changes within a stage; run it")]
    OtherStage(String, String),
    /// Something changed that the statement does not name.
    #[error("{what} changed too; if that does not change the result either, add {option}")]
    NotNamed {
        /// `param lr (1 -> 2)` or `input tokens`.
        what: String,
        /// The option that covers it.
        option: String,
    },
}

/// An accepted result.
#[derive(Debug)]
pub struct Accepted {
    /// The record under the new key.
    pub record: RunRecord,
    /// Names in the statement that did not change (`param lr`, `input tokens`).
    pub idle: BTreeSet<String>,
}

/// Accepts the last result of a stale step for its new key.
///
/// # Errors
/// The reason why it is not accepted; then nothing is written.
pub fn accept(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &Plan,
    node: NodeIndex,
    statement: &Statement,
) -> Result<Accepted, Refusal> {
    let step = &pipeline.graph[node];
    let differences = match plan.verdict(node) {
        Verdict::Stale(Reason::Changed(differences)) => differences,
        Verdict::Stale(Reason::BytesMissing { .. }) => return Err(Refusal::OnlyBytesMissing),
        Verdict::Stale(Reason::NeverRun) => return Err(Refusal::NeverRun),
        Verdict::Fresh | Verdict::Unneeded | Verdict::Stale(Reason::Forced) => return Err(Refusal::Fresh),
        Verdict::Waiting { on } => {
            let names: Vec<String> = on.iter().map(|n| format!("`{}`", pipeline.graph[*n].name)).collect();
            return Err(Refusal::Waiting(names.join(", ")));
        }
        Verdict::Broken(problem) => return Err(Refusal::Broken(problem.clone())),
    };
    let idle = idle(differences, statement)?;
    let last = workspace.last(step).ok_or(Refusal::NeverRun)?;
    if !workspace.store().has_bytes(&last.tree) || workspace.manifest(&last.tree).is_none() {
        return Err(Refusal::BytesMissing);
    }
    let key_text = plan.of(node).key_text.clone().ok_or(Refusal::NeverRun)?;
    let inputs = plan.recorded_inputs(node);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let accepted = Acceptance {
        because: statement.because.clone(),
        who: statement.who.clone(),
        from: last.key_text.key(),
    };
    let record = RunRecord { key_text, inputs, started_ms: now, accepted: Some(accepted), ..last };
    Ok(Accepted { record, idle })
}

/// The names in the statement that did not change. It is an error if the statement does not cover a change.
fn idle(differences: &[Difference], statement: &Statement) -> Result<BTreeSet<String>, Refusal> {
    let (mut params, mut inputs) = (statement.params.clone(), statement.inputs.clone());
    for difference in differences {
        match difference {
            Difference::Version { .. } => {}
            Difference::Stage { old, new } => return Err(Refusal::OtherStage(old.clone(), new.clone())),
            Difference::Param(change) | Difference::Also(change) => {
                let named = statement.params.iter().find(|name| {
                    let below = change.name.strip_prefix(name.as_str());
                    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                });
                match named {
                    Some(name) => drop(params.remove(name)),
                    None => {
                        let value =
                            |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
                        let (old, new) = (value(&change.old), value(&change.new));
                        let what = format!("param {} ({old} -> {new})", change.name);
                        return Err(Refusal::NotNamed { what, option: format!("--param {}", change.name) });
                    }
                }
            }
            Difference::Input { port, .. } => {
                if !statement.inputs.contains(port) {
                    let what = format!("input {port}");
                    return Err(Refusal::NotNamed { what, option: format!("--input {port}") });
                }
                inputs.remove(port);
            }
        }
    }
    let params = params.into_iter().map(|name| format!("param {name}"));
    Ok(params.chain(inputs.into_iter().map(|port| format!("input {port}"))).collect())
}
