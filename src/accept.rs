//! Accepting: a person says that a change does not change the result, and an earlier result of the step stands
//! under the new key as well. The record keeps who said so and why; nothing passes for a run that was none.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use petgraph::graph::NodeIndex;

use crate::key::Difference;
use crate::pipeline::Pipeline;
use crate::plan::{BuildState, Plan, Reason, Verdict};
use crate::record::{Acceptance, RunRecord};
use crate::workspace::Workspace;

/// What a person vouches for.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// Why the result is the same.
    pub because: String,
    /// Who says so.
    pub who: String,
    /// Params whose change is accepted too (`lr`, `schedule.warm_up`).
    pub params: BTreeSet<String>,
    /// Ports whose change is accepted too.
    pub inputs: BTreeSet<String>,
}

/// Why nothing was accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to accept.
    #[error("its result is known; there is nothing to accept")]
    Fresh,
    /// Its key is not known yet.
    #[error("what it reads is not known before {0} ran; make or accept that first")]
    Waiting(String),
    /// It can never run.
    #[error("{0}")]
    Broken(String),
    /// There is no earlier result.
    #[error("no earlier result of it is known, so there is none to accept; make it")]
    NeverRun,
    /// Its result is known but its bytes are gone.
    #[error("its result is known, only the bytes are gone; `repro make` makes them again")]
    OnlyBytesMissing,
    /// The earlier result's bytes are gone.
    #[error("the bytes of its last result are no longer in the cache; make it")]
    BytesMissing,
    /// It runs another stage now.
    #[error("it now runs another stage ({0} -> {1}): that is other work, not a change of code; make it")]
    OtherStage(String, String),
    /// Something changed that was not named.
    #[error("{what} changed too, and was not named; if that does not change the result either, say {option}")]
    NotNamed {
        /// `param lr (1 -> 2)` or `input tokens`.
        what: String,
        /// The option that names it.
        option: String,
    },
}

/// A result that is accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The record that stands for it under the new key.
    pub record: RunRecord,
    /// What was named and did not change (`param lr`, `input tokens`).
    pub idle: BTreeSet<String>,
}

/// Accepts the last result of a stale step for its new key.
///
/// # Errors
/// Why it is not accepted; nothing is written either way.
pub fn accept(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &Plan,
    node: NodeIndex,
    word: &Word,
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
    let idle = idle(differences, word)?;
    let last = workspace.last(step).ok_or(Refusal::NeverRun)?;
    if !workspace.store().has_bytes(&last.tree) || workspace.manifest(&last.tree).is_none() {
        return Err(Refusal::BytesMissing);
    }
    let key_text = plan.of(node).key_text.clone().ok_or(Refusal::NeverRun)?;
    let inputs = plan.recorded_inputs(node);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let accepted =
        Acceptance { because: word.because.clone(), who: word.who.clone(), from: last.key_text.key() };
    let record = RunRecord { key_text, inputs, started_ms: now, accepted: Some(accepted), ..last };
    Ok(Accepted { record, idle })
}

/// What the word names beyond what changed; an error when it does not cover all of that.
fn idle(differences: &[Difference], word: &Word) -> Result<BTreeSet<String>, Refusal> {
    let (mut params, mut inputs) = (word.params.clone(), word.inputs.clone());
    for difference in differences {
        match difference {
            Difference::Version { .. } => {}
            Difference::Stage { old, new } => return Err(Refusal::OtherStage(old.clone(), new.clone())),
            Difference::Param(change) | Difference::Also(change) => {
                let named = word.params.iter().find(|name| {
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
                if !word.inputs.contains(port) {
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
