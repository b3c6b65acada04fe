//! Explains as data why a step is fresh or must run. It compares the current key text with that of the last record.
//! The command line formats the explanation.

mod explainer;

use std::collections::BTreeSet;
use std::path::PathBuf;

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::digest::Digest;
use crate::params::ParamChange;
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::record::RunRecord;
use crate::store::{self, FailedRun};
use crate::workspace::Workspace;
use explainer::Explainer;

/// The state of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its result is known.
    Fresh,
    /// It must run.
    Stale,
    /// It waits for other steps; then it may turn out to be fresh.
    Waiting,
    /// It can never run in this pipeline.
    Broken,
    /// It was not requested.
    Unneeded,
}

/// A step's state and the reasons.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The step.
    pub step: String,
    /// Its state.
    pub state: State,
    /// Its key, if it is known.
    pub key: Option<String>,
    /// The reasons why it must run; for a fresh step, the reasons for its last run.
    pub causes: Vec<Cause>,
    /// For a waiting step: the steps above it that must run, with their reasons.
    pub waits_for: Vec<Explanation>,
    /// The record of its key, if it is fresh.
    pub result: Option<RunRecord>,
    /// Its newest record with any key.
    pub last: Option<RunRecord>,
    /// Whether its result is known by the evidence alone.
    pub from_evidence: bool,
    /// The last execution of its key, if it failed.
    pub failed: Option<Failed>,
    /// The result of its last rerun with the same key, if there was one.
    pub verified: Option<store::RerunVerdict>,
}

/// The last execution of a step, which failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// When and why.
    #[serde(flatten)]
    pub run: FailedRun,
    /// Its log; absent if it printed nothing.
    pub log: Option<PathBuf>,
}

/// One reason for a step to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "cause")]
pub enum Cause {
    /// It has never run.
    NeverRun,
    /// It publishes and has never run in this cache. Evidence records what such a step reads, but not the step.
    NotRecorded,
    /// `--force` requested it.
    Forced,
    /// Its result is known, but its bytes are missing.
    BytesMissing {
        /// Whether the result is known by the evidence alone, which holds other bytes or none.
        from_evidence: bool,
        /// The step that reads them, or `reports`.
        needed_by: String,
    },
    /// It runs another stage, or another version of the stage.
    Stage {
        /// The old one.
        old: String,
        /// The new one.
        new: String,
    },
    /// A param.
    Param(ParamChange),
    /// An environment variable. Its value may be a secret and is not known here.
    Variable {
        /// Its name.
        name: String,
        /// The change.
        change: VariableChange,
    },
    /// An input.
    Input {
        /// The port.
        port: String,
        /// The source in the pipeline; the old source if the input was removed.
        source: String,
        /// The old digest.
        old: Option<Digest>,
        /// The new digest.
        new: Option<Digest>,
        /// The files that differ, if it is a folder and they are known.
        files: Vec<FileChange>,
        /// The reason why its step ran again.
        because: Option<Upstream>,
    },
    /// The same key gave different bytes this time.
    Unsteady,
    /// The reason why the step can never run.
    Broken {
        /// As text.
        problem: String,
    },
}

/// The change of a declared environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VariableChange {
    /// It has another value.
    Changed,
    /// It was not set before.
    Set,
    /// It is no longer set.
    Unset,
    /// The step did not declare it before.
    Declared,
    /// The step no longer declares it.
    NoLongerDeclared,
}

/// The reason why the step of an input ran again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// That step.
    pub step: String,
    /// Its reasons; empty if they were reported before.
    pub causes: Vec<Cause>,
}

/// A file that differs between two trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// Its path within the input.
    pub path: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
}

/// Explains one step.
pub fn explain(pipeline: &Pipeline, workspace: &Workspace, plan: &Plan, node: NodeIndex) -> Explanation {
    Explainer { pipeline, workspace, plan, explained: BTreeSet::new() }.explain(node)
}

/// The differences between a step's key and that of an earlier execution; empty if its key is not known yet.
pub fn changes_since(
    pipeline: &Pipeline,
    workspace: &Workspace,
    plan: &Plan,
    node: NodeIndex,
    earlier: &RunRecord,
) -> Vec<Cause> {
    let Some(now) = &plan.of(node).key_text else { return Vec::new() };
    let explained = BTreeSet::from([pipeline.graph[node].name.clone()]);
    let differences = earlier.key_text.differences(now);
    Explainer { pipeline, workspace, plan, explained }.causes(
        &differences,
        &earlier.inputs,
        &plan.recorded_inputs(node),
    )
}
